"""How far a fine-tuning is: all that a checkpoint holds besides weights, optimiser and remembered episodes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

_RECENT = 100  # episodes that "success so far" is about


@dataclass
class Tuned:
    """Counters, and the generator of batches and noise. Environment seeds follow from `goals`.

    `recent` holds 1 for each of the last episodes that succeeded, 0 for the others. `scale` is the spread of rewards
    among the first episodes, the unit of the critic's; 0 before there were any.
    """

    generator: torch.Generator
    iterations: int = 0
    updates: int = 0
    goals: int = 0
    episodes: int = 0
    steps: int = 0
    scale: float = 0.0
    seconds: float = 0.0
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))

    @property
    def success(self) -> float:
        """Share of the last episodes that succeeded."""
        return sum(self.recent) / max(1, len(self.recent))

    def state_dict(self) -> dict[str, Any]:
        return {**vars(self), "generator": self.generator.get_state(), "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("iterations", "updates", "goals", "episodes", "steps", "scale", "seconds"):
            setattr(self, name, state[name])
        self.recent.clear()
        self.recent.extend(state["recent"])
        self.generator.set_state(state["generator"])
