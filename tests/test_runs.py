"""Runs on real Meta-World data, tiny: equal work is recognised, other work is not, and nothing is half done."""

import copy
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mtdiff
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import MTDiffError, TrainingFault
from mtdiff.recipe import load_recipe
from mtdiff.runs import Run, _split, data_folder

RECIPE = {
    "suite": {"name": "metaworld", "tasks": ["reach", "button-press"]},
    "data": {"name": "collected", "trajectories_per_task": 3, "prompts_per_task": 2},
    "representation": {"name": "actions", "horizon": 8},
    "conditioning": {
        "task": {"name": "trajectory_prompt", "length": 10, "hidden": [16]},
        "history": {"name": "history", "hidden": [16]},
        "return": {"name": "target_return", "hidden": [16]},
    },
    "backbone": {"name": "residual_mlp", "width": 16, "num_layers": 1},
    "scheduler": {"name": "ddpm", "num_train_timesteps": 50},
    "sampling": {"scheduler": {"name": "dpm_solver"}, "num_inference_steps": 3, "prompts_per_task": 2},
    "training": {
        "updates": 20, "batch_per_task": 4, "log_every": 5, "validate_every": 10, "checkpoint_every": 7,
        "validation": 0.3, "log_with": [],
    },
}  # fmt: skip


def recipe(**changes):
    """The recipe with `section__key=value` changed."""
    changed = copy.deepcopy(RECIPE)
    for place, value in changes.items():
        section, _, key = place.partition("__")
        if key:
            changed[section][key] = value
        else:
            changed[section] = value
    return changed


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def run(root):
    return mtdiff.train(recipe(), root=root, workers=1)


def files(folder):
    """Every file with its time of writing and its inode."""
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(folder.rglob("*")) if p.is_file()}


def weights(run):
    return {
        f"{part}.{name}": value
        for part in ("backbone", "conditioning")
        for name, value in load_file(run.pipeline / part / "diffusion_pytorch_model.safetensors").items()
    }


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_run_is_a_folder(run, root):
    assert run.folder.parent == root / "runs"
    assert {p.name for p in run.folder.iterdir()} == {
        "best", "checkpoints", "metrics.jsonl", "pipeline", "recipe.yaml", "run.json",
    }  # fmt: skip
    info, data = run.info, TrajectoryDataset.load(data_folder(run.recipe, root))
    demonstrations = TrajectoryDataset.load(data_folder(run.recipe, root), split="prompts")
    fingerprint = data.fingerprint + demonstrations.fingerprint
    assert run.complete
    assert run.folder.name == f"recipe-{info['hash']}"
    assert info["hash"] == load_recipe(recipe()).hash(fingerprint)
    assert info["data"] == {
        "folder": str(data_folder(run.recipe, root)),
        "fingerprint": fingerprint,
        "tasks": ["reach-v3", "button-press-v3"],
        "episodes": 6,
        "steps": data.num_steps,
    }
    assert set(info["versions"]) >= {"python", "mtdiff", "torch", "diffusers", "accelerate"}
    assert (info["processes"], info["mixed_precision"], info["updates"]) == (1, "no", 20)
    assert info["seconds"] > 0
    assert "cores" in info["hardware"]
    assert [row["update"] for row in run.metrics] == [5, 10, 15, 20]
    assert (info["loss"], info["val_loss"]) == (run.metrics[-1]["loss"], run.metrics[-1]["val_loss"])
    assert run.recipe.values == load_recipe(recipe()).values


@pytest.mark.slow
def test_the_saved_pipeline_plans(run):
    for source in (run.folder, run.pipeline):
        pipe = mtdiff.load(source)
        actions = pipe(prompt="reach-v3", history=np.zeros((1, 39)), generator=torch.Generator()).actions
        assert actions.shape == (1, 8, 4)
    assert load_recipe(run.pipeline / "recipe.yaml").values == run.recipe.values
    assert list(pipe.prompts) == ["button-press-v3", "reach-v3"]


@pytest.mark.slow
def test_equal_work_is_not_done_again(run, root):
    before = files(root)
    assert mtdiff.train(recipe(), root=root, workers=1) == run
    assert mtdiff.train(load_recipe(recipe()), root=root, resume=True) == run
    assert files(root) == before


@pytest.mark.slow
def test_other_sampling_is_put_into_the_saved_pipeline_without_training(run, root):
    before, trained = files(run.folder), weights(run)
    sampling = {"scheduler": None, "num_inference_steps": 7, "guidance_scale": 1.5, "prompts_per_task": 1}
    same = mtdiff.train(recipe(sampling=sampling, evaluation={"episodes_per_task": 3}), root=root, workers=1)
    assert same == run
    pipe = mtdiff.load(run.folder)
    assert (pipe.config.num_inference_steps, pipe.config.guidance_scale) == (7, 1.5)
    assert type(pipe.scheduler).__name__ == "DDPMScheduler"
    assert len(pipe.prompts["reach-v3"]) == 1
    assert equal(weights(run), trained)
    assert run.recipe.get("evaluation.episodes_per_task") == 3
    assert run.recipe.get("sampling.guidance_scale") == 1.5
    changed = {p.relative_to(run.folder).parts[0] for p, stamp in files(run.folder).items() if before.get(p) != stamp}
    assert changed == {"best", "pipeline", "recipe.yaml"}
    mtdiff.train(recipe(), root=root, workers=1)  # and back
    assert mtdiff.load(run.folder).config.num_inference_steps == 3
    assert equal(weights(run), trained)


@pytest.mark.slow
def test_what_changes_the_result_changes_the_hash(run, root):
    info = run.info

    def digest(fingerprint=info["data"]["fingerprint"], **changes):
        return load_recipe(recipe(**changes)).hash(fingerprint)

    assert digest() == info["hash"]
    assert digest(training__log_every=7, training__checkpoint_every=3, sampling__execute=1) == info["hash"]
    others = [
        digest(seed=1),
        digest(training__learning_rate=1e-3),
        digest(training__updates=21),
        digest(backbone__width=32),
        digest(conditioning__history={"name": "history", "length": 1}),
        digest(fingerprint="of other data"),
    ]
    assert len({info["hash"], *others}) == 7
    # For real: the same recipe but for one episode less is another dataset and another run.
    other = mtdiff.train(
        recipe(data__trajectories_per_task=2, training__updates=1, training__validation=0.0), root=root, workers=1
    )
    assert other.folder != run.folder
    assert other.info["data"]["fingerprint"] != info["data"]["fingerprint"]
    assert other.info["data"]["folder"] != info["data"]["folder"]
    assert "val_loss" not in other.info
    assert len(list((root / "data").iterdir())) == 2


def train_until_interrupted(root, changed):
    """Press Ctrl-C when the first checkpoint is there."""
    known = set((root / "runs").iterdir())

    def press():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for folder in set((root / "runs").iterdir()) - known:
                if (folder / "checkpoints" / "checkpoint-7").is_dir():
                    return os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return None

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        mtdiff.train(changed, root=root, workers=1)
    thread.join()
    (folder,) = set((root / "runs").iterdir()) - known
    return Run(folder)


@pytest.mark.slow
def test_an_interrupted_run_asks_to_be_resumed_or_restarted(run, root):
    long = recipe(training__updates=400)
    broken = train_until_interrupted(root, long)
    assert not broken.complete
    assert not broken.pipeline.exists()
    with pytest.raises(MTDiffError) as error:
        mtdiff.load(broken.folder)
    assert "this run has not finished training" in str(error.value)
    before = files(root)
    with pytest.raises(TrainingFault) as error:
        mtdiff.train(long, root=root, workers=1)
    assert str(error.value) == (
        f"{broken.folder} holds an interrupted training of this recipe. "
        "Go on with --resume, or begin anew with --restart"
    )
    assert files(root) == before

    resumed = mtdiff.train(long, root=root, workers=1, resume=True)
    assert resumed == broken
    assert resumed.complete
    trained = weights(resumed)
    metrics = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.metrics]

    begun = time.time_ns()
    anew = mtdiff.train(long, root=root, workers=1, restart=True)
    assert anew == broken
    assert min(stamp for stamp, _ in files(anew.folder).values()) > begun
    assert equal(weights(anew), trained)  # interrupted or not
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in anew.metrics] == metrics


@pytest.mark.slow
def test_a_run_killed_before_its_pipeline_was_saved_goes_on_from_there(run, root):
    trained = weights(run)
    info = run.info
    (run.folder / "run.json").write_text(json.dumps(info | {"complete": False}))
    (run.pipeline).rename(run.folder / "pipeline.partial")
    again = mtdiff.train(recipe(), root=root, workers=1, resume=True)
    assert again == run
    assert equal(weights(run), trained)
    assert not (run.folder / "pipeline.partial").exists()
    same = ("loss", "val_loss", "updates", "complete", "hash")
    assert {key: run.info[key] for key in same} == {key: info[key] for key in same}


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99])
def test_every_task_keeps_and_holds_out_episodes(dataset, share):
    learn, held_out = _split(dataset, share, seed=0)
    assert len(learn) + len(held_out) == len(dataset)
    for number, count in enumerate((5, 3)):
        kept = int((learn.task_index == number).sum())
        assert 1 <= kept <= count - 1
        assert count - kept == min(max(1, round(share * count)), count - 1)
    everything = {float(part[e].states[0, 0]) for part in (learn, held_out) for e in range(len(part))}
    assert len(everything) == len(dataset)  # none twice
    again = _split(dataset, share, seed=0)[1]
    assert again.fingerprint == held_out.fingerprint


def test_nothing_is_held_out_when_asked(dataset):
    assert _split(dataset, 0.0, seed=0) == (dataset, None)


def test_one_episode_is_too_few_to_hold_one_out(dataset):
    with pytest.raises(MTDiffError) as error:
        _split(dataset.subset([0, 1, 2]), 0.1, seed=0)
    assert str(error.value) == ("training.validation: task push-v3 has 1 episode, too few to hold one out; set it to 0")
