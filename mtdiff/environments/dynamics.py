"""What would the real simulator have done? Its next states for given states and actions, to judge written data by.

N rows, O state, A action; physical units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtdiff.errors import EnvironmentFault

Parts = Mapping[str, Sequence[int]]  # name of a part of the state: which of its O numbers belong to it


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """What a simulator made of N states and actions.

    Attributes:
        next_states: (N, O); NaN in rows that were not restored.
        rewards: (N,); NaN in rows that were not restored, and everywhere if the simulator cannot tell rewards.
        restored: (N,) bool, whether the simulator has a state that looks like the given one.
    """

    next_states: NDArray[np.float64]
    rewards: NDArray[np.float64]
    restored: NDArray[np.bool_]


class Dynamics(Protocol):
    """The simulator of one task, which can be set to a state.

    Attributes:
        task: its name.
        parts: of the state, by name. The part "previous", if there is one, repeats as many of the first numbers of
            the state before.
        blurred: parts whose next value depends so much on what a state does not show that the simulator's answer
            says little; errors are reported for them but left out of the total.
    """

    task: str
    parts: Parts
    blurred: tuple[str, ...]

    def step(self, states: NDArray[np.floating], actions: NDArray[np.floating]) -> Stepped:
        """Set the simulator to each state (N, O), execute the action beside it (N, A), and look."""
        ...

    def close(self) -> None:
        """Free the simulator."""
        ...


def dynamics_of(suite: Any, task: str) -> Dynamics:
    """Return the real dynamics of a suite's task.

    Raises:
        EnvironmentFault: the suite's simulator cannot be set to a state, or the task is not in the suite.
    """
    make = getattr(suite, "dynamics", None)
    if make is None:
        raise EnvironmentFault(
            f"{suite.name}: this suite's simulator cannot be set to a given state (the suite has no method "
            f"dynamics(task)), so the dynamics error of '{task}' cannot be measured. Other measures of fidelity can."
        )
    dynamics: Dynamics = make(task)
    return dynamics


def checked(
    task: str, states: Any, actions: Any, *, state_dim: int, action_dim: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return states (N, O) and actions (N, A) as float64.

    Raises:
        EnvironmentFault: one is of another shape, or not finite.
    """
    arrays = []
    for name, values, width in (("states", states, state_dim), ("actions", actions, action_dim)):
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (len(states), width):
            raise EnvironmentFault(f"{task}: {name}: should have shape ({len(states)}, {width}), got {array.shape}.")
        if not np.isfinite(array).all():
            rows = int((~np.isfinite(array).all(axis=1)).sum())
            raise EnvironmentFault(f"{task}: {name}: should be finite numbers, got NaN or infinity in {rows} rows.")
        arrays.append(array)
    return arrays[0], arrays[1]
