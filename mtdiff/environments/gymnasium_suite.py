"""Any Gymnasium environment whose states and actions are vectors: one task, or several of equal sizes.

Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024.

One environment is one task, called by its id:

    suite: {name: gymnasium, id: Pendulum-v1}

Several tasks are one environment made in several ways, or several ids:

    suite:
      name: gymnasium
      id: Pendulum-v1
      tasks:
        earth: {}
        moon: {g: 1.62}
      success_return: -300

    suite: {name: gymnasium, tasks: {cheetah: HalfCheetah-v5, again: {id: HalfCheetah-v5, forward_reward_weight: 2}}}

An environment of your own is registered by a module that `imports` names:

    # my_package/arm.py
    gymnasium.register("Arm-v0", entry_point="my_package.arm:Arm", max_episode_steps=200)

    suite: {name: gymnasium, id: Arm-v0, imports: [my_package.arm], success_key: is_success}

There is no scripted expert, so the data are brought along; see `TrajectoryDataset.from_arrays`.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.environments.gymnasium_environment import GymnasiumEnvironment
from mtdiff.environments.gymnasium_source import Layout, Source, layout
from mtdiff.errors import EnvironmentFault, RecipeError, choices
from mtdiff.registry import SUITES

_OURS = {
    "id": "names the environment: write suite.id, or tasks: {TASK: {id: ...}}",
    "max_episode_steps": "is suite.max_steps",
    "render_mode": "is chosen by whoever wants a picture",
    "disable_env_checker": "is always true",
}


@SUITES.register("gymnasium")
class Gymnasium:
    """Gymnasium environments with vectors for states (Box, or Dict, flattened) and bounded actions (Box).

    Actions in [-1, 1] are scaled to the bounds of the environment. Success is what `success_key` or
    `success_return` says; where neither does, results are returns. One environment of each task is made to read
    its sizes.

    Args:
        id: of the registry, such as HalfCheetah-v5; "module:id" imports the module first.
        tasks: task names, each with an id or with arguments for `gymnasium.make` (an id may be among them); null
            means one task, called like the id. All have states and actions of one size.
        arguments: for `gymnasium.make`, for all tasks.
        max_steps: limit of an episode; null means the registry's.
        success_key: the entry of a step's info that says whether it is a success; null looks for success and
            is_success.
        success_return: an episode whose whole return is at least this is a success; instead of success_key.
        imports: modules that register environments.

    Raises:
        RecipeError: an unknown id, a missing package, spaces that are no vectors or differ between tasks,
            unbounded actions, no limit of steps, arguments that YAML cannot say.
    """

    name = "gymnasium"
    gripper = None
    has_demonstrator = False

    def __init__(
        self,
        *,
        id: str | None = None,
        tasks: dict[str, str | dict[str, Any]] | None = None,
        arguments: dict[str, Any] | None = None,
        max_steps: int | None = None,
        success_key: str | None = None,
        success_return: float | None = None,
        imports: list[str] | None = None,
    ) -> None:
        if id is None and not tasks:
            raise RecipeError("suite.id: names no environment. Name one, for example 'Pendulum-v1'.")
        if max_steps is not None and max_steps < 1:
            raise RecipeError(f"suite.max_steps: should be at least 1, got {max_steps}.")
        if success_key is not None and success_return is not None:
            raise RecipeError("suite.success_return: should not be set beside success_key. Choose one of them.")
        self._arguments: dict[str, Any] = {
            "id": id,
            "tasks": tasks,
            "arguments": arguments or {},
            "max_steps": max_steps,
            "success_return": success_return,
            "imports": list(imports or ()),
        }
        for key in ("arguments", "tasks"):
            _require_plain(key, self._arguments[key])
        _refuse_ours("arguments", self._arguments["arguments"])
        self._sources = self._read(id, tasks, arguments or {}, max_steps, tuple(imports or ()))
        self.tasks = list(self._sources)
        layouts = {task: layout(source) for task, source in self._sources.items()}
        first = layouts[self.tasks[0]]
        self.state_dim, self.action_dim = first.state_dim, first.action_dim
        for task, other in layouts.items():
            if _sizes(other) != _sizes(first):
                raise RecipeError(
                    f"suite.tasks: all should have the sizes of '{self.tasks[0]}', {_sizes(first)}, "
                    f"got {_sizes(other)} for '{task}'."
                )
        self.max_steps = max(other.max_steps for other in layouts.values())
        if success_key is None and success_return is None:
            success_key = next(
                (key for key in first.success_keys if all(key in o.success_keys for o in layouts.values())), None
            )
        self.success_key, self.success_return = success_key, success_return
        self.has_success = success_key is not None or success_return is not None
        self._packages = sorted({name for other in layouts.values() for name in other.packages})

    @property
    def draws_with(self) -> str | None:
        """ "mujoco" if its renderer is needed for pictures, None if it is not known what is."""
        return "mujoco" if "mujoco" in self._packages else None

    def describe(self) -> dict[str, Any]:
        """Return the name and arguments, the success key resolved."""
        return {"name": self.name, **self._arguments, "success_key": self.success_key}

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that the environments come from."""
        known = importlib.metadata.packages_distributions()
        found = {known[package][0] for package in (*self._packages, "gymnasium") if package in known}
        return {name: importlib.metadata.version(name) for name in sorted(found)}

    def make(self, task: str) -> GymnasiumEnvironment:
        """Make the environment of one of this suite's tasks.

        Raises:
            EnvironmentFault: the task is not in this suite.
        """
        self._require(task)
        return GymnasiumEnvironment(
            task=task,
            source=self._sources[task],
            success_key=self.success_key,
            success_return=self.success_return,
        )

    def demonstrator(self, task: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """Refuse: Gymnasium has environments, but nobody who can do what they ask for.

        Raises:
            EnvironmentFault: always.
        """
        self._require(task)
        raise EnvironmentFault(
            f"gymnasium: '{task}' has no scripted expert; bring data: TrajectoryDataset.from_arrays(...).save(FOLDER) "
            "in Python, then data: {name: folder, path: FOLDER} in the recipe."
        )

    @staticmethod
    def _read(
        id: str | None,
        tasks: dict[str, str | dict[str, Any]] | None,
        arguments: dict[str, Any],
        max_steps: int | None,
        imports: tuple[str, ...],
    ) -> dict[str, Source]:
        """What each task is made from."""
        if tasks is None:
            assert id is not None
            tasks = {re.sub(r"[^\w.+-]", "-", id.rpartition(":")[2]): id}
        sources = {}
        for task, told in tasks.items():
            if not re.fullmatch(r"[\w.+-]+", task):
                raise RecipeError(
                    f"suite.tasks: '{task}' cannot be the name of a task, which names files. "
                    "Allowed: letters, digits and any of _ . + -."
                )
            own = {"id": told} if isinstance(told, str) else dict(told)
            named = own.pop("id", id)
            if not isinstance(named, str):
                raise RecipeError(f"suite.tasks: '{task}' names no environment. Give it an id, or set suite.id.")
            _refuse_ours(f"tasks.{task}", own)
            sources[task] = Source.of(named, {**arguments, **own}, max_steps=max_steps, imports=imports)
        return sources

    def _require(self, task: str) -> None:
        if task not in self.tasks:
            raise EnvironmentFault(f"gymnasium: {choices('task', task, self.tasks)}")


def _sizes(found: Layout) -> str:
    return f"{found.state_dim} state and {found.action_dim} action numbers"


def _require_plain(key: str, value: Any) -> None:
    try:
        plain = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        plain = False
    if not plain:
        raise RecipeError(
            f"suite.{key}: should be made of what YAML can say (finite numbers, strings, true, false, null, lists, "
            f"mappings with strings for keys), got {value!r}."
        )


def _refuse_ours(place: str, arguments: dict[str, Any]) -> None:
    for key, why in _OURS.items():
        if key in arguments:
            raise RecipeError(f"suite.{place}: {key} cannot be given: it {why}.")
