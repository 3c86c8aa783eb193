"""Meta-World 3: 50 manipulation tasks of one robot arm, with a new random goal in every episode.

McLean et al., "Meta-World+: An Improved, Standardized, RL Benchmark", 2025; Yu et al., "Meta-World", CoRL
2020.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtdiff.environments.metaworld_environment import ACTION_DIM, STATE_DIM, MetaWorldEnvironment, catalogue
from mtdiff.errors import EnvironmentFault, RecipeError, choices
from mtdiff.registry import SUITES

if TYPE_CHECKING:
    from mtdiff.environments.metaworld_dynamics import MetaWorldDynamics

GRIPPER = 3  # channel of an action
LIMIT = 500  # the simulator refuses to go on after so many steps

_SPLITS = {
    "mt10": ("MT10_V3", None),
    "mt25": ("MT25_V3", None),
    "mt50": ("MT50_V3", None),
    "ml10_train": ("ML10_V3", "train"),
    "ml10_test": ("ML10_V3", "test"),
    "ml25_train": ("ML25_V3", "train"),
    "ml25_test": ("ML25_V3", "test"),
    "ml45_train": ("ML45_V3", "train"),
    "ml45_test": ("ML45_V3", "test"),
}


def resolve_tasks(tasks: str | Sequence[str]) -> list[str]:
    """Return the full task names that a spelling stands for, in order, each once. Makes no environment.

    Args:
        tasks: `"reach"`, `"reach-v3"`, a set (`"mt10"`, `"mt25"`, `"mt50"`, `"ml45_train"`, `"ml45_test"`,
            likewise `ml10_` and `ml25_`), or a list that mixes them.

    Raises:
        RecipeError: an unknown name, with the closest match, or no name at all.
    """
    sets = catalogue()
    known = list(sets.ALL_V3_ENVIRONMENTS)
    found: dict[str, None] = {}
    for entry in [tasks] if isinstance(tasks, str) else tasks:
        if entry in _SPLITS:
            attribute, part = _SPLITS[entry]
            split = getattr(sets, attribute)
            found.update(dict.fromkeys(split[part] if part else split))
        elif entry in known or f"{entry}-v3" in known:
            found[entry if entry in known else f"{entry}-v3"] = None
        else:
            allowed = [*_SPLITS, *(name.removesuffix("-v3") for name in known)]
            raise RecipeError(f"suite.tasks: {choices('task', entry, allowed)}")
    if not found:
        raise RecipeError("suite.tasks: no task named. Name at least one, for example 'reach' or 'mt10'.")
    return list(found)


@SUITES.register("metaworld")
class MetaWorld:
    """Meta-World's tasks with unlimited random goals: 39 state numbers, 4 action numbers in [-1, 1].

    The state holds this frame's 18 numbers (hand, gripper, objects), the previous frame's, and the goal's
    position.

    Args:
        tasks: a task ("reach" or "reach-v3"), a set (mt10, mt25, mt50, ml10_train, ml10_test, ml25_train,
            ml25_test, ml45_train, ml45_test) or a list of both.
        goal_visible: whether the state holds the goal's position; three zeros otherwise.
        max_steps: an episode is truncated after so many steps, 1 to 500.
        reward: version of the reward function; v2 is between 0 and 10 per step.

    Raises:
        RecipeError: unknown task, or a number of steps the simulator does not allow.
    """

    name = "metaworld"
    state_dim = STATE_DIM
    action_dim = ACTION_DIM
    gripper = GRIPPER

    def __init__(
        self,
        *,
        tasks: str | list[str] = "mt10",
        goal_visible: bool = True,
        max_steps: int = LIMIT,
        reward: Literal["v1", "v2"] = "v2",
    ) -> None:
        if not 1 <= max_steps <= LIMIT:
            raise RecipeError(f"suite.max_steps: Meta-World's episodes have 1 to {LIMIT} steps, got {max_steps}.")
        if reward not in ("v1", "v2"):
            raise RecipeError(f"suite.reward: {choices('reward', reward, ('v1', 'v2'))}")
        self.tasks = resolve_tasks(tasks)
        self.goal_visible = goal_visible
        self.max_steps = max_steps
        self.reward = reward

    def describe(self) -> dict[str, Any]:
        """Return the name and arguments, tasks resolved."""
        return {
            "name": self.name,
            "tasks": list(self.tasks),
            "goal_visible": self.goal_visible,
            "max_steps": self.max_steps,
            "reward": self.reward,
        }

    def versions(self) -> dict[str, str]:
        """Return the versions of the simulator packages."""
        return {name: importlib.metadata.version(name) for name in ("metaworld", "mujoco", "gymnasium")}

    def make(self, task: str) -> MetaWorldEnvironment:
        """Make the environment of one of this suite's tasks.

        Raises:
            EnvironmentFault: the task is not in this suite.
        """
        self._require(task)
        return MetaWorldEnvironment(
            task=task, goal_visible=self.goal_visible, max_steps=self.max_steps, reward=self.reward
        )

    def demonstrator(self, task: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """Return Meta-World's scripted expert, from `full_state` (39,) to an action (4,) clipped to [-1, 1].

        Raises:
            EnvironmentFault: the task is not in this suite.
        """
        self._require(task)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from metaworld.policies import ENV_POLICY_MAP
        policy: Any = ENV_POLICY_MAP[task]  # typed as the abstract class it derives from
        policy = policy()

        def act(state: NDArray[np.float32]) -> NDArray[np.float32]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns of actions outside [-1, 1], which are clipped here
                action = policy.get_action(np.asarray(state, dtype=np.float64))
            return np.clip(action, -1.0, 1.0).astype(np.float32)

        return act

    def dynamics(self, task: str, *, episodes: int = 60, seed: int = 0) -> MetaWorldDynamics:
        """Return the task's simulator that can be set to a state; see `MetaWorldDynamics`.

        Raises:
            EnvironmentFault: the task is not in this suite, or its states hide the goal.
        """
        from mtdiff.environments.metaworld_dynamics import MetaWorldDynamics

        if not self.goal_visible:
            raise EnvironmentFault(
                "metaworld: with goal_visible: false a state does not tell where goal and furniture are, so the "
                "simulator cannot be set to it. Measure with goal_visible: true."
            )
        return MetaWorldDynamics(self.make(task), act=self.demonstrator(task), episodes=episodes, seed=seed)

    def _require(self, task: str) -> None:
        if task not in self.tasks:
            raise EnvironmentFault(f"metaworld: {choices('task', task, self.tasks)}")
