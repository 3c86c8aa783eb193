"""The verbs as a shell sees them: one JSON document on stdout, progress on stderr, exit codes, messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mtdiff.cli import app
from mtdiff.data.trajectories import TrajectoryDataset

# A part of the user's own, in a module beside the recipe: it must be found by every verb, in a new process each.
PART = '''
from mtdiff.conditioning.history import History
from mtdiff.registry import CONDITIONING


@CONDITIONING.register("my_history", runtime=("state_dim", "width"))
class MyHistory(History):
    """The last states.

    Args:
        length: how many.
        state_dim: O.
        width: C.
    """

    def __init__(self, *, length: int = 2, state_dim: int, width: int):
        super().__init__(length=length, hidden=(16,), state_dim=state_dim, width=width)
'''
RECIPE = """
imports: [my_parts]
suite: {name: metaworld, tasks: [reach, button-press]}
data: {name: collected, trajectories_per_task: 3, prompts_per_task: 2}
representation: {name: actions, horizon: 8}
conditioning:
  task: {name: trajectory_prompt, length: 10, hidden: [16]}
  history: {name: my_history}
backbone: {name: residual_mlp, width: 16, num_layers: 1}
sampling: {num_inference_steps: 3, prompts_per_task: 2}
training: {updates: 30, batch_per_task: 4, log_every: 10, validate_every: 10, validation: 0.3, log_with: []}
evaluation: {episodes_per_task: 2, max_steps: 60, videos: false}
"""


def environment() -> dict[str, str]:
    return os.environ | {"COLUMNS": "120", "OMP_NUM_THREADS": "1"}


def mtdiff(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mtdiff", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())


def here(*arguments: str) -> Result:
    """The same in this process and its working directory, for what ends at once."""
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})


def document(done: subprocess.CompletedProcess[str], status: int = 0) -> Any:
    """What was printed on stdout, which must be one JSON document and nothing else."""
    assert done.returncode == status, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's working directory."""
    made = tmp_path_factory.mktemp("work")
    (made / "my_parts.py").write_text(PART)
    (made / "tiny.yaml").write_text(RECIPE)
    return made


@pytest.fixture(scope="module")
def collected(folder: Path) -> subprocess.CompletedProcess[str]:
    return mtdiff(folder, "collect", "tiny.yaml", "--workers", "1", "--json")


@pytest.fixture(scope="module")
def trained(folder: Path, collected: Any) -> subprocess.CompletedProcess[str]:
    return mtdiff(folder, "train", "tiny.yaml", "--json")


@pytest.fixture(scope="module")
def evaluated(folder: Path, trained: Any) -> subprocess.CompletedProcess[str]:
    return mtdiff(folder, "evaluate", json.loads(trained.stdout)["run"], "--json")


@pytest.mark.slow
def test_collect(folder: Path, collected: Any) -> None:
    summary = document(collected)
    assert (summary["episodes"], summary["collected"], summary["prompts"]) == (6, 10, 4)
    assert [row["task"] for row in summary["tasks"]] == ["reach-v3", "button-press-v3"]
    assert "10/10" in collected.stderr, "progress belongs on stderr"
    assert len(TrajectoryDataset.load(folder / summary["folder"])) == 6


@pytest.mark.slow
def test_collecting_again_records_nothing_and_shows_a_table(folder: Path, collected: Any) -> None:
    done = mtdiff(folder, "collect", "tiny.yaml")
    assert done.returncode == 0
    assert re.search(r"^ reach-v3 +3 +\d+ +100% +\d+ +2 +\d+ $", done.stdout, re.MULTILINE), done.stdout
    summary = " ".join(done.stdout.split())
    assert f"6 episodes, {document(collected)['steps']} steps in outputs/data/metaworld-" in summary
    assert "(0 recorded now," in summary


@pytest.mark.slow
def test_train(folder: Path, trained: Any) -> None:
    said = document(trained)
    assert said["run"].startswith("outputs/runs/tiny-")
    assert (said["complete"], said["updates"]) == (True, 30)
    assert (folder / said["pipeline"] / "model_index.json").is_file()
    assert "train: 100%" in trained.stderr
    assert "30/30" in trained.stderr
    assert "collect" not in trained.stderr, "the data were there"


@pytest.mark.slow
def test_training_again_does_nothing(folder: Path, trained: Any) -> None:
    run = folder / document(trained)["run"]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    done = mtdiff(folder, "train", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert "train:" not in done.stderr
    assert re.match(r"already trained 30 updates in 0\.\d min: loss \d\.\d{4}, held-out loss \d\.\d{4}\n", done.stdout)
    assert f"next      mtdiff evaluate {run.relative_to(folder)}" in done.stdout
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


@pytest.mark.slow
def test_evaluate(folder: Path, evaluated: Any) -> None:
    found = document(evaluated)
    assert list(found["tasks"]) == ["reach-v3", "button-press-v3"]
    for row in found["tasks"].values():
        low, high = row["interval"]
        assert row["episodes"] == 2
        assert 0 <= low <= row["success"] <= high <= 1
    assert found["mean_success"] == sum(row["success"] for row in found["tasks"].values()) / 2
    assert found["no_video_reason"] == "not asked for (evaluation.videos: false)"
    assert "evaluate:" in evaluated.stderr
    assert "<html" in (folder / found["report"]).read_text()
    assert (folder / found["findings"]).is_file()


@pytest.mark.slow
def test_evaluating_again_reuses_the_findings_and_shows_a_table(folder: Path, evaluated: Any) -> None:
    found = document(evaluated)
    before = (folder / found["findings"]).stat().st_mtime_ns
    done = mtdiff(folder, "evaluate", str(Path(found["report"]).parent))
    assert done.returncode == 0, done.stderr
    assert "evaluate:" not in done.stderr
    assert (folder / found["findings"]).stat().st_mtime_ns == before
    for task, row in found["tasks"].items():
        low, high = row["interval"]
        shown = f"{task} {row['success']:.2f} ({row['successes']}/2) {low:.2f} to {high:.2f} {row['steps']:.0f}"
        assert shown in " ".join(done.stdout.split()), done.stdout
    assert re.search(rf"^ mean +{found['mean_success']:.2f} +\d\.\d\d to \d\.\d\d +$", done.stdout, re.MULTILINE)
    assert re.search(r"^one plan: p50 [\d.]+ ms, p95 [\d.]+ ms$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith(f"report: {found['report']}\n")


@pytest.mark.slow
def test_what_an_evaluation_cannot_change(folder: Path, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = here("evaluate", json.loads(trained.stdout)["run"], "backbone.width=32", "--json")
    message = (
        "command line: backbone.width=32: an evaluation can change suite, sampling, evaluation, got backbone. "
        "Anything else needs training"
    )
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["message"] == message
    assert done.stderr == message + "\n"


def test_an_unknown_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = here("evaluate", "outputs/runs/tinny")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        "outputs/runs/tinny: no such run or pipeline folder, and not a repository id like user/name\n"
    )


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint(folder: Path, collected: Any) -> None:
    longer = ["train", "tiny.yaml", "training.updates=1000000", "--json"]
    with (folder / "progress").open("w+") as progress:
        command = [sys.executable, "-m", "mtdiff", *longer]
        training = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=progress, text=True, env=environment()
        )
        until = time.monotonic() + 60
        while not re.search(r"train: .* [1-9]\d*/1000000", (folder / "progress").read_text()):
            assert training.poll() is None, (folder / "progress").read_text()
            assert time.monotonic() < until, "no update within a minute"
            time.sleep(0.1)
        training.send_signal(signal.SIGINT)
        printed, _ = training.communicate(timeout=60)
    assert training.returncode == 130
    error = json.loads(printed)["error"]
    assert error["type"] == "KeyboardInterrupt"
    stopped = re.fullmatch(r"stopped after update (\d+); a checkpoint is saved", error["message"])
    assert stopped
    (checkpoint,) = (folder / "outputs" / "runs").glob(f"tiny-*/checkpoints/checkpoint-{stopped[1]}")

    again = mtdiff(folder, *longer)
    run = checkpoint.parents[1].relative_to(folder)
    assert document(again, status=2)["error"]["message"] == (
        f"{run} holds an interrupted training of this recipe. Go on with --resume, or begin anew with --restart"
    )


def test_mistakes_are_listed_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = RECIPE.replace("residual_mlp", "residual_mlq").replace("updates: 30", "updates: 0")
    Path("wrong.yaml").write_text(wrong.replace("imports: [my_parts]\n", "").replace("my_history", "history"))
    done = here("train", "wrong.yaml", "--json")
    assert done.exit_code == 2
    problems = json.loads(done.stdout)["error"]["problems"]
    assert [(p["file"], p["line"], p["key"]) for p in problems] == [
        ("wrong.yaml", 8, "backbone.name"),
        ("wrong.yaml", 10, "training.updates"),
    ]
    assert problems[0]["message"].endswith("Did you mean 'residual_mlp'?")
    assert len(done.stderr.splitlines()) == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "wrong.yaml"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("colect", "quickstart"), "No such command 'colect'"),
        (("train",), "Missing argument 'RECIPE'"),
        (("train", "quickstart", "--workers", "0"), "Invalid value for '--workers'"),
        (("train", "quickstar"), "Did you mean 'quickstart'?"),
    ],
)
def test_wrong_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = here(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
