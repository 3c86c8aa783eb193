"""What a suite of environments is, and where every random number of an episode comes from."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtdiff.errors import EnvironmentFault, choices

PURPOSES = ("data", "prompts", "evaluation", "video", "finetuning")


class Environment(Protocol):
    """One task whose every episode has a new random goal. Lives in one process."""

    task: str

    @property
    def goal(self) -> list[float]:
        """The random numbers that make this episode's goal (and start) different from another's."""
        ...

    @property
    def full_state(self) -> NDArray[np.float32]:
        """The state (O,) with the goal in it, also where the agent's state hides it: for scripted experts."""
        ...

    def reset(self, seed: int) -> NDArray[np.float32]:
        """Start the episode that belongs to `seed`, bit for bit the same always; return its state (O,)."""
        ...

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, bool]:
        """Execute an action (A,), clipped to [-1, 1].

        Returns:
            state (O,), reward, success in this step, terminated, truncated.
        """
        ...

    def render(self, size: int) -> NDArray[np.uint8]:
        """Return a picture (size, size, 3), right way up."""
        ...

    def close(self) -> None:
        """Free the simulator."""
        ...


class Suite(Protocol):
    """Tasks that share their state and action spaces.

    A suite is rebuilt in worker processes from `describe()`, so making one must be cheap and its class
    importable.

    It may also have attributes that say what it lacks; without them it lacks nothing: `has_demonstrator` (false:
    `demonstrator` raises), `has_success` (false: no step is ever a success, results are returns), `draws_with`
    ("mujoco": pictures need MuJoCo's renderer; None: nobody knows before the first picture). A suite whose simulator
    can be set to a state also has `dynamics(task)`, see `mtdiff.environments.dynamics`. One with `scores(task, states
    (T + 1, O), success_step)` says more of an episode than its success: numbers by name, of which an evaluation reports
    the means. One with maps has `map(task)`, `grid(task)` (R, C) and `map_shape`, see `mtdiff.environments.maze2d`.
    """

    name: str
    tasks: list[str]
    state_dim: int
    action_dim: int
    gripper: int | None  # the action channel that closes a gripper, if there is one
    max_steps: int

    def make(self, task: str) -> Environment:
        """Make the environment of a task; called in the process that will step it."""
        ...

    def demonstrator(self, task: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """Return the scripted expert of a task: `full_state` (O,) to action (A,) in [-1, 1]."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return `{"name": ..., **arguments}`, enough to build an equal suite."""
        ...

    def versions(self) -> dict[str, str]:
        """Return the versions of the simulator packages."""
        ...


def seed_of(seed: int, purpose: str, task: str, episode: int, attempt: int = 0) -> int:
    """Return the seed of one episode, in [0, 2**53).

    Streams of different purposes never meet, so goals of an evaluation are never goals of the data, and no
    seed depends on how many workers there are or which other tasks take part.

    Args:
        seed: the experiment's seed, at least 0.
        purpose: one of `PURPOSES`.
        task: the task's name.
        episode: the episode's number within the task and purpose.
        attempt: how often this episode was tried before.

    Raises:
        EnvironmentFault: an unknown purpose or a negative number.
    """
    if purpose not in PURPOSES:
        raise EnvironmentFault(f"seed_of: {choices('purpose', purpose, PURPOSES)}")
    if min(seed, episode, attempt) < 0:
        raise EnvironmentFault(f"seed_of: seed, episode and attempt are at least 0, got {seed}, {episode}, {attempt}.")
    digest = hashlib.sha256(f"{purpose}/{task}".encode()).digest()
    key = [seed, int.from_bytes(digest[:8], "little"), episode, attempt]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(11))


def portable(part: Any) -> dict[str, Any]:
    """Return what another process needs to build an equal suite or source: where its class is, and its
    arguments.

    Raises:
        EnvironmentFault: the class was made inside a function or the main script, where no other process
            finds it.
    """
    kind = type(part)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise EnvironmentFault(
            f"{kind.__qualname__}: worker processes cannot import a class defined in {kind.__module__}; "
            "move it to a module of its own."
        )
    arguments = {key: value for key, value in part.describe().items() if key != "name"}
    return {"module": kind.__module__, "class": kind.__qualname__, "arguments": arguments}


def rebuild(description: dict[str, Any]) -> Any:
    """Build the part that `portable` described."""
    target: Any = importlib.import_module(description["module"])
    for name in description["class"].split("."):
        target = getattr(target, name)
    return target(**description["arguments"])
