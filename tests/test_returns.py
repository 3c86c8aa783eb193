"""The two labels of return, against slow references."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from mtdiff.conditioning import TargetReturn
from mtdiff.data.normalizer import Normalization, Normalizer
from mtdiff.data.returns import ReturnLabel, remaining_returns, scale_returns
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.data.windows import Windows
from mtdiff.errors import DataError, RecipeError
from mtdiff.recipe import load_recipe


def remaining(rewards: np.ndarray, t: int, discount: float, steps: int) -> float:
    """As the formula has it: a sum over all that comes, for every step anew."""
    return sum(discount ** (j - t) * float(rewards[j]) for j in range(t, len(rewards))) / (steps - t)


def windows(dataset: TrajectoryDataset, label: bool | ReturnLabel) -> tuple[Windows, list[tuple[int, int]]]:
    """Windows, and the (episode, step) of each."""
    made = Windows(dataset, Normalizer.fit(dataset, Normalization()), horizon=3, returns=label)
    order = np.argsort(dataset.task_index, kind="stable")
    return made, [(int(e), t) for e in order for t in range(dataset.lengths[e])]


def labels(made: Windows, places: list[tuple[int, int]]) -> np.ndarray:
    drawn = {"row": torch.arange(len(places)), "task": torch.zeros(len(places), dtype=torch.long)}
    return made.gather(drawn)["return"][:, 0].numpy()


@pytest.mark.parametrize(("discount", "steps"), [(0.99, 500), (0.9, 20), (1.0, 20), (0.0, 33)])
def test_remaining_returns_equal_a_double_loop(dataset: Any, discount: float, steps: int) -> None:
    made, places = windows(dataset, ReturnLabel(label="remaining", discount=discount, steps=steps))
    expected = [remaining(dataset[e].rewards, t, discount, steps) for e, t in places]
    assert len(expected) == dataset.num_steps
    np.testing.assert_allclose(labels(made, places), expected, rtol=1e-6)


def test_remaining_returns_of_constant_rewards_in_closed_form() -> None:
    """The label of a perfect episode rises towards the reward, and reaches it at the last step only."""
    data = TrajectoryDataset.from_arrays(
        states=[np.zeros((501, 1))], actions=[np.zeros((500, 1))], rewards=[np.full(500, 10.0)], tasks="a"
    )
    left = 500 - np.arange(500)
    expected = 10 * (1 - 0.99**left) / 0.01 / left
    got = remaining_returns(data, discount=0.99, steps=500)
    np.testing.assert_allclose(got[:-1], expected, rtol=1e-9)
    assert got[0] == pytest.approx(1.99, abs=0.01)
    assert got[499] == 10


def test_the_label_of_an_episode_is_the_same_at_every_step(dataset: Any) -> None:
    scaled = scale_returns(dataset)
    for label in (True, ReturnLabel()):
        made, places = windows(dataset, label)
        np.testing.assert_allclose(labels(made, places), [scaled[e] for e, _ in places], atol=1e-7)


def test_an_episode_that_is_longer_than_the_label_allows(dataset: Any) -> None:
    with pytest.raises(DataError) as error:
        windows(dataset, ReturnLabel(label="remaining", steps=19))
    assert str(error.value) == (
        "label_steps: must be at least the steps of the longest episode, 20 (episode 3, reach-v3), got 19"
    )
    assert np.isfinite(remaining_returns(dataset, discount=1.0, steps=20)).all()


def test_a_recipe_whose_episodes_may_be_longer_than_its_label() -> None:
    changes = ["conditioning.return.label_steps=400"]
    load_recipe("presets/default", changes)
    with pytest.raises(RecipeError) as error:
        load_recipe("presets/released_code", changes)
    assert "conditioning.return.label_steps: must be at least the steps of an episode, 500, got 400" in str(error.value)
    load_recipe("presets/released_code", [*changes, "data.steps=400"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"discount": 1.1}, "discount: must be at least 0 and at most 1, got 1.1"),
        ({"label_steps": 0}, "label_steps: must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TargetReturn(width=8, label="remaining", **arguments)
