"""What `mtdiff augment` compares: the `augment:` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mtdiff.errors import RecipeError

ORIGINAL = "original"
"""Label of the learner that sees the recorded transitions alone, with which every other is compared."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Settings of `mtdiff augment`.

    A target is a task of which there are few episodes. It is "seen" if it is among the recipe's tasks: then the
    synthesizer is trained on those few episodes too, and on all there are of the other tasks. If it is not, it is
    "unseen", and the synthesizer knows nothing of it but its prompts.

    Args:
        targets: names of tasks, as in `suite.tasks`.
        episodes: E, recorded episodes of each target. The prompt demonstrations, `data.prompts_per_task` of them, are
            added to what every learner sees, since a synthesizer is shown them.
        synthetic_per_real: transitions that are written for each recorded one; batches draw from both alike.
        learner: what learns from them.
        updates: of each learner, whatever it learns from.
        batch: transitions of an update.
        seeds: learners of each kind: weights, batches, written data and the goals of evaluation change with the seed,
            and are the same for every augmentation.
        episodes_per_seed: evaluation episodes of each learner.
        max_steps: steps after which such an episode has failed; null means the suite's own limit.
        reference_episodes: episodes of each target that nobody learns from: what is written is measured against them.
        fidelity_samples: transitions of each augmentation that are put into the simulator.
    """

    targets: tuple[str, ...]
    episodes: int = 20
    synthetic_per_real: float = 2.0
    learner: dict[str, Any] | str = "td3_bc"
    updates: int = 10_000
    batch: int = 256
    seeds: int = 5
    episodes_per_seed: int = 20
    max_steps: int | None = None
    reference_episodes: int = 50
    fidelity_samples: int = 500

    def __post_init__(self) -> None:
        if not self.targets:
            raise RecipeError("targets: should be at least one task, got none.")
        if len(set(self.targets)) < len(self.targets):
            twice = next(task for task in self.targets if self.targets.count(task) > 1)
            raise RecipeError(f"targets: {twice} is there twice.")
        least = {"seeds": 2, "episodes": 2, "reference_episodes": 2, "fidelity_samples": 2}
        for name in ("updates", "batch", "episodes_per_seed", *least):
            if getattr(self, name) < least.get(name, 1):
                raise RecipeError(f"{name}: should be at least {least.get(name, 1)}, got {getattr(self, name)}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise RecipeError(f"max_steps: should be at least 1, got {self.max_steps}.")
        if not 0 < self.synthetic_per_real < float("inf"):
            raise RecipeError(f"synthetic_per_real: should be above 0, got {self.synthetic_per_real}.")
