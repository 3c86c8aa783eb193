"""As many rows as a synthesizer adds, and nothing new in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mtdiff.augmentations.augmentation import Augmentation
from mtdiff.data.returns import best_of_each_task
from mtdiff.errors import at_least
from mtdiff.registry import AUGMENTATIONS

if TYPE_CHECKING:
    from mtdiff.data.trajectories import TrajectoryDataset
    from mtdiff.learners import Transitions


@AUGMENTATIONS.register("duplicate")
@dataclass(frozen=True, kw_only=True)
class Duplicate(Augmentation):
    """The recorded transitions once more, drawn with replacement: it shows what the number of rows alone does.

    Args:
        best_episodes: share of the episodes, those of the highest returns, that are drawn from; above 0, at most 1.
            The rival of a synthesizer that learns from its best episodes alone: `training.best_episodes`.

    Raises:
        ValueError: it is outside 0..1.
    """

    best_episodes: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.best_episodes <= 1:
            raise ValueError(f"best_episodes: must be above 0 and at most 1, got {self.best_episodes}")

    def write(self, real: TrajectoryDataset, count: int, *, seed: int) -> Transitions:
        """Draw `count` of the recorded transitions, each as likely; with every field that they have."""
        at_least(1, count=count)
        at_least(0, seed=seed)
        kept = real if self.best_episodes == 1 else best_of_each_task(real, self.best_episodes)
        transitions = kept.transitions()
        rows = np.random.default_rng(seed).integers(kept.num_steps, size=count)
        return {name: values[rows] for name, values in transitions.items()}
