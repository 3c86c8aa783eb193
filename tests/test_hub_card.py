"""The card of a pushed pipeline says what was measured, in words, in tables, and as the Hub reads it."""

import io
import json
import re
import shlex
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import EvalResult
from test_train_init import recipe
from typer.main import get_command
from typer.testing import CliRunner

import mtdiff
from mtdiff.cli import app
from mtdiff.compose import compose
from mtdiff.evaluation import Evaluation, EvaluationResult, Video
from mtdiff.evaluation.results import Episode
from mtdiff.evaluation.statistics import wilson
from mtdiff.findings import Findings
from mtdiff.recipe import load_recipe
from mtdiff.runs import Run
from mtdiff.sharing.card import model_card
from mtdiff.sharing.example import another_solver, use
from mtdiff.sharing.push import push
from mtdiff.sharing.subject import Subject, of_pipeline, of_source

pytestmark = pytest.mark.slow  # together they take a quarter of a minute

WINS = {"reach-v3": 9, "push-v3": 2}
LATENCY = {"one environment": {"plans": 50, "batch": 1.0, "p50": 0.0042, "p95": 0.0061}, "during the evaluation": None}


def result(wins, **changes):
    episodes = [
        Episode(task=task, episode=e, seed=e, success=e < count, success_step=5 if e < count else None, steps=20,
                total_reward=float(e))
        for task, count in wins.items() for e in range(10)
    ]  # fmt: skip
    settings = vars(Evaluation(episodes_per_task=10))
    return EvaluationResult(episodes=episodes, settings=settings, suite={"name": "metaworld"}, **changes)


def found(run, name, sampling, wins=WINS, **changes):
    made = {
        "result": result(wins), "swapped": None, "demonstrator": None, "latency": LATENCY, "versions": {"torch": "2"},
        "hardware": "two cores", "no_video_reason": None, "sampling": sampling,
    }  # fmt: skip
    Findings(folder=run.folder / "evaluation" / name, **made | changes).save()


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset, prompts):
    """A planner, evaluated as it samples by default and with another solver."""
    made = mtdiff.train(recipe(), dataset=dataset, prompts=prompts, root=tmp_path_factory.mktemp("outputs"))
    pipe = mtdiff.load(made.folder)
    film = Video(mp4=b"film", success=True, steps=9, total_reward=1.0)
    swapped = result({"reach-v3": 1, "push-v3": 0})
    found(made, "aaa", pipe.sampling, videos={"reach-v3": film}, swapped=swapped)
    fast = pipe.sampling | {"scheduler": "DPMSolverMultistepScheduler (dpmsolver++)", "num_inference_steps": 2}
    quick = {**LATENCY, "one environment": LATENCY["one environment"] | {"p50": 0.0021}}
    found(made, "bbb", fast, {"reach-v3": 8, "push-v3": 3}, latency=quick)
    return made


@pytest.fixture(scope="module")
def text(run):
    return model_card(of_source(run.folder), "user/tiny")


def sections(text):
    return dict(re.findall(r"^## (.+?)\n+(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))


def test_metadata_as_the_hub_reads_them(text):
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("mtdiff", "reinforcement-learning", None)
    assert data.tags == ["mtdiff", "diffusion", "offline-rl", "multi-task", "planner", "offline"]
    assert data.model_name == "tiny" and data.metrics == ["success_rate"]
    first, second, mean = data.eval_results
    low, high = wilson(9, 10)
    assert first == EvalResult(
        task_type="reinforcement-learning", task_name="reach-v3", dataset_type="metaworld",
        dataset_name="metaworld reach-v3", dataset_config="reach-v3", metric_type="success_rate",
        metric_name="success rate", metric_value=0.9,
        metric_args={"episodes": 10, "interval_95": [round(low, 4), round(high, 4)]},
    )  # fmt: skip
    assert (second.dataset_config, second.metric_value, mean.metric_value) == ("push-v3", 0.2, 0.55)
    assert ModelCard(str(ModelCard(text))).data.to_dict() == data.to_dict()


def test_what_was_measured_stands_in_tables(text):
    said = sections(text)
    low, high = wilson(2, 10)
    assert f"| push-v3 | 0.20 | {low:.2f} to {high:.2f} | 10 |" in said["Success"]
    assert "| **mean** | **0.55** |" in said["Success"]
    assert "Told the next task instead of its own, the planner has a mean success of 0.05 (" in said["Success"]
    assert "another seed of training may lie outside" in said["Success"]
    assert '/user/tiny/resolve/main/evaluation/aaa/reach-v3.mp4"' in said["Success"]
    assert "| one environment | 1 | 4.2 ms | 6.1 ms |" in said["Speed"]
    assert "during the evaluation" not in said["Speed"], "which was not timed"
    table = [line for line in said["Schedulers and timesteps"].splitlines() if line.startswith("|")]
    assert [re.sub(r"\| 0\.\d\d to 0\.\d\d \|", "|", line) for line in table[2:]] == [
        "| DDPMScheduler | 3 | 0.55 | 4.2 |",
        "| DPMSolverMultistepScheduler (dpmsolver++) | 2 | 0.55 | 2.1 |",
    ]
    assert "It failed in more than half of the episodes of push-v3." in said["Limits"]
    assert "Swapped prompt: the same episodes while the planner is shown the next task's" in said["Limits"]
    assert "| backbone | `ResidualMLPBackbone` | 4,568 |" in said["Parts"]
    assert "task by `TrajectoryPrompt`" in said["Parts"]
    assert "Trained for 4 updates" in said["Training"] and "8 episodes (84 steps) of 2 tasks" in said["Training"]
    assert "mtdiff train RECIPE --init user/tiny" in said["Reproduce"]
    assert "None is stated" in said["License"] and "@inproceedings{he2023diffusion" in said["Citation"]


def test_what_was_not_measured_is_not_shown(run, planner, text):
    said = sections(model_card(Subject(pipeline=planner), "user/x"))
    assert said["Success"].strip() == (
        "**Not measured.** No evaluation of these weights was at hand when they were pushed."
    )
    assert not {"Speed", "Schedulers and timesteps", "Reproduce"} & set(said)
    assert "Nothing is known of how it was trained" in said["Training"]
    # Evaluated, but not as it samples now.
    pipe = mtdiff.load(run.folder)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    subject = of_pipeline(pipe)
    assert subject.findings == [] and subject.info["hash"] == run.info["hash"]
    assert "**Not measured.**" in model_card(subject, "user/x")
    same = mtdiff.load(run.folder)
    assert [one.folder.name for one in of_pipeline(same).findings] == ["aaa", "bbb"]
    # One alone makes no table of solvers, and other episodes do not go into it.
    first, second = of_source(run.folder).findings
    one = replace(of_source(run.folder), findings=[first])
    assert "Schedulers and timesteps" not in sections(model_card(one, "user/x"))
    other = replace(second, result=replace(second.result, settings=second.result.settings | {"seed": 9}))
    assert "Schedulers and timesteps" not in sections(model_card(replace(one, findings=[first, other]), "user/x"))


def test_returns_where_there_is_no_success(run):
    subject = of_source(run.folder)
    first = subject.findings[0]
    returns = replace(first, result=replace(first.result, measure="return"), swapped=None)
    text = model_card(replace(subject, findings=[returns]), "user/x")
    assert "| reach-v3 | 4.5 |" in text and "| **mean** | **4.5** |" in text
    assert {row.metric_type for row in ModelCard(text).data.eval_results} == {"mean_reward"}


def test_data_of_mtdiff_give_a_license_and_say_how_they_were_collected(run, tmp_path):
    made = load_recipe({"suite": {"name": "metaworld", "tasks": ["reach"]}})
    folder = tmp_path / "run"
    (folder / "pipeline").mkdir(parents=True)
    for path in run.pipeline.rglob("*"):
        target = folder / "pipeline" / path.relative_to(run.pipeline)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    (folder / "pipeline" / "checksums.json").unlink()
    made.save(folder / "pipeline" / "recipe.yaml")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text("# d\n\n## Where it comes from\n\nFrom *experts*.\n\n## Tasks\n\nx\n")
    info = run.info
    info["data"]["folder"] = str(tmp_path / "data")
    (folder / "run.json").write_text(json.dumps(info))
    assert Run(folder).complete
    text = model_card(of_source(folder), "user/x")
    assert "**Data.** From *experts*." in text and ModelCard(text).data.license == "mit"
    assert "mtdiff train hub:user/x    #" in text
    assert ModelCard(model_card(of_source(folder, license="cc-by-4.0"), "user/x")).data.license == "cc-by-4.0"
    assert str(tmp_path) not in text


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_lines_on_a_pushed_card_run_as_they_stand(hub, run):
    push(run.folder, "user/tiny")
    example, solver = blocks(ModelCard.load("user/tiny").content)
    assert len([line for line in example.splitlines() if line]) <= 10
    names = {}
    with redirect_stdout(io.StringIO()) as printed:
        exec(example, names)
        assert type(names["pipe"].scheduler).__name__ == "DDPMScheduler"
        exec(solver, names)
    assert printed.getvalue().startswith("torch.Size([1, 4, 2]) tensor([")
    assert type(names["pipe"].scheduler) is DPMSolverMultistepScheduler
    names["pipe"](prompt="push-v3", history=np.ones((1, 5)))
    assert hub.model("user/tiny").tree()["evaluation/aaa/reach-v3.mp4"] == b"film"
    assert "evaluation/bbb/findings.json" in hub.model("user/tiny").tree()


@pytest.mark.parametrize(
    "conditioning",
    [
        {"task": {"name": "one_hot"}, "history": {"name": "history", "length": 2, "hidden": [8]}},
        {"history": {"name": "history", "length": 2, "hidden": [8]}},
        {"task": {"name": "trajectory_prompt", "length": 4, "hidden": [8]}, "return": {"name": "target_return"}},
        {"task": {"name": "one_hot"}},
    ],
    ids=["number", "history", "prompt and return", "synthesizer"],
)
def test_the_lines_fit_every_kind_of_pipeline(conditioning, dataset, prompts, tmp_path, request):
    writes = "synthesizer" in request.node.name
    changes = {"conditioning": conditioning}
    if writes:
        changes |= {
            "extends": "presets/synthesizer", "representation": {"name": "transitions"}, "sampling": {},
            "conditioning": conditioning | {"history": None, "return": None},
        }  # fmt: skip
    made = recipe(**changes)
    if writes:
        del made["representation"]
    pipe, _ = compose(load_recipe(made, ["data=given"]).values, dataset, prompts)
    pipe.save_pretrained(tmp_path / "p")
    code = use(pipe, str(tmp_path / "p"))
    names = {}
    with redirect_stdout(io.StringIO()) as printed:
        exec(code + another_solver(), names)
    assert printed.getvalue().startswith("torch.Size(["), code
    assert torch.is_tensor(names["made"].states if writes else names["plan"])


def test_the_lines_of_the_tutorial_run(hub, run, tmp_path, monkeypatch):
    """Those that talk to a Hub, which the test of the other lines leaves out."""
    page = (Path(__file__).parents[1] / "docs/tutorials/sharing.md").read_text()
    kept = re.findall(r"^% not run: it needs an account[^\n]*\n```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/demo").symlink_to(run.folder)
    verbs, names = [], {}
    for language, code in kept:
        if language == "python":
            exec(code, names)
            continue
        for line in code.splitlines():
            words = shlex.split(line)[1:]
            verbs.append(words[0])
            if words[:2] == ["push", "outputs/demo"]:
                done = CliRunner().invoke(app, words)
                assert done.exit_code == 0, done.stderr
            options = get_command(app).commands[words[0]].params
            assert {word for word in words if word.startswith("-")} <= {name for one in options for name in one.opts}
    assert verbs == ["push"] * 3 + ["evaluate", "train", "synthesize", "push", "train"]
    assert type(names["pipe"].scheduler) is DPMSolverMultistepScheduler
    assert {"main", "more-data"} <= hub.model("user/my-planner").branches.keys()
