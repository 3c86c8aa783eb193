"""More recorded transitions: what synthetic ones are a substitute for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mtdiff.augmentations.augmentation import Augmentation
from mtdiff.data.trajectories import TrajectoryDataset  # at run time: its signature is read
from mtdiff.errors import at_least
from mtdiff.registry import AUGMENTATIONS

if TYPE_CHECKING:
    from mtdiff.learners import Transitions


@AUGMENTATIONS.register("recorded", runtime=("reference",))
@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded(Augmentation):
    """Transitions of further recorded episodes of the task: how much there is to be gained at all.

    No rival, but the bar that synthetic data would reach if they were as good as real ones.

    Args:
        reference: those episodes.
    """

    reference: TrajectoryDataset

    def write(self, real: TrajectoryDataset, count: int, *, seed: int) -> Transitions:
        """Draw `count` of their transitions, without repetition as long as there are enough."""
        at_least(1, count=count)
        at_least(0, seed=seed)
        random, there = np.random.default_rng(seed), self.reference.num_steps
        rows = np.concatenate([random.permutation(there) for _ in range(-(-count // there))])[:count]
        return {name: values[rows] for name, values in self.reference.transitions().items()}
