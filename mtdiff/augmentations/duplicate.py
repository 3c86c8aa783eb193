"""As many rows as a synthesizer adds, and nothing new in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mtdiff.augmentations.augmentation import Augmentation
from mtdiff.errors import at_least
from mtdiff.registry import AUGMENTATIONS

if TYPE_CHECKING:
    from mtdiff.data.trajectories import TrajectoryDataset
    from mtdiff.learners import Transitions


@AUGMENTATIONS.register("duplicate")
@dataclass(frozen=True, kw_only=True)
class Duplicate(Augmentation):
    """The recorded transitions once more, drawn with replacement: it shows what the number of rows alone does."""

    def write(self, real: TrajectoryDataset, count: int, *, seed: int) -> Transitions:
        """Draw `count` of the recorded transitions, each equally likely; with every field that they have."""
        at_least(1, count=count)
        at_least(0, seed=seed)
        transitions = real.transitions()
        rows = np.random.default_rng(seed).integers(real.num_steps, size=count)
        return {name: values[rows] for name, values in transitions.items()}
