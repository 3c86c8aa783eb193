"""What a window is told of the rewards: the number that a planner is later asked to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError, at_least

RETURN_QUANTILES = (0.05, 0.95)


@dataclass(frozen=True, kw_only=True)
class ReturnLabel:
    """How a step is labelled; see `TargetReturn` for the meaning of each argument.

    Args:
        label: "episode" or "remaining".
        discount: of "remaining", in [0, 1].
        steps: of "remaining", at least the steps of the longest episode.

    Raises:
        ValueError: a number out of its range.
    """

    label: Literal["episode", "remaining"] = "episode"
    discount: float = 0.99
    steps: int = 500

    def __post_init__(self) -> None:
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount: must be at least 0 and at most 1, got {self.discount}")
        at_least(1, label_steps=self.steps)

    def of_rows(self, dataset: TrajectoryDataset, reference: TrajectoryDataset | None = None) -> NDArray[np.float32]:
        """Label every row of `dataset.states`, (R,); rows that end an episode have no action and no meaning.

        Args:
            dataset: episodes to label.
            reference: see `scale_returns`; "remaining" needs no scale.

        Raises:
            DataError: an episode longer than `steps`.
        """
        if self.label == "remaining":
            return remaining_returns(dataset, discount=self.discount, steps=self.steps).astype(np.float32)
        return np.repeat(scale_returns(dataset, reference), dataset.lengths + 1).astype(np.float32)


def scale_returns(dataset: TrajectoryDataset, reference: TrajectoryDataset | None = None) -> NDArray[np.float64]:
    """Scale each episode's return by its task's 5 % and 95 % quantiles and clip to [0, 1]; shape (E,).

    Args:
        dataset: episodes to label.
        reference: a dataset of the same tasks whose quantiles are taken; `dataset` itself by default.
    """
    reference = dataset if reference is None else reference
    returns, measured = dataset.returns, reference.returns
    scaled = np.empty_like(returns)
    for number in range(len(dataset.tasks)):
        mine = dataset.task_index == number
        low, high = np.quantile(measured[reference.task_index == number], RETURN_QUANTILES)
        scaled[mine] = np.clip((returns[mine] - low) / (high - low), 0, 1) if high > low else 1.0
    return scaled


def remaining_returns(dataset: TrajectoryDataset, *, discount: float, steps: int) -> NDArray[np.float64]:
    """The discounted rewards still to come, over the steps still to come; shape (R,), a row per state.

    R_t = sum over j >= t of discount^(j - t) r_j, divided by (steps - t), in the rewards' own units: what the
    released code of MTDiff feeds. All episodes count as `steps` long, however early they end.

    Raises:
        DataError: an episode longer than `steps`, for which the divisor would not be positive.
    """
    longest = int(dataset.lengths.argmax())
    if dataset.lengths[longest] > steps:
        raise DataError(
            f"label_steps: must be at least the steps of the longest episode, {dataset.lengths[longest]} "
            f"(episode {longest}, {dataset.tasks[dataset.task_index[longest]]}), got {steps}"
        )
    labels = dataset.rewards.astype(np.float64)  # 0 in the row after an episode's last step
    # From the last step to the first, all episodes at once; sorted by length, those that have a step t come first.
    order = np.argsort(-dataset.lengths, kind="stable")
    first, lengths = dataset.offsets[:-1][order], dataset.lengths[order]
    for t in range(int(lengths[0]) - 2, -1, -1):
        rows = first[: np.searchsorted(-lengths, -t - 1)] + t  # episodes of more than t + 1 steps
        labels[rows] += discount * labels[rows + 1]
    step = np.arange(len(labels)) - np.repeat(dataset.offsets[:-1], dataset.lengths + 1)
    return labels / np.maximum(steps - step, 1)


def rewards_to_go(dataset: TrajectoryDataset) -> NDArray[np.float64]:
    """The rewards from every step to the end of its episode, undiscounted; shape (R,), 0 in the rows that end one."""
    total = np.concatenate([[0.0], dataset.rewards.cumsum(dtype=np.float64)])
    return total[np.repeat(dataset.offsets[1:], dataset.lengths + 1)] - total[:-1]


def best_of_each_task(dataset: TrajectoryDataset, share: float) -> TrajectoryDataset:
    """Return the episodes of the highest returns, a share of each task's, at least one."""
    kept: list[int] = []
    for number in range(len(dataset.tasks)):
        mine = np.flatnonzero(dataset.task_index == number)
        count = max(1, round(share * len(mine)))
        kept += mine[np.argsort(-dataset.returns[mine], kind="stable")[:count]].tolist()
    return dataset.subset(sorted(kept))
