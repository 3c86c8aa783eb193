"""The best recent episodes of an agent: what SODP's regulariser clones (its B_target)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.data.trajectory import Trajectory

_SHARE = 4  # while nothing has succeeded, one of so many episodes is among the best


class Best:
    """The newest successful episodes; while there are none, the quarter of highest return.

    Args:
        count: most episodes that are remembered.
        task: theirs.
    """

    def __init__(self, count: int, task: str):
        self.count, self.task, self.seen = count, task, 0
        self.kept: list[Trajectory] = []

    def add(self, episodes: Sequence[Trajectory]) -> None:
        """Look at new episodes, and remember what belongs to the best."""
        self.seen += len(episodes)
        known = [*self.kept, *episodes]
        won = [one for one in known if one.success.any()]
        if won:
            self.kept = won[-self.count :]
            return
        room = min(self.count, max(1, self.seen // _SHARE))
        order = np.argsort([-float(one.rewards.sum()) for one in known], kind="stable")[:room]
        self.kept = [known[place] for place in sorted(order)]

    def dataset(self) -> TrajectoryDataset:
        """The episodes, oldest first."""
        return TrajectoryDataset.from_trajectories(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def state_dict(self) -> dict[str, Any]:
        """Everything as tensors."""
        parts = ("states", "actions", "rewards", "success")
        return {
            "seen": self.seen,
            "terminated": torch.tensor([one.terminated for one in self.kept], dtype=torch.bool),
            **{name: [torch.from_numpy(np.array(getattr(one, name))) for one in self.kept] for name in parts},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.seen = int(state["seen"])
        parts = ("states", "actions", "rewards", "success")
        self.kept = [
            Trajectory(
                **{name: value.numpy() for name, value in zip(parts, values, strict=True)},
                terminated=bool(terminated),
                truncated=not terminated,
                task=self.task,
            )
            for terminated, *values in zip(state["terminated"], *(state[name] for name in parts), strict=True)
        ]
