"""Tasks without a simulator: what data were recorded somewhere else need in order to be trained on.

    suite: {name: offline, tasks: [stack, pour], state_dim: 24, action_dim: 7}

A planner trained so is used from Python, `pipe(prompt=..., history=...)`. To evaluate it, name a suite that can run
episodes, with states and actions of the same sizes: `mtdiff evaluate RUN suite.name=gymnasium suite.id=...`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mtdiff.environments.suite import Environment
from mtdiff.errors import EnvironmentFault, RecipeError, at_least
from mtdiff.registry import SUITES


@SUITES.register("offline")
class Offline:
    """Tasks of which there are only data: training works, evaluation and collection are refused.

    Args:
        tasks: their names, as in the data.
        state_dim: O, numbers of a state.
        action_dim: A, numbers of an action.

    Raises:
        RecipeError: no task, or the same one twice.
        ValueError: a size below 1.
    """

    name = "offline"
    gripper = None
    has_demonstrator = False
    has_success = False

    def __init__(self, *, tasks: list[str], state_dim: int, action_dim: int) -> None:
        at_least(1, state_dim=state_dim, action_dim=action_dim)
        if not tasks:
            raise RecipeError("suite.tasks: no task named. Name those of the data.")
        if twice := [task for task in tasks if tasks.count(task) > 1]:
            raise RecipeError(f"suite.tasks: each should be named once, got '{twice[0]}' twice.")
        self.tasks = list(tasks)
        self.state_dim, self.action_dim = state_dim, action_dim

    @property
    def max_steps(self) -> int:
        """Refuse: whoever asks how long an episode may be wants to run one.

        Raises:
            EnvironmentFault: always.
        """
        self._refuse("no episode can be run")

    def describe(self) -> dict[str, Any]:
        """Return the name and arguments."""
        return {
            "name": self.name,
            "tasks": list(self.tasks),
            "state_dim": self.state_dim,
            "action_dim": self.action_dim,
        }

    def versions(self) -> dict[str, str]:
        """Return nothing: there is no simulator."""
        return {}

    def make(self, task: str) -> Environment:
        """Refuse.

        Raises:
            EnvironmentFault: always.
        """
        self._refuse(f"'{task}' cannot be made")

    def demonstrator(self, task: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """Refuse.

        Raises:
            EnvironmentFault: always.
        """
        self._refuse(f"'{task}' cannot be demonstrated")

    def _refuse(self, what: str) -> NoReturn:
        raise EnvironmentFault(
            f"offline: this suite has no simulator, so {what}. To train, bring data: "
            "data: {name: folder, path: FOLDER}. To evaluate or collect, name a suite that has one: "
            "suite.name=gymnasium suite.id=..., or your own."
        )
