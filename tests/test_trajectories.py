"""Trajectories in memory and on disk: layout, labels, hashes, what is refused."""

import json

import numpy as np
import pytest

from mtdiff.data.trajectories import Trajectory, TrajectoryDataset
from mtdiff.errors import DataError


def episode(length, task="a", seed=0, **labels):
    rng = np.random.default_rng(seed)
    return Trajectory(
        states=rng.normal(size=(length + 1, 5)),
        actions=rng.uniform(-1, 1, (length, 2)),
        rewards=rng.normal(size=length),
        success=np.arange(length) == length - 1 if seed % 2 else np.zeros(length, bool),
        terminated=bool(seed % 2),
        truncated=not seed % 2,
        task=task,
        labels={
            "competence": seed / 10,
            "seed": seed,
            "goal": [1.0] * (3 + seed % 2),
            "fault": seed > 2,
            "by": "us",
            **labels,
        },
    )


@pytest.fixture
def episodes():
    return [episode(3, seed=0), episode(1, seed=1), episode(7, "b", seed=2), episode(4, "b", seed=3)]


@pytest.fixture
def data(episodes):
    return TrajectoryDataset.from_trajectories(episodes, metadata={"suite": {"name": "toy"}})


def assert_same(a, b):
    for name in ("states", "actions", "rewards", "success"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert (a.terminated, a.truncated, a.task, a.labels) == (b.terminated, b.truncated, b.task, b.labels)


def test_flat_layout(data, episodes):
    assert (len(data), data.num_steps, data.tasks) == (4, 15, ["a", "b"])
    assert data.states.shape == (19, 5)
    assert data.actions.shape == (19, 2)
    assert data.states.dtype == data.actions.dtype == data.rewards.dtype == np.float32
    np.testing.assert_array_equal(data.offsets, [0, 4, 6, 14, 19])
    np.testing.assert_array_equal(data.lengths, [3, 1, 7, 4])
    np.testing.assert_array_equal(data.task_index, [0, 0, 1, 1])
    np.testing.assert_array_equal(data.actions[data.offsets[1:] - 1], 0)
    for e, expected in enumerate(episodes):
        assert_same(data[e], expected)
    np.testing.assert_allclose(data.returns, [e.rewards.sum() for e in episodes], rtol=1e-6)
    np.testing.assert_array_equal(data.succeeded, [False, True, False, True])
    with pytest.raises(IndexError):
        data[4]


def test_transitions(data, episodes):
    steps = data.transitions()
    assert {key: len(value) for key, value in steps.items()} == dict.fromkeys(
        ("state", "action", "reward", "next_state", "terminated", "truncated", "task"), 15
    )
    np.testing.assert_array_equal(steps["next_state"], np.concatenate([e.states[1:] for e in episodes]))
    np.testing.assert_array_equal(np.flatnonzero(steps["terminated"]), [3, 14])
    np.testing.assert_array_equal(np.flatnonzero(steps["truncated"]), [2, 10])
    np.testing.assert_array_equal(steps["task"], [0] * 4 + [1] * 11)


def test_choosing_episodes(data, episodes):
    part = data.subset([3, 0])
    assert_same(part[0], episodes[3])
    assert_same(part[1], episodes[0])
    assert part.tasks == data.tasks
    assert [row["task"] for row in data.of_task("b").summary()] == ["b"]
    assert data.summary()[1] == {
        "task": "b", "episodes": 2, "steps": 11, "success": 0.5, "mean_length": 5.5,
        "mean_return": pytest.approx(np.mean([episodes[2].rewards.sum(), episodes[3].rewards.sum()])),
    }  # fmt: skip
    with pytest.raises(DataError, match=r"unknown task 'c'. Allowed: a, b."):
        data.of_task("c")


def test_a_folder_gives_back_what_was_saved(data, episodes, tmp_path):
    mixed = data.subset([2, 0, 3, 1])  # episodes are stored task by task
    mixed.save(tmp_path / "d", prompts=data.subset([1]))
    loaded = TrajectoryDataset.load(tmp_path / "d")
    for got, expected in zip([loaded[e] for e in range(4)], episodes, strict=True):
        assert_same(got, expected)
    assert loaded.metadata == data.metadata
    assert loaded.fingerprint == mixed.fingerprint == data.fingerprint
    assert_same(TrajectoryDataset.load(tmp_path / "d", split="prompts")[0], episodes[1])
    with pytest.raises(
        DataError, match=r"unknown split 'prompt'. Allowed: trajectories, prompts. Did you mean 'prompts'"
    ):
        TrajectoryDataset.load(tmp_path / "d", split="prompt")
    with pytest.raises(DataError, match=r"holds trajectories already; choose another folder or remove it."):
        data.save(tmp_path / "d")


def test_fingerprints(data, episodes):
    plain = TrajectoryDataset.from_arrays(
        states=[np.arange(6).reshape(3, 2)], actions=[np.full((2, 1), 0.5)], rewards=[[1, 2]], tasks="a"
    )  # what it is must not change: runs are named after it
    assert plain.fingerprint == "652ef2a29337e0a5054e4ccf5f73110d12335cb730a5b95997a5ac0aa7da20ad"
    relabelled = TrajectoryDataset.from_trajectories(
        [Trajectory(**{**vars(e), "labels": {}}) for e in episodes], metadata={}
    )
    assert relabelled.fingerprint == data.fingerprint
    for change in ("states", "actions", "rewards"):
        other = [Trajectory(**{**vars(e), change: getattr(e, change) * 0.999}) for e in episodes]
        assert TrajectoryDataset.from_trajectories(other).fingerprint != data.fingerprint
    renamed = [Trajectory(**{**vars(e), "task": e.task + "x"}) for e in episodes]
    assert TrajectoryDataset.from_trajectories(renamed).fingerprint != data.fingerprint


def test_shards_are_cut_by_number(tmp_path):
    data = TrajectoryDataset.from_trajectories([episode(2, seed=s) for s in range(53)])
    data.save(tmp_path / "d")
    assert sorted(path.name for path in (tmp_path / "d/data").iterdir()) == [f"a-0000{i}.parquet" for i in range(3)]
    assert TrajectoryDataset.load(tmp_path / "d").fingerprint == data.fingerprint
    assert TrajectoryDataset.load(tmp_path / "d").labels == data.labels


def test_datasets_reads_the_folder(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    data.save(tmp_path / "d", prompts=data.subset([1]))
    rows = datasets.load_dataset(str(tmp_path / "d"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 4
    assert rows.features["states"] == datasets.List(datasets.List(datasets.Value("float32"), length=5))
    np.testing.assert_array_equal(np.array(rows[2]["states"], np.float32), data[2].states)
    assert rows["steps"] == data.lengths.tolist()
    prompts = datasets.load_dataset(str(tmp_path / "d"), "prompts", split="train", cache_dir=str(tmp_path / "cache"))
    assert prompts["task"] == ["a"]


def test_damaged_folders_are_refused(data, tmp_path):
    folder = tmp_path / "d"
    with pytest.raises(
        DataError, match=rf"^{folder}: holds no dataset. Collect it, or collect it to its end, with the "
    ):
        TrajectoryDataset.load(folder)
    data.save(folder)
    shard, manifest = folder / "data/b-00000.parquet", folder / "dataset.json"
    whole, text = shard.read_bytes(), manifest.read_text()
    mend = "Collect again into this folder to mend it.$"

    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(DataError, match=rf"^{shard}: has changed since it was written \(its sha256 differs.*{mend}"):
        TrajectoryDataset.load(folder)
    shard.write_bytes(whole[:100])
    with pytest.raises(DataError, match=rf"^{shard}: has 100 bytes, should have {len(whole)}. {mend}"):
        TrajectoryDataset.load(folder)
    shard.unlink()
    with pytest.raises(DataError, match=rf"^{shard}: is missing. {mend}"):
        TrajectoryDataset.load(folder)
    shard.write_bytes(whole)

    manifest.write_text(text[:50])
    with pytest.raises(DataError, match=rf"^{manifest}: is damaged \(JSONDecodeError"):
        TrajectoryDataset.load(folder)
    manifest.write_text(json.dumps(json.loads(text) | {"schema_version": 9}))
    with pytest.raises(DataError, match=rf"^{manifest}: has schema version 9; this mtdiff reads 1.$"):
        TrajectoryDataset.load(folder)
    manifest.unlink()
    with pytest.raises(DataError, match=rf"^{folder}: is not complete \(no dataset.json\)."):
        TrajectoryDataset.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"states": np.zeros((3, 5))},
            "should have states (T + 1, O) and actions (T, A) with T at least 1, got (3, 5) and (3, 2).",
        ),
        (
            {"actions": np.zeros((0, 2)), "states": np.zeros((1, 5))},
            "with T at least 1, got (1, 5) and (0, 2).",
        ),
        ({"rewards": np.zeros(4)}, "rewards should be (3,), got (4,)."),
        ({"rewards": np.array([0, np.nan, 0])}, "rewards are not all finite: nan at step 1."),
        (
            {"states": np.array([[0, 0], [0, 0], [0, np.inf], [0, 0]])},
            "states are not all finite: inf at step 2, dimension 1.",
        ),
        (
            {"actions": np.full((3, 2), 1.5)},
            "actions should be in [-1, 1], got 1.5 at step 0, dimension 0; the largest is 1.5.",
        ),
        (
            {"rewards": ["a", "b", "c"]},
            "rewards should be an array of numbers (could not convert string to float: 'a').",
        ),
    ],
)
def test_wrong_episodes_are_refused(change, message):
    with pytest.raises(DataError) as caught:
        Trajectory(**{**vars(episode(3)), **change})
    assert str(caught.value).startswith("trajectory of task 'a': ")
    assert str(caught.value).endswith(message)


def test_episodes_that_do_not_fit_together_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"should have at least one episode, got none."):
        TrajectoryDataset.from_trajectories([])
    wide = Trajectory(**{**vars(episode(3)), "actions": np.zeros((3, 4))})
    with pytest.raises(
        DataError,
        match=r"episode 1 \(a\): state and action sizes should be those before, \(5, 2\), got \(5, 4\)",
    ):
        TrajectoryDataset.from_trajectories([episode(3), wide])
    with pytest.raises(
        DataError, match=r"episode 1 \(a\): labels should be \['competence', .*, got \['competence', .*'more'"
    ):
        TrajectoryDataset.from_trajectories([episode(3), episode(3, more=1)])
    with pytest.raises(DataError, match=r"label 'steps': this is the name of a column; choose another."):
        TrajectoryDataset.from_trajectories([episode(3, steps=1)]).save(tmp_path / "d")
    with pytest.raises(
        DataError, match=r"label 'odd': should be a number, a flag, a text or a list of numbers, got {}."
    ):
        TrajectoryDataset.from_trajectories([episode(3, odd={})]).save(tmp_path / "e")


def test_own_arrays():
    states, actions = [np.zeros((4, 2)), np.ones((3, 2))], [np.zeros((3, 1)), np.zeros((2, 1))]
    rewards = [[0, 0, 1], [0, 1]]
    data = TrajectoryDataset.from_arrays(
        states=states,
        actions=actions,
        rewards=rewards,
        tasks="mine",
        terminated=[True, False],
        labels={"who": ["x", "y"]},
    )
    assert (len(data), data.tasks, data.labels) == (2, ["mine"], {"who": ["x", "y"]})
    np.testing.assert_array_equal(data.terminated, [True, False])
    np.testing.assert_array_equal(data.truncated, [False, True])
    with pytest.raises(DataError, match=r"from_arrays: rewards should have one entry per episode, 2, got 1."):
        TrajectoryDataset.from_arrays(states=states, actions=actions, rewards=rewards[:1], tasks="mine")
    wrong = [
        ([[0.0], [np.nan]], "actions are not all finite: nan at step 1, dimension 0."),
        ([[0.0], [-1.25]], "actions should be in [-1, 1], got -1.25 at step 1, dimension 0; the largest is 1.25."),
    ]
    for second, message in wrong:
        with pytest.raises(DataError) as caught:
            TrajectoryDataset.from_arrays(states=states, actions=[actions[0], second], rewards=rewards, tasks="mine")
        assert str(caught.value) == f"from_arrays: episode 1: trajectory of task 'mine': {message}"
