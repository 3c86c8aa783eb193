"""`mtdiff synthesize`: the same data whatever stops it, an ordinary dataset, and mistakes told before any work."""

from __future__ import annotations

import hashlib
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fault_server import contents
from test_synthesizer import build, values, walk
from typer.testing import CliRunner

import mtdiff
from mtdiff import synthesis
from mtdiff.cli import app
from mtdiff.compose import compose
from mtdiff.data import shards
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError, MTDiffError, RecipeError
from mtdiff.pipelines import Prompt
from mtdiff.synthesis import synthesize

T = 5  # transitions of a sample: a horizon of 6 without the last, whose next state nobody knows
TASKS = ["left", "right"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    build({"name": "residual_mlp"}, next_states="none").save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "TRANSITIONS_PER_SHARD", 200 * T)


def make(model: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    arguments = {"tasks": TASKS, "transitions": 2203, "folder": folder, "progress": False}
    return synthesize(model, **{**arguments, **changes})


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder that nothing disturbed, and its summary."""
    folder = tmp_path_factory.mktemp("whole") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "TRANSITIONS_PER_SHARD", 200 * T)
        return folder, make(model, folder)


def assert_close(a: Path, b: Path) -> None:
    """The same samples, but for rounding."""
    one, other = TrajectoryDataset.load(a), TrajectoryDataset.load(b)
    assert one.labels == other.labels and np.array_equal(one.task_index, other.task_index)
    for name in ("states", "actions", "rewards"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-4)


def said(kind: type[MTDiffError], *arguments: Any, **changes: Any) -> str:
    with pytest.raises(kind) as refused:
        make(*arguments, **changes)
    return str(refused.value)


def test_it_is_an_ordinary_dataset_with_as_many_transitions_as_asked(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = whole
    data = TrajectoryDataset.load(folder)
    samples = 441  # 2203 / 5, rounded up
    assert [data.tasks, len(data), data.num_steps] == [TASKS, 2 * samples, 2 * samples * T]
    assert (data.lengths == T).all() and data.truncated.all() and not data.terminated.any() and not data.success.any()
    assert sorted(path.name for path in folder.glob("data/*")) == [
        f"{task}-0000{number}.parquet" for task in TASKS for number in range(3)
    ]
    assert data.fingerprint == summary["fingerprint"]
    rows = [{key: row[key] for key in ("task", "mean_return")} for row in data.summary()]
    assert summary["tasks"] == [
        {**row, "samples": samples, "transitions": samples * T, "mean_return": pytest.approx(row["mean_return"]),
         "prompts": 2} for row in rows
    ]  # fmt: skip
    assert [summary[key] for key in ("transitions", "samples", "asked")] == [2 * samples * T, 2 * samples, 2203]
    assert [summary[key] for key in ("synthesized", "transitions_per_sample", "processes")] == [4410, T, 1]
    assert summary["transitions_per_second"] > 0
    assert data.transitions()["truncated"].sum() == 2 * samples


def test_a_sample_is_what_the_pipeline_draws_from_the_shards_own_noise(
    model: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    pipe, data = mtdiff.load(model), shards.read_shard(whole[0] / "data" / "right-00001.parquet")
    assert data.labels["prompt"] == [0] * 100 + [1] * 100, "both prompts, half of the shard each"
    digest = hashlib.sha256(json.dumps([0, "right", 1]).encode()).digest()
    noise = torch.Generator().manual_seed(int.from_bytes(digest[16:20]))
    for e in range(len(data)):
        found = pipe(prompt=pipe.prompts["right"][data.labels["prompt"][e]], generator=noise)
        for name in ("states", "actions", "rewards"):
            expected = getattr(found, name)[0].numpy()
            np.testing.assert_allclose(getattr(data[e], name), expected, rtol=1e-4, atol=1e-4)
    other = shards.read_shard(whole[0] / "data" / "right-00000.parquet")
    assert not np.isclose(other.states, data.states).all(1).any(), "another shard, other noise"


@pytest.mark.parametrize("batch", [1, 7, 4096])
def test_samples_do_not_depend_on_the_batch(
    model: Path, whole: tuple[Path, dict[str, Any]], tmp_path: Path, batch: int
) -> None:
    make(model, tmp_path / "data", batch=batch)
    assert_close(tmp_path / "data", whole[0])


def test_another_seed_is_another_dataset(model: Path, whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    make(model, tmp_path / "data", seed=1)
    one, other = TrajectoryDataset.load(whole[0]), TrajectoryDataset.load(tmp_path / "data")
    assert not np.isclose(one.states[:, :1], other.states[:, :1]).all()


def test_ctrl_c_keeps_finished_shards_and_the_same_call_goes_on(
    model: Path, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = tmp_path / "data", shards.write_shard
    done: list[Path] = []

    def interrupted(path: Path, episodes: Any) -> None:
        if len(done) == 4:
            raise KeyboardInterrupt
        write(path, episodes)
        done.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(model, folder)
    assert sorted(folder.rglob("*.parquet")) == sorted(done)
    with pytest.raises(DataError, match="Write it to its end with the same `mtdiff synthesize`.$"):
        TrajectoryDataset.load(folder)
    before = {path: path.stat().st_ino for path in done}
    assert make(model, folder)["synthesized"] == (441 - 400 + 200) * T
    assert contents(folder) == contents(whole[0])
    assert {path: path.stat().st_ino for path in done} == before


def test_missing_and_damaged_shards_are_made_again_bit_for_bit_and_a_finished_folder_is_left_alone(
    model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    summary = make(model, folder)
    expected, times = contents(folder), {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = make(model, folder)
    assert (again["synthesized"], again["transitions_per_second"]) == (0, None)
    changing = ("synthesized", "seconds", "transitions_per_second")
    assert all(again[key] == value for key, value in summary.items() if key not in changing)
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (folder / "data" / "left-00002.parquet").unlink()
    damaged = folder / "data" / "right-00000.parquet"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DataError, match="-00002.parquet: is missing. Synthesize again into this folder to mend it.$"):
        TrajectoryDataset.load(folder)
    assert make(model, folder)["synthesized"] == (41 + 200) * T
    assert contents(folder) == expected


def test_no_more_than_one_shard_is_in_memory(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts those that are alive whenever one is written; tests/test_split_summary.py does when one is read."""
    made: list[weakref.ref[Any]] = []
    alive, write = [], shards.write_shard

    def writing(path: Path, episodes: list[Any]) -> None:
        made.append(weakref.ref(episodes[0]))
        alive.append(sum(one() is not None for one in made))
        write(path, episodes)

    monkeypatch.setattr(shards, "write_shard", writing)
    make(model, tmp_path / "data")
    assert alive == [1] * 6


def test_the_card_says_that_the_data_are_synthetic_and_how_they_were_made(
    model: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    card = (whole[0] / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["pretty_name"] == "own data trajectories (synthetic)" and "synthetic" in front["tags"]
    assert "**These data are synthetic: no environment made them.**" in card
    assert "mtdiff synthesize SOURCE --task left --task right --transitions 2203 --seed 0 --out FOLDER" in card
    claim = json.loads((whole[0] / "synthesis.json").read_text())
    assert claim["generator"]["source"] == str(model) and str(model) not in card
    for words in (
        claim["generator"]["content"], "name: small", "seed: 0", "num_inference_steps: 4", "name: DDPMScheduler",
        f"| left | 2 | pipeline | `{claim['prompts']['left']['digest'][:16]}` |", "no step says it",
    ):  # fmt: skip
        assert words in card, words
    assert TrajectoryDataset.load(whole[0]).metadata["data"]["sampling"] == claim["sampling"]


def test_a_folder_of_something_else_is_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    make(model, folder, transitions=10)
    expected = contents(folder)
    start, end = f"{folder}: was synthesized with other settings: ", ". Choose another folder or remove this one."
    assert said(DataError, model, folder, transitions=11, seed=3) == (
        f"{start}transitions is 10 there and 11 now; seed is 0 there and 3 now{end}"
    )
    assert said(DataError, model, folder, transitions=10, overrides=["sampling.temperature=0.5"]) == (
        f"{start}sampling.temperature is 1.0 there and 0.5 now{end}"
    )
    other = build({"name": "residual_mlp"})
    next(other.backbone.parameters()).data.flatten()[0] += 1
    other.save_pretrained(tmp_path / "other")
    assert said(DataError, tmp_path / "other", folder, transitions=10).startswith(f"{start}generator.content is ")
    assert contents(folder) == expected
    walk(0).save(tmp_path / "real")
    assert said(DataError, model, tmp_path / "real") == (
        f"{tmp_path / 'real'}: holds something that was not synthesized here (README.md); choose another folder."
    )
    (tmp_path / "file").write_text("")
    assert said(DataError, model, tmp_path / "file") == f"{tmp_path / 'file'}: is a file; choose a folder."


def test_mistakes_are_told_before_any_work(model: Path, tmp_path: Path, planner: Any) -> None:
    planner.save_pretrained(tmp_path / "planner")
    allowed = "Allowed: initial_temperature, num_inference_steps, scheduler, temperature"
    for kind, source, changes, message in (
        (MTDiffError, tmp_path / "planner", {}, f"{tmp_path / 'planner'}: is a planner, and only a synthesizer writes "
            f"data; `mtdiff evaluate {tmp_path / 'planner'}` lets it act. Train a synthesizer with a recipe that "
            "extends presets/synthesizer, such as `mtdiff train metaworld/synthesizer_mt10`"),
        (DataError, model, {"transitions": 0}, "transitions: must be at least 1, got 0."),
        (DataError, model, {"batch": 0}, "batch: must be at least 1, got 0."),
        (DataError, model, {"tasks": []}, "task: name at least one task to synthesize."),
        (DataError, model, {"tasks": ["left", "left"]}, "task: left is named twice."),
        (DataError, model, {"tasks": ["../up"]}, "task: a name is a part of a file's name, so it cannot be '../up'."),
        (DataError, model, {"tasks": ["rihgt"]}, "task: this synthesizer has no prompt for rihgt; it has left, right. "
            "Did you mean 'right'? Show it one with --prompt rihgt=FILE, which `mtdiff prompt make` writes."),
        (DataError, model, {"prompts": {"up": ["x"]}}, "prompt: unknown task 'up'. Allowed: left, right. Add it with "
            "--task up."),
        (RecipeError, model, {"overrides": ["sampling.execute=3"]}, "command line: sampling.execute: a synthesizer is "
            f"not sampled with it. {allowed}"),
        (RecipeError, model, {"overrides": ["sampling.num_inference_steps=21"]}, "command line: "
            "sampling.num_inference_steps: must be at most scheduler.num_train_timesteps=20, got 21"),
        (MTDiffError, model, {"overrides": ["seed=3"]}, "command line: seed=3: a synthesis can change sampling, got "
            "seed. Anything else needs training"),
    ):  # fmt: skip
        assert said(kind, source, tmp_path / "out", **changes) == message
    assert "command line: sampling.temprature: sampling takes no 'temprature'. Allowed: " in said(
        RecipeError, model, tmp_path / "out", overrides=["sampling.temprature=1"]
    )
    assert not (tmp_path / "out").exists()


def test_prompt_files_make_tasks_possible_that_were_never_trained(model: Path, tmp_path: Path) -> None:
    def prompt(name: str, steps: int = 3, width: int = 3) -> list[str]:
        Prompt(states=torch.ones(steps, width), actions=torch.full((steps, 1), 0.5)).save(tmp_path / name)
        return [str(tmp_path / name)]

    mine = {"tasks": ["up"], "transitions": 30}
    summary = make(model, tmp_path / "data", **mine, prompts={"up": prompt("good")})
    assert TrajectoryDataset.load(tmp_path / "data").tasks == ["up"] and summary["tasks"][0]["prompts"] == 1
    assert "| up | 1 | files | " in (tmp_path / "data" / "README.md").read_text()
    for steps, width, message in (
        (4, 3, "has 4 steps, and this synthesizer reads prompts of 3. Make it with --length 3."),
        (3, 2, "states and actions should have 3 and 1 numbers, as those that this synthesizer was trained on, got 2 "
            "and 1."),
    ):  # fmt: skip
        files = prompt("bad", steps, width)
        assert said(DataError, model, tmp_path / "out", **mine, prompts={"up": files}) == f"{files[0]}: {message}"


def test_a_synthesizer_that_is_told_a_number_writes_what_it_was_trained_on(tmp_path: Path) -> None:
    recipe = {**values({"name": "residual_mlp"}, next_states="none"), "conditioning": {"task": {"name": "one_hot"}}}
    compose(recipe, walk(0), None)[0].save_pretrained(tmp_path / "model")
    summary = make(tmp_path / "model", tmp_path / "data", transitions=1)
    assert [row["transitions"] for row in summary["tasks"]] == [T, T] and summary["tasks"][0]["prompts"] == 0
    assert "No prompt was shown" in (tmp_path / "data" / "README.md").read_text()
    message = "is told the task by its number and was not trained on up; it knows left, right."
    assert said(DataError, tmp_path / "model", tmp_path / "out", tasks=["up"]) == f"task: this synthesizer {message}"


def test_the_verb_prints_a_table_or_one_document(model: Path, tmp_path: Path) -> None:
    command = ["synthesize", str(model), "--task", "left", "--transitions", "12", "--out", str(tmp_path / "data")]
    done = CliRunner().invoke(app, [*command, "sampling.num_inference_steps=2"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.stderr
    assert f"15 transitions in {tmp_path / 'data'} (15 made now, " in done.stdout
    assert done.stdout.endswith("12 a task were asked for, in whole samples of 5\n")
    document = json.loads(CliRunner().invoke(app, [*command, "sampling.num_inference_steps=2", "--json"]).stdout)
    assert (document["transitions"], document["synthesized"], document["sampling"]["num_inference_steps"]) == (15, 0, 2)
    done = CliRunner().invoke(app, [*command[:-4], "--transitions", "0", "--out", str(tmp_path / "other")])
    assert (done.exit_code, done.stderr) == (2, "transitions: must be at least 1, got 0.\n")
