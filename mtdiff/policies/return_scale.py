"""Returns of many tasks on one scale: what a policy is shown of the rewards still to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mtdiff.data.returns import RETURN_QUANTILES, rewards_to_go

if TYPE_CHECKING:
    from mtdiff.data.trajectories import TrajectoryDataset


class ReturnScale(nn.Module):
    """Rewards still to come, over the largest return of the task, and what a return that is asked for means there.

    Args:
        num_tasks: tasks that were trained; one more row has the medians of theirs, for any other task.

    Attributes:
        low: 5 % quantile of the episodes' returns of each task, in physical units.
        high: likewise, 95 %.
        least: least rewards still to come in any step of the task's data, in physical units.
        most: likewise, the most.
        size: what they are divided by.
    """

    NAMES = ("low", "high", "least", "most", "size")
    size: Tensor

    def __init__(self, num_tasks: int):
        super().__init__()
        for name in self.NAMES:
            self.register_buffer(name, torch.full((num_tasks + 1,), float(name in ("high", "most", "size"))))

    def measure(self, dataset: TrajectoryDataset) -> None:
        """Take them from the data."""
        acting = np.ones(len(dataset.states), bool)
        acting[dataset.offsets[1:] - 1] = False
        to_go, task = rewards_to_go(dataset)[acting], np.repeat(dataset.task_index, dataset.lengths)
        rows = []
        for number in range(len(dataset.tasks)):
            low, high = np.quantile(dataset.returns[dataset.task_index == number], RETURN_QUANTILES)
            mine = to_go[task == number]
            rows.append((low, high, mine.min(), mine.max(), max(abs(low), abs(high)) or 1.0))
        table = np.array([*rows, np.median(rows, axis=0)], np.float32)
        for name, values in zip(self.NAMES, table.T, strict=True):
            getattr(self, name).copy_(torch.from_numpy(values.copy()))

    def forward(self, to_go: Tensor, task: Tensor) -> Tensor:
        """Scale rewards still to come (B, K, 1), in physical units, of the tasks (B,); -1 for one not trained."""
        return to_go / self.size[task].view(-1, 1, 1)

    def still_asked(self, asked: Tensor, gained: Tensor, rewards: Tensor, task: Tensor) -> Tensor:
        """Say what is still asked for in every step, scaled, (B, K, 1).

        Args:
            asked: (B, 1), 0 for the task's 5 % quantile, 1 for its 95 %.
            gained: rewards of the episode so far, (B, 1).
            rewards: (B, K, 1), those of the last steps, zero in the present one.
            task: numbers (B,).
        """
        low, high, least, most = (
            getattr(self, name)[task].float()[:, None] for name in ("low", "high", "least", "most")
        )
        total = low + asked * (high - low)
        since = rewards[:, :, 0].flip(1).cumsum(dim=1).flip(1)  # from a step to now
        left = (total - gained + since).clamp(least, most)
        return self(left[:, :, None], task)
