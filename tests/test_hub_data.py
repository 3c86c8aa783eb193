"""Datasets on the Hub: those of mtdiff there and back, and those in LeRobot's layout."""

import json
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from test_train_init import recipe

import mtdiff
from mtdiff.data.sources.hub import Hub
from mtdiff.data.sources.lerobot import LeRobot
from mtdiff.data.storage import read_manifest
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments.offline import Offline
from mtdiff.errors import DataError, MTDiffError, RecipeError
from mtdiff.recipe import load_recipe
from mtdiff.run_data import collect_data, data_folder, load_data
from mtdiff.sharing.push import push

pytestmark = pytest.mark.slow  # together they take a quarter of a minute

DATA = "user/episodes"
SUITE = Offline(tasks=["reach-v3", "push-v3"], state_dim=5, action_dim=2)
SENTENCES = ("Pick up the cube.", "Push it!")
NAMES = ["pick-up-the-cube", "push-it"]


@pytest.fixture
def folder(tmp_path, dataset, prompts):
    dataset.save(tmp_path / "d", prompts=prompts)
    return tmp_path / "d"


def refused(work, *arguments, error=MTDiffError, **options):
    with pytest.raises(error) as caught:
        work(*arguments, **options)
    return str(caught.value)


def test_a_pushed_dataset_is_read_by_a_recipe(hub, folder, dataset, prompts, tmp_path):
    done = push(folder, DATA, license="cc-by-4.0")
    shards = [shard["path"] for split in read_manifest(folder)["splits"].values() for shard in split["shards"]]
    assert (done["kind"], done["sent"]) == ("dataset", ["README.md", "dataset.json", *shards])
    assert push(folder, DATA, license="cc-by-4.0")["sent"] == []
    made = load_recipe(recipe(data={"name": "hub", "repo": DATA}))
    summary = collect_data(made, root=tmp_path / "outputs")
    assert (summary["collected"], summary["prompts"]) == (len(dataset) + len(prompts), len(prompts))
    data, shown = load_data(data_folder(made, tmp_path / "outputs"))
    assert data.fingerprint == TrajectoryDataset.load(folder).fingerprint
    assert shown.fingerprint == TrajectoryDataset.load(folder, split="prompts").fingerprint
    assert data.metadata["commit"] == hub.dataset(DATA).branches["main"]
    hub.requests.clear()
    assert collect_data(made, root=tmp_path / "outputs")["collected"] == 0 and hub.requests == []
    run = mtdiff.train(made, root=tmp_path / "outputs")
    push(run.folder, "user/trained")
    card = hub.model("user/trained").tree()["README.md"].decode()
    assert f"datasets:\n- {DATA}\n" in card


def test_the_card_and_the_parquet_are_what_the_viewer_shows(hub, folder, dataset):
    push(folder, DATA)
    card = DatasetCard.load(DATA)
    assert [part["config_name"] for part in card.data.configs] == ["trajectories", "prompts"]
    assert card.data.get("license") is None and f"`data: {{name: hub, repo: {DATA}}}`" in card.text
    assert f'datasets.load_dataset("{DATA}", split="train")' in card.text
    there = datasets.load_dataset(DATA, split="train")
    assert len(there) == len(dataset) and there.features["states"].feature.length == 5
    states = {np.asarray(row["states"], np.float32).tobytes() for row in there}
    assert states == {dataset[e].states.tobytes() for e in range(len(dataset))}


def test_a_damaged_dataset_is_neither_pushed_nor_read(hub, folder):
    push(folder, DATA)
    shard = read_manifest(folder)["splits"]["trajectories"]["shards"][0]
    file = folder / shard["path"]
    file.write_bytes(file.read_bytes()[:-9])
    assert refused(push, folder, DATA) == (
        f"{file}: has {shard['bytes'] - 9} bytes, should have {shard['bytes']}. Nothing was pushed"
    )
    hub.dataset(DATA).tree()[shard["path"]] = file.read_bytes()
    said = refused(Hub(repo=DATA).read, SUITE, error=DataError)
    assert f"{shard['path']}: has {shard['bytes'] - 9} bytes, should have {shard['bytes']}." in said


def test_what_cannot_be_read_from_the_hub(hub, folder):
    assert refused(Hub(repo="user/none").read, SUITE) == (
        "user/none: no such dataset repository on the Hub, or a private one that your token does not open"
    )
    push(folder, DATA)
    assert refused(Hub(repo=DATA, revision="v1").read, SUITE) == (f"{DATA}@v1: unknown revision 'v1'. Allowed: main.")
    assert refused(Hub(repo=DATA, prompts_per_task=1).read, SUITE) == (
        f"data.prompts_per_task: {DATA} has demonstrations of its own. Leave it null to use them, or name others under "
        "data.prompts."
    )
    push(folder, "user/torn")
    del hub.dataset("user/torn").tree()["dataset.json"]
    assert refused(Hub(repo="user/torn").read, SUITE, error=DataError) == (
        "user/torn: neither a dataset that `mtdiff push` wrote (no dataset.json) nor one in LeRobot's layout (no "
        "meta/info.json)"
    )
    assert refused(load_recipe, recipe(data={"name": "hub", "repo": "data"}), error=RecipeError) == (
        "data.repo: must be a repository id like user/name, got 'data'"
    )


# --- LeRobot ------------------------------------------------------------------------------------------------------


def lerobot(folder, version, *, scale=1.0, leave=(), **more):
    """Three episodes of two tasks, as LeRobot writes them; returns their frames."""
    rng, frames = np.random.default_rng(0), []
    for episode, (task, length) in enumerate([(0, 6), (1, 4), (0, 5)]):
        for t in range(length):
            last = t == length - 1
            frames.append({
                "observation.state": rng.normal(size=3).astype(np.float32),
                "action": (scale * np.tanh(rng.normal(size=2))).astype(np.float32),
                "next.reward": np.float32(episode + t), "next.success": last and episode != 1, "next.done": last,
                "timestamp": np.float32(t / 10), "frame_index": t, "episode_index": episode, "index": len(frames),
                "task_index": task,
            })  # fmt: skip
    kept = [key for key in frames[0] if key not in leave]
    features = {key: {"dtype": "float32", "shape": list(np.shape(frames[0][key])) or [1]} for key in kept}
    features["observation.images.top"] = {"dtype": "video", "shape": [96, 96, 3]}
    (folder / "meta").mkdir(parents=True)
    info = {"codebase_version": version, "robot_type": "arm", "total_episodes": 3, "fps": 10, "features": features}
    (folder / "meta/info.json").write_text(json.dumps(info | more))

    def write(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {key: [row[key].tolist() if np.ndim(row[key]) else row[key] for row in rows] for key in kept}
        kinds = {"observation.state": pa.list_(pa.float32(), 3), "action": pa.list_(pa.float32())}
        pq.write_table(pa.table({key: pa.array(values, kinds.get(key)) for key, values in columns.items()}), path)

    if version == "v3.0":
        table = pa.table({"task_index": [0, 1], "__index_level_0__": list(SENTENCES)})
        pq.write_table(table, folder / "meta/tasks.parquet")
        write(folder / "data/chunk-000/file-000.parquet", frames)
    else:
        lines = [json.dumps({"task_index": i, "task": text}) for i, text in enumerate(SENTENCES)]
        (folder / "meta/tasks.jsonl").write_text("\n".join(lines))
        for episode in range(3):
            rows = [row for row in frames if row["episode_index"] == episode]
            write(folder / f"data/chunk-000/episode_{episode:06d}.parquet", rows)
    return frames


def offline(**changes):
    return Offline(**{"tasks": NAMES, "state_dim": 3, "action_dim": 2} | changes)


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_every_version_of_the_layout_gives_the_same_episodes(tmp_path, version):
    frames = lerobot(tmp_path / "x", version)
    data = LeRobot(path=str(tmp_path / "x")).read(offline())["trajectories"]
    assert data.tasks == NAMES and data.lengths.tolist() == [6, 4, 5]
    assert [data[e].task for e in range(3)] == [NAMES[0], NAMES[1], NAMES[0]]
    for e in range(3):
        rows = [row for row in frames if row["episode_index"] == e]
        states = np.stack([row["observation.state"] for row in rows])
        np.testing.assert_array_equal(data[e].states, np.concatenate([states, states[-1:]]))
        np.testing.assert_array_equal(data[e].actions, np.stack([row["action"] for row in rows]))
        np.testing.assert_array_equal(data[e].rewards, [row["next.reward"] for row in rows])
    assert data.succeeded.tolist() == data.terminated.tolist() == [True, False, True]
    assert data.metadata["lerobot"] == {"version": version, "robot": "arm"}
    dropped = LeRobot(path=str(tmp_path / "x"), last_state="drop").episodes(where="x")
    np.testing.assert_array_equal(dropped[0].states, data[0].states[:-1])
    assert dropped.lengths.tolist() == [5, 3, 4] and not dropped.succeeded.any() and not dropped.terminated.any()


def test_tasks_by_other_names_and_actions_that_are_scaled(tmp_path):
    frames = lerobot(tmp_path / "x", "v2.1", scale=50)
    assert refused(LeRobot(path=str(tmp_path / "x")).read, offline()).startswith(
        f"{tmp_path}/x: actions should be in [-1, 1], and go from -4"
    )
    source = LeRobot(path=str(tmp_path / "x"), tasks={"cube": SENTENCES[0]}, actions="min_max")
    data = source.read(offline(tasks=["cube"]))["trajectories"]
    assert (data.tasks, len(data)) == (["cube"], 2)
    bounds = {key: np.array(values) for key, values in data.metadata["action_bounds"].items()}
    theirs = np.stack([row["action"] for row in frames if row["episode_index"] == 0])
    back = bounds["low"] + (data[0].actions + 1) / 2 * (bounds["high"] - bounds["low"])
    np.testing.assert_allclose(back, theirs, rtol=1e-5)


def test_without_rewards_and_success(tmp_path):
    lerobot(tmp_path / "x", "v3.0", leave=("next.reward", "next.success", "next.done"))
    data = LeRobot(path=str(tmp_path / "x")).episodes(where="x")
    assert not data.rewards.any() and not data.succeeded.any() and data.truncated.all()


def test_what_is_not_in_the_layout(tmp_path):
    place = tmp_path / "x"

    def said(leave=(), **arguments):
        return refused(LeRobot(path=str(place), **arguments).read, offline(), error=DataError)

    assert said() == f"{place}: is not in LeRobot's layout; it has no meta/info.json."
    lerobot(place, "v1.6")
    assert said() == f"{place}: unknown version of LeRobot 'v1.6'. Allowed: v2.0, v2.1, v3.0."
    shutil.rmtree(place)
    lerobot(place, "v2.1", leave=("action",))
    assert said() == (
        f"{place}: has no column action; it has observation.state, next.reward, next.success, next.done, timestamp, "
        "frame_index, episode_index, index, task_index, observation.images.top."
    )
    shutil.rmtree(place)
    lerobot(place, "v2.1")
    assert said(tasks={"cube": "Pick up the cubes."}) == (
        "data.tasks.cube: unknown task of the dataset 'Pick up the cubes.'. Allowed: Pick up the cube., Push it!. "
        "Did you mean 'Pick up the cube.'?"
    )
    (place / "data/chunk-000/episode_000001.parquet").unlink()
    assert said() == f"{place}: should have 3 episodes, and 2 are there."
    (place / "data/chunk-000/episode_000000.parquet").write_bytes(b"PAR1 torn")
    assert said().startswith(f"{place}: cannot be read (")
    shutil.rmtree(place / "data")
    assert said() == f"{place}: has no data/chunk-*/*.parquet."


def test_a_repository_in_the_layout_is_recognised(hub, tmp_path):
    from huggingface_hub import HfApi

    lerobot(tmp_path / "x", "v3.0")
    HfApi().create_repo("user/arm", repo_type="dataset")
    HfApi().upload_folder(repo_id="user/arm", repo_type="dataset", folder_path=tmp_path / "x")
    suite = {"name": "offline", "tasks": NAMES, "state_dim": 3, "action_dim": 2}
    made = load_recipe(recipe(
        suite=suite, data={"name": "hub", "repo": "user/arm", "prompts_per_task": 1, "prompt_min_steps": 4},
        conditioning={"history": {"name": "history", "length": 2, "hidden": [8]}},
    ))  # fmt: skip
    with pytest.raises(DataError, match=r"1 of the 1 episodes of task push-it should be held out"):
        collect_data(made, root=tmp_path)
    there = Hub(repo="user/arm").read(offline())["trajectories"]
    here = LeRobot(path=str(tmp_path / "x")).read(offline())["trajectories"]
    assert there.fingerprint == here.fingerprint and len(there.metadata["commit"]) == 40
