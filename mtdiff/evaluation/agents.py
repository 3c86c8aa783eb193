"""What acts in an environment, and two agents every result should be read beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mtdiff.errors import EnvironmentFault

if TYPE_CHECKING:
    from mtdiff.environments.suite import Suite


class Agent(Protocol):
    """Acts in many environments at once, each in its own slot, numbered from 0.

    An agent may also have an attribute `plan_seconds`, a list of (environments planned for, seconds) to
    which it appends; the evaluation reports its percentiles. One that looks at rewards has a method
    `observe(rewards, slots)`, called after every step with rewards (n,) of the slots that acted.
    """

    def reset(self, tasks: Sequence[str], seeds: Sequence[int]) -> None:
        """Begin new episodes: slot i is to do `tasks[i]`; its random numbers follow from `seeds[i]`."""

    def act(self, states: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Return actions (n, A) in [-1, 1] for the states (n, O) of the n slots that are still running."""


class ScriptedAgent:
    """The suite's own demonstrator: what a perfect imitator of the data's expert would reach.

    Args:
        suite: its `demonstrator(task)` gives the scripted policy.

    Raises:
        EnvironmentFault: the suite hides the goal, which the script needs to see.
    """

    def __init__(self, suite: Suite) -> None:
        if suite.describe().get("goal_visible") is False:
            raise EnvironmentFault(f"{suite.name}: the demonstrator needs goal_visible: true, got false.")
        self.suite = suite
        self._policies: list[Callable[[np.ndarray], np.ndarray]] = []

    def reset(self, tasks: Sequence[str], seeds: Sequence[int]) -> None:
        """Take a fresh policy for every slot, because a script may keep state."""
        self._policies = [self.suite.demonstrator(task) for task in tasks]

    def act(self, states: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Return the scripts' actions (n, A) for states (n, O)."""
        return np.stack([self._policies[slot](state) for slot, state in zip(slots, states, strict=True)])


class RandomAgent:
    """Uniform actions: what a task gives away for nothing.

    Args:
        action_dim: number of action dimensions A.
    """

    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim
        self._rngs: list[np.random.Generator] = []

    def reset(self, tasks: Sequence[str], seeds: Sequence[int]) -> None:
        """Give every slot its own generator, so that an episode does not depend on its neighbours."""
        self._rngs = [np.random.default_rng(seed) for seed in seeds]

    def act(self, states: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Return uniform actions (n, A) in [-1, 1]."""
        actions = [self._rngs[slot].uniform(-1.0, 1.0, self.action_dim) for slot in slots]
        return np.stack(actions).astype(np.float32)
