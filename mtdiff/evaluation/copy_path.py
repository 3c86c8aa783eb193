"""An agent that copies the way of the demonstration it is shown: what a prompt gives away without any learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtdiff.errors import EnvironmentFault

if TYPE_CHECKING:
    from mtdiff.environments.suite import Suite


class CopyPathAgent:
    """Goes straight to the nearest point of the shown path and then along it, whatever is in the way.

    Args:
        suite: its `follower(task, states)` is the controller that follows a path.
        prompts: of every task one or more demonstrations: states (J, O) each.

    Raises:
        EnvironmentFault: the suite has no such controller.
    """

    def __init__(self, suite: Suite, prompts: Mapping[str, Sequence[np.ndarray]]) -> None:
        self._follower: Callable[[str, np.ndarray], Callable[[np.ndarray], np.ndarray]] | Any
        self._follower = getattr(suite, "follower", None)
        if self._follower is None:
            raise EnvironmentFault(f"{suite.name}: has no follower(task, states), so no path can be copied.")
        self._prompts = prompts
        self._policies: list[Callable[[np.ndarray], np.ndarray]] = []

    def reset(self, tasks: Sequence[str], seeds: Sequence[int]) -> None:
        """Choose a demonstration of each slot's task by its seed."""
        self._policies = []
        for task, seed in zip(tasks, seeds, strict=True):
            shown = self._prompts[task]
            self._policies.append(self._follower(task, shown[int(np.random.default_rng(seed).integers(len(shown)))]))

    def act(self, states: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Return the controllers' actions (n, A) for states (n, O)."""
        return np.stack([self._policies[slot](state) for slot, state in zip(slots, states, strict=True)])
