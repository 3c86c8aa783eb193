"""Data of others: dataset folders, the authors' `.npz` layout; read once, refused where they do not fit."""

import json
import os
import shutil

import numpy as np
import pytest

from mtdiff.data.importing import read_once
from mtdiff.data.sources.folder import Folder
from mtdiff.data.sources.given import Given
from mtdiff.data.sources.npz import Npz
from mtdiff.data.sources.source import reads
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments.metaworld import MetaWorld
from mtdiff.environments.offline import Offline
from mtdiff.errors import DataError, RecipeError
from mtdiff.recipe import load_recipe
from mtdiff.registry import DATA
from mtdiff.run_data import collect_data, data_folder, load_data

REACH, PUSH = "reach-v3", "push-v3"
SUITE = {"name": "offline", "tasks": [REACH, PUSH], "state_dim": 5, "action_dim": 2}


def suite(**changes):
    return Offline(**{key: value for key, value in (SUITE | changes).items() if key != "name"})


def write_episode(path, seed, *, steps=6, beyond=0, reward=None):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(steps + 1, 5)).astype(np.float32)
    actions = np.tanh(rng.normal(size=(steps, 2))).astype(np.float32)
    actions.flat[:beyond] = 3.0
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path, observations=states[:-1], actions=actions, next_observations=states[1:],
        rewards=np.full((steps, 1), seed if reward is None else reward), terminals=np.arange(steps) == steps - 1,
    )  # fmt: skip
    return states, actions


@pytest.fixture
def layout(tmp_path):
    """Twelve episodes of reach as the authors have them, three of push as HarmoDT has them."""
    root = tmp_path / "theirs"
    for number in range(12):
        write_episode(root / "reach-v2" / "run-7" / "dataset" / f"{number}.npz", number, beyond=number % 2)
    for number in range(3):
        write_episode(root / "push-v3" / f"{number}.npz", 100 - number)
    return root


def test_the_layout_of_the_authors(layout):
    parts = Npz(path=str(layout), prompts_per_task=1, prompt_min_steps=5).read(suite())
    data, prompts = parts["trajectories"], parts["prompts"]
    assert (data.tasks, len(data), len(prompts)) == ([REACH, PUSH], 13, 2)
    # By number, not by name; the episodes of the highest return are held out.
    assert [label.split("/")[-1] for label in data.labels["file"][:11]] == [f"{n}.npz" for n in range(11)]
    assert prompts.labels["file"] == ["reach-v2/run-7/dataset/11.npz", "push-v3/0.npz"]
    assert sum(data.labels["clipped"]) == 5
    assert np.abs(data.actions).max() == 1
    states, actions = write_episode(layout / "again.npz", 3, beyond=1)
    np.testing.assert_array_equal(data[3].states, states)
    np.testing.assert_array_equal(data[3].actions, np.clip(actions, -1, 1))
    assert not data.terminated.any() and data.truncated.all()
    first = Npz(path=str(layout), episodes_per_task=3, prompts_per_task=0).read(suite())
    assert first.keys() == {"trajectories"}
    assert [label.split("/")[-1] for label in first["trajectories"].labels["file"]] == [
        f"{n}.npz" for n in range(3)
    ] * 2
    one = Npz(path=str(layout), tasks={PUSH: "reach-v2/run-7"}, prompts_per_task=0).read(suite())
    assert (one["trajectories"].tasks, len(one["trajectories"])) == ([PUSH], 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "{}/no"}, "data.path: there is no folder {}/no."),
        ({"tasks": {"pusch": "x"}}, "data.tasks: unknown task 'pusch'. Allowed: reach-v3, push-v3, soccer-v3. "
         "Did you mean 'push-v3'?"),
        ({"tasks": {PUSH: "push-v2"}}, "data.tasks.push-v3: unknown folder 'push-v2'. Allowed: push-v3, reach-v2. "
         "Did you mean 'push-v3'?"),
        ({}, "{}: has no folder for soccer-v3; it has push-v3, reach-v2. Leave tasks out of suite.tasks, or say under "
         "data.tasks which folder is whose."),
        ({"tasks": {PUSH: "push-v3"}, "prompts_per_task": 3, "prompt_min_steps": 2},
         "data.prompts_per_task: 3 of the 3 episodes of task push-v3 should be held out as prompts, and 3 have "
         "data.prompt_min_steps=2 steps. Lower one of the two, or say under data.prompts where demonstrations are."),
    ],
)  # fmt: skip
def test_a_layout_that_is_not_there(layout, arguments, message):
    arguments = {"path": "{}"} | arguments
    source = Npz(**arguments | {"path": arguments["path"].format(layout)})
    with pytest.raises(DataError) as caught:
        source.read(suite(tasks=[REACH, PUSH, "soccer-v3"]))
    assert str(caught.value) == message.format(layout)


def test_folders_that_hold_something_else(layout):
    source = Npz(path=str(layout), prompts_per_task=0)
    write_episode(layout / "reach-v2" / "run-8" / "dataset" / "0.npz", 0)
    with pytest.raises(DataError) as caught:
        source.read(suite())
    assert str(caught.value) == (
        f"{layout}/reach-v2: holds several runs, run-7, run-8. Name the one to read, as a folder of data.tasks."
    )
    shutil.rmtree(layout / "reach-v2" / "run-8")
    (layout / "push-v3" / "2.npz").rename(layout / "push-v3" / "two.npz")
    with pytest.raises(DataError, match=r"push-v3: episodes should be called <number>.npz, got two.npz.$"):
        source.read(suite())


def test_data_of_another_suite_are_refused(layout, tmp_path, dataset):
    dataset.save(tmp_path / "d")
    with pytest.raises(DataError) as caught:
        Folder(path=str(tmp_path / "d"), prompts_per_task=0).read(MetaWorld(tasks=["reach", "push"]))
    assert str(caught.value) == (
        f"{tmp_path}/d: states and actions should have 39 and 4 numbers, as those of suite 'metaworld' have, "
        "got 5 and 2. These are the data of another suite."
    )
    recipe = load_recipe(
        {"suite": SUITE | {"tasks": ["rech-v3"]}, "data": {"name": "folder", "path": str(tmp_path / "d")}}
    )
    with pytest.raises(DataError) as caught:
        collect_data(recipe, root=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/d: unknown task 'reach-v3'. Allowed: rech-v3. Did you mean 'rech-v3'? Also unknown: push-v3."
    )


def test_a_folder_is_used_where_it_lies(tmp_path, dataset, prompts):
    dataset.save(tmp_path / "d", prompts=prompts)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}
    recipe = load_recipe({"suite": SUITE, "data": {"name": "folder", "path": str(tmp_path / "d")}})
    summary = collect_data(recipe, root=tmp_path / "outputs")
    assert (summary["folder"], summary["collected"], summary["episodes"]) == (str(tmp_path / "d"), 0, len(dataset))
    data, shown = load_data(data_folder(recipe, tmp_path / "outputs"))
    assert data.fingerprint == TrajectoryDataset.load(tmp_path / "d").fingerprint
    assert shown.fingerprint == TrajectoryDataset.load(tmp_path / "d", split="prompts").fingerprint
    assert not (tmp_path / "outputs").exists()
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}
    with pytest.raises(DataError) as caught:
        Folder(path=str(tmp_path / "d"), prompts_per_task=1).read(suite())
    assert str(caught.value) == (
        f"data.prompts_per_task: {tmp_path}/d has demonstrations of its own. Leave it null to use them, or name "
        "them under data.prompts."
    )


def test_the_best_episodes_are_held_out_as_prompts(tmp_path, dataset):
    dataset.save(tmp_path / "d")
    recipe = load_recipe({
        "suite": SUITE,
        "data": {"name": "folder", "path": str(tmp_path / "d"), "prompts_per_task": 2, "prompt_min_steps": 9},
        "conditioning": {"task": {"name": "trajectory_prompt", "length": 9}},
    })  # fmt: skip
    summary = collect_data(recipe, root=tmp_path)
    folder = data_folder(recipe, tmp_path)
    assert folder.name.startswith("offline-") and summary["folder"] == str(folder)
    data, prompts = load_data(folder)
    assert (len(data), len(prompts), summary["prompts"], summary["collected"]) == (4, 4, 4, 8)
    for number in range(2):
        task = dataset.subset(dataset.task_index == number)
        long = np.sort(task.returns[task.lengths >= 9])[-2:]  # all episodes succeed
        np.testing.assert_allclose(np.sort(prompts.returns[prompts.task_index == number]), long, rtol=1e-6)
    kept = {float(part.states[start, 0]) for part in (data, prompts) for start in part.offsets[:-1]}
    assert kept == {float(dataset.states[start, 0]) for start in dataset.offsets[:-1]}


def test_prompts_from_elsewhere(tmp_path, dataset, prompts):
    dataset.save(tmp_path / "d")
    prompts.save(tmp_path / "p")
    arguments = {"path": str(tmp_path / "d"), "prompts": str(tmp_path / "p")}
    parts = Folder(**arguments, prompt_min_steps=4).read(suite())
    assert (len(parts["trajectories"]), len(parts["prompts"])) == (8, 5)
    parts = Folder(**arguments, prompt_min_steps=4, prompts_per_task=1).read(suite())
    assert parts["prompts"].task_index.tolist() == [0, 1]
    with pytest.raises(DataError) as caught:
        Folder(**arguments, prompt_min_steps=5).read(suite())
    assert str(caught.value) == (
        f"{tmp_path}/p: demonstration 0 (push-v3) has 4 steps, and data.prompt_min_steps is 5."
    )


def test_what_is_read_is_kept_and_watched(layout, tmp_path):
    source, place = Npz(path=str(layout), prompts_per_task=1, prompt_min_steps=5), tmp_path / "kept"
    assert read_once(place, suite=suite(), source=source) == 15
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    card = (place / "README.md").read_text()
    assert "5 numbers of the actions were beyond [-1, 1] and are clipped" in card
    assert "license: mit" not in card and "No step is marked as a success" in card
    assert json.loads((place / "dataset.json").read_text())["metadata"]["data"]["name"] == "npz"
    fingerprint = TrajectoryDataset.load(place).fingerprint
    before = (place / "dataset.json").stat().st_ino
    assert read_once(place, suite=suite(), source=source) == 0
    assert (place / "dataset.json").stat().st_ino == before

    one = layout / "push-v3" / "1.npz"
    write_episode(layout / "soccer-v2" / "0.npz", 0)  # of no task of this suite
    os.utime(one, (1, 1))  # as a copy has it: the content counts
    assert read_once(place, suite=suite(), source=source) == 0
    shard = next((place / "data").iterdir())
    shard.write_bytes(shard.read_bytes()[:-9])
    assert read_once(place, suite=suite(), source=source) == 15
    assert TrajectoryDataset.load(place).fingerprint == fingerprint

    write_episode(one, 5)
    with pytest.raises(DataError) as caught:
        read_once(place, suite=suite(), source=source)
    assert str(caught.value) == (
        f"{place}: was read from 15 files, which have changed since (15 now). Remove this folder to read them again, "
        "or put them back."
    )
    shutil.rmtree(layout)  # what was read serves without
    assert read_once(place, suite=suite(), source=source) == 0
    with pytest.raises(DataError, match=r"was read with another data. Choose another folder, or remove it.$"):
        read_once(place, suite=suite(), source=Npz(path=str(layout), prompts_per_task=2))


def test_half_of_a_reading_is_not_taken_for_the_whole(layout, tmp_path, monkeypatch):
    source, place = Npz(path=str(layout), prompts_per_task=0), tmp_path / "outputs" / "kept"
    written = []

    def stop_at_the_second(path, episodes):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        whole(path, episodes)

    from mtdiff.data import storage

    whole = storage.write_shard
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_shard", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            read_once(place, suite=suite(), source=source)
    assert written and not place.exists()
    assert read_once(place, suite=suite(), source=source) == 15
    assert [path.name for path in place.parent.iterdir()] == ["kept"]


def test_a_folder_of_something_else_is_not_written_to(layout, tmp_path, dataset):
    dataset.save(tmp_path / "d")
    with pytest.raises(DataError) as caught:
        read_once(tmp_path / "d", suite=suite(), source=Npz(path=str(layout)))
    assert str(caught.value) == f"{tmp_path}/d: holds trajectories that were not read here; choose another folder."
    assert len(TrajectoryDataset.load(tmp_path / "d")) == len(dataset)


def test_rules_know_the_prompts_of_every_source():
    def problem(**data):
        with pytest.raises(RecipeError) as caught:
            load_recipe({"suite": SUITE, "data": data})
        return str(caught.value)

    assert problem(name="npz", path="x", prompts_per_task=0) == (
        "data.prompts_per_task: must be at least 1, because conditioning.task shows prompts, got 0"
    )
    assert problem(name="npz", path="x", prompt_min_steps=10) == (
        "conditioning.task.length: must be at most data.prompt_min_steps=10, got 20"
    )
    assert problem(name="folder").startswith("data: folder needs 'path': the folder.")
    assert problem(name="minari", datasets={}) == "data.datasets: must name a dataset for each task, got none"
    assert problem(name="npz", path="x", episodes_per_task=0) == "data.episodes_per_task: must be at least 1, got 0"
    load_recipe({"suite": SUITE, "data": {"name": "folder", "path": "x"}})  # where there is no such folder
    load_recipe({"suite": SUITE, "data": "given"})


def test_sources_record_or_read():
    assert {name: hasattr(DATA[name].target, "read") for name in DATA} == {
        "acted": False, "collected": False, "folder": True, "given": True, "hub": True, "lerobot": True,
        "minari": True, "npz": True,
    }  # fmt: skip
    assert reads(Given())
    with pytest.raises(DataError) as caught:
        Given().read(suite())
    assert str(caught.value) == (
        "data: 'given' means trajectories that a program hands over: mtdiff.train(recipe, dataset=..., prompts=...). "
        "To train on files, name another source; `mtdiff parts data` lists them."
    )
