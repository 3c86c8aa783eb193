"""Two real processes, started by `accelerate launch`, do the work of one: training and evaluation."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from scale_worker import make
from small_training import interrupt, on_update
from test_runs import RECIPE, weights

import mtdiff
from mtdiff.errors import TrainingFault
from mtdiff.evaluation import Evaluation, RandomAgent, evaluate, merged
from mtdiff.findings import Findings
from mtdiff.reporting import evaluate_trained
from mtdiff.runs import Run
from mtdiff.training.checkpoints import MetricsFile
from mtdiff.world import join

pytestmark = pytest.mark.slow

# 12 to 20 updates of Adam. Gradients are sums over the batch, added up in another order; measured: 3e-8 to 6e-7.
TOLERANCE = 1e-5


def launch(*arguments, **more):
    """Two processes on the CPU; returns what both wrote."""
    options = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *options, "--main_process_port=0", *map(str, arguments)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | more,
        capture_output=True,
        text=True,
        timeout=300,
    )


def close(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a) < TOLERANCE


# the command line: a recipe


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Collected, trained and evaluated by two processes."""
    root = tmp_path_factory.mktemp("two")
    recipe = RECIPE | {
        "backbone": {"name": "gpt2", "width": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.0},
        "evaluation": {
            "episodes_per_task": 3,
            "max_steps": 20,
            "swapped_prompt": False,
            "demonstrator": False,
            "videos": False,
        },
    }
    (root / "small.yaml").write_text(yaml.safe_dump(recipe))
    done = launch("-m", "mtdiff", "demo", root / "small.yaml", "--output", root, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # one document, of the first process


def test_two_processes_train_what_one_does(two, tmp_path):
    run = Run(Path(two["run"]))
    assert run.complete
    assert run.info["processes"] == 2
    shutil.copytree(run.folder.parents[1] / "data", tmp_path / "data")
    one = mtdiff.train(run.folder.parents[1] / "small.yaml", root=tmp_path)
    assert one.folder.name == run.folder.name  # the number of processes is no part of the hash
    assert close(weights(one), weights(run))
    assert [row["update"] for row in run.metrics] == [row["update"] for row in one.metrics]
    for a, b in zip(one.metrics, run.metrics, strict=True):
        assert a["learning_rate"] == b["learning_rate"]
        assert {key: b[key] for key in ("loss", "val_loss") if key in b} == pytest.approx(
            {key: a[key] for key in ("loss", "val_loss") if key in a}, rel=1e-5
        )


def test_two_processes_evaluate_what_one_does(two):
    both = Findings.load(Path(two["findings"]).parent)
    findings, _ = evaluate_trained(two["run"], again=True, progress=False)
    assert both.result.settings == findings.result.settings
    one, shared = findings.result.episodes, both.result.episodes
    assert [(e.task, e.episode, e.seed, e.success_step, e.steps) for e in shared] == [
        (e.task, e.episode, e.seed, e.success_step, e.steps) for e in one
    ]
    # A plan for fewer environments at once is rounded differently. Measured over 60 steps: 7e-7 in the return.
    assert [e.total_reward for e in shared] == pytest.approx([e.total_reward for e in one], rel=1e-4)
    assert both.latency["during the evaluation"]["plans"] == 2 * findings.latency["during the evaluation"]["plans"]


# what else two processes must agree on


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What one process trains, before, and two, after."""
    folder = tmp_path_factory.mktemp("worker")
    for name, dropout in (("one's", 0.0), ("one's dropout", 0.1)):
        trainer = make(folder / name, network_dropout=dropout)
        on_update(trainer, 7, interrupt)
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    done = launch(Path(__file__).with_name("scale_worker.py"), folder)
    assert done.returncode == 0, done.stderr
    make(folder / "one").run()
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return [json.loads((folder / f"process-{number}.json").read_text()) for number in range(2)]


def state(folder):
    return load_file(folder / "checkpoints" / "checkpoint-12" / "model.safetensors")


def test_the_first_does_it_for_all_and_all_hear_of_an_error(found):
    for process in found:
        assert process["on main"] == 0
        assert process["together"] == [0, 10]
        assert process["main fails"] == ["DataError", "no data"]
        assert process["second fails"] == ["DataError", "no data here"]
        assert process["threads"] == 1


def test_a_loss_that_is_not_finite_in_one_process_ends_both(found, folder):
    for process in found:
        assert process["poison"] == [
            "TrainingFault",
            "the loss was not finite at update 1, in the windows of push-v3. Last good checkpoint: none yet. "
            "Lower training.learning_rate or training.max_grad_norm, or look for bad numbers in those tasks' data",
        ]
    assert not (folder / "poison" / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["straight", "accumulated"])
def test_any_cut_of_a_batch_gives_the_same(folder, name):
    assert close(state(folder / "one"), state(folder / name))
    one, other = (MetricsFile.read(folder / run / "metrics.jsonl") for run in ("one", name))
    for a, b in zip(one, other, strict=True):
        assert {**b, "seconds": 0} == pytest.approx({**a, "seconds": 0}, rel=1e-4)


def test_ctrl_c_in_one_process_stops_both_after_the_same_update(found, folder):
    for process in found:
        assert process["broken"] == ["KeyboardInterrupt", "stopped after update 4; a checkpoint is saved"]
    a, b = state(folder / "straight"), state(folder / "broken")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_another_number_of_processes_goes_on_to_the_same(found, folder):
    assert found[0]["one's"] == found[1]["one's"] == 12
    assert close(state(folder / "one"), state(folder / "one's"))
    make(folder / "to be resumed by one").run(resume=True)
    assert close(state(folder / "one"), state(folder / "to be resumed by one"))
    rates = [row["learning_rate"] for row in MetricsFile.read(folder / "one" / "metrics.jsonl")]
    for name in ("straight", "one's", "to be resumed by one"):
        assert [row["learning_rate"] for row in MetricsFile.read(folder / name / "metrics.jsonl")] == rates


def test_dropout_is_not_resumed_by_another_number_of_processes(found, folder):
    newest = folder / "one's dropout" / "checkpoints" / "checkpoint-7"
    for process in found:
        assert process["one's dropout"] == [
            "TrainingFault",
            f"{newest}: was trained by 1 processes and goes on with 1, got 2: this network has dropout, which every "
            "process draws for itself. Without dropout any number can go on",
        ]


# launchers that mean something else


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "WORLD_SIZE",
            "2",
            "2 processes were started, but no GPU was found, so that each would do all the work alone. "
            "On CPUs, set ACCELERATE_USE_CPU=true; docs/scale.md has whole commands",
        ),
        (
            "ACCELERATE_USE_FSDP",
            "true",
            "accelerate is set up for FSDP, but weights that are cut into pieces cannot be averaged and saved here. "
            "Keep them whole on every GPU: `accelerate launch --multi_gpu`, or `accelerate config` without FSDP",
        ),
        (
            "ACCELERATE_USE_DEEPSPEED",
            "true",
            "accelerate is set up for DeepSpeed, but weights that are cut into pieces cannot be averaged and saved "
            "here. Keep them whole on every GPU: `accelerate launch --multi_gpu`, or `accelerate config` without "
            "DeepSpeed",
        ),
    ],
)
def test_launchers_that_are_refused(monkeypatch, tmp_path, variable, value, message):
    join()
    monkeypatch.setenv(variable, value)
    with pytest.raises(TrainingFault) as error:
        mtdiff.train("quickstart", root=tmp_path)
    assert str(error.value) == message
    assert list(tmp_path.iterdir()) == []


def test_shares_of_an_evaluation_make_the_whole():
    from mtdiff.environments import MetaWorld

    suite = MetaWorld(tasks=["reach", "reach-wall"])
    settings = Evaluation(episodes_per_task=3, max_steps=3, slots=4, workers=1)
    agent = RandomAgent(suite.action_dim)
    whole = evaluate(agent, suite, settings=settings, progress=False)
    shares = [evaluate(agent, suite, settings=settings, progress=False, share=(i, 2)) for i in range(2)]
    assert [len(share.episodes) for share in shares] == [3, 3]
    assert merged(shares, suite.tasks).episodes == whole.episodes
    nothing = evaluate(agent, suite, settings=settings, progress=False, share=(6, 7))
    assert nothing.episodes == []
    assert merged([whole, nothing], suite.tasks).episodes == whole.episodes
