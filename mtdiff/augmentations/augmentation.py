"""What an augmentation is.

N transitions, B batch, O state, A action. States, actions and rewards are in physical units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from mtdiff.data.trajectories import TrajectoryDataset
    from mtdiff.learners import Learner, Transitions

__all__ = ["Augmentation", "Batch"]

Batch = Mapping[str, Tensor]
"""state (B, O), action (B, A), reward (B,), next_state (B, O), terminated (B,): what `Batches.draw` returns."""


class Augmentation:
    """What a learner sees besides the recorded transitions of a task.

    One of your own is a dataclass that inherits from this class, writes one of the two methods, and is registered.
    """

    def write(self, real: TrajectoryDataset, count: int, *, seed: int) -> Transitions | None:
        """Return transitions to be added to the recorded ones; None: none.

        Args:
            real: the episodes of one task.
            count: N, how many, at least 1.
            seed: of everything that is drawn, at least 0.

        Returns:
            state (N, O), action (N, A), reward (N,), next_state (N, O), and the flags terminated and truncated (N,), as
            `TrajectoryDataset.transitions()` has them, for `train_learner`.

        Raises:
            DataError: `real` does not suit it.
            ValueError: a number is out of range.
        """
        return None

    def change(self, learner: Learner, batch: Batch) -> Batch:
        """Return a batch, recorded or written, as the learner shall see it: by default as it is.

        Hand this method to `train_learner` as `augment`.

        Args:
            learner: as it is now. What is drawn must come from its generator, so that training resumes exactly.
            batch: on the learner's device; it is not changed in place.
        """
        return batch
