"""Minari datasets, made by Minari itself: spaces flattened and scaled, ends and successes told apart."""

import warnings

import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from mtdiff.data.sources.minari import Minari, flatten
from mtdiff.environments.offline import Offline
from mtdiff.errors import DataError

REACH = "reach-v3"


def suite(state_dim=5):
    return Offline(tasks=[REACH, "push-v3"], state_dim=state_dim, action_dim=2)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A dataset of Dict observations and a lopsided Box of actions, made by Minari itself."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen = spaces.Dict(
        {"z": spaces.Box(-9, 9, (2,)), "a": spaces.Dict({"y": spaces.Box(-9, 9, (2, 1)), "x": spaces.Box(-9, 9, (1,))})}
    )
    acted = spaces.Box(np.float32([-2, 0]), np.float32([2, 1]))
    rng = np.random.default_rng(0)
    buffers = []
    for number, steps in enumerate((4, 7, 6)):
        observations = {
            "z": rng.normal(size=(steps + 1, 2)).astype("f4"),
            "a": {
                "y": rng.normal(size=(steps + 1, 2, 1)).astype("f4"),
                "x": rng.normal(size=(steps + 1, 1)).astype("f4"),
            },
        }
        last = np.arange(steps) == steps - 1
        buffers.append(EpisodeBuffer(
            id=number,
            observations=observations,
            actions=rng.uniform([-2, 0], [2, 1], (steps, 2)).astype(np.float32),
            rewards=list(rng.random(steps)),
            terminations=last if number == 1 else ~last & last,
            truncations=last if number != 1 else ~last & last,
            infos={"success": np.arange(steps + 1) == (2 if number == 0 else 99)},
        ))  # fmt: skip

    def make(name, acted=acted):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Minari would like to know the author, a permalink and more
            return minari.create_dataset_from_buffers(name, buffers, observation_space=seen, action_space=acted)

    return make


def test_minari(toy):
    made = toy("toy/reach-v0")
    source = Minari(datasets={REACH: "toy/reach-v0"}, prompts_per_task=1, prompt_min_steps=4)
    parts = source.read(suite())
    data = parts["trajectories"]
    assert (data.tasks, len(data), len(parts["prompts"])) == ([REACH], 2, 1)
    assert parts["prompts"].labels["episode"] == [0]  # the only success, though not of the highest return
    np.testing.assert_array_equal(
        parts["prompts"][0].success, [False, True, False, False]
    )  # infos begin with the reset's
    theirs = list(made.iterate_episodes())[1]
    rows = [
        spaces.flatten(
            made.observation_space,
            {"z": theirs.observations["z"][t], "a": {k: v[t] for k, v in theirs.observations["a"].items()}},
        )
        for t in range(8)
    ]
    np.testing.assert_array_equal(data[0].states, np.stack(rows))
    np.testing.assert_allclose(
        data[0].actions, np.stack([theirs.actions[:, 0] / 2, 2 * theirs.actions[:, 1] - 1], axis=1), atol=1e-6
    )
    np.testing.assert_allclose(data[0].rewards, theirs.rewards, rtol=1e-6)
    assert data.terminated.tolist() == [True, False] and data.truncated.tolist() == [False, True]
    assert data.labels == {"dataset": ["toy/reach-v0"] * 2, "episode": [1, 2], "clipped": [0, 0]}
    names = {path.name for path in source.files(suite())}
    assert {"main_data.hdf5", "metadata.json"} <= names


def test_minari_datasets_that_cannot_be_used(toy, tmp_path):
    with pytest.raises(DataError) as caught:
        Minari(datasets={REACH: "toy/reach-v0"}).read(suite())
    assert str(caught.value).startswith(
        "data.datasets.reach-v3: toy/reach-v0 cannot be read: Dataset toy/reach-v0 not found"
    )
    assert str(caught.value).endswith("Fetch it with data.download=true.")
    toy("toy/free-v0", spaces.Box(-np.inf, np.inf, (2,)))
    with pytest.raises(DataError) as caught:
        Minari(datasets={REACH: "toy/free-v0"}).read(suite())
    assert str(caught.value) == (
        "toy/free-v0: actions cannot be scaled to [-1, 1] without finite bounds, got Box(-inf, inf, (2,), float32)."
    )
    toy("toy/reach-v0")
    with pytest.raises(
        DataError, match=r"^toy/reach-v0: states and actions should have 4 and 2 numbers, .* got 5 and 2"
    ):
        Minari(datasets={REACH: "toy/reach-v0"}, prompts_per_task=0).read(suite(state_dim=4))


def test_flattening_is_gymnasiums():
    space = spaces.Tuple((
        spaces.Discrete(3, start=1), spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3]),
        spaces.Dict({"b": spaces.Box(-1, 1, (2, 2)), "a": spaces.Discrete(2)}),
    ))  # fmt: skip
    space.seed(0)
    drawn = [space.sample() for _ in range(5)]
    together = (
        np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn]), np.stack([d[2] for d in drawn]),
        {key: np.stack([d[3][key] for d in drawn]) for key in ("a", "b")},
    )  # fmt: skip
    np.testing.assert_array_equal(
        flatten(space, together, where="x"), np.stack([spaces.flatten(space, one) for one in drawn]).astype(np.float32)
    )
    with pytest.raises(
        DataError,
        match=r"^x: observations should be of Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, got Text",
    ):
        flatten(spaces.Text(3), [], where="x")
