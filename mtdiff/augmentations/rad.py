"""RAD (Laskin et al. 2020): states of another amplitude."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mtdiff.augmentations.augmentation import Augmentation, Batch
from mtdiff.registry import AUGMENTATIONS

if TYPE_CHECKING:
    from mtdiff.learners import Learner


@AUGMENTATIONS.register("rad")
@dataclass(frozen=True, kw_only=True)
class RAD(Augmentation):
    """Random amplitude scaling: a state and its next state times one number z, drawn for every transition.

    Laskin et al., "Reinforcement Learning with Augmented Data", NeurIPS 2020. States are scaled in physical units,
    around zero.

    Args:
        low: least z, above 0.
        high: largest z, at least `low`.

    Raises:
        ValueError: an argument is out of range.
    """

    low: float = 0.8
    high: float = 1.2

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(f"low, high: need 0 < low <= high, got {self.low}, {self.high}")

    def change(self, learner: Learner, batch: Batch) -> Batch:
        """Return the batch with scaled states."""
        count, device = len(batch["state"]), batch["state"].device
        z = torch.rand(count, 1, generator=learner.generator, device=device) * (self.high - self.low) + self.low
        return {**batch, "state": batch["state"] * z, "next_state": batch["next_state"] * z}
