"""One episode in physical units."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtdiff.errors import DataError

Label = float | int | bool | str | list[float]


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One episode in physical units.

    Args:
        states: (T + 1, O) float32, the last one is where the last action led.
        actions: (T, A) float32 in [-1, 1].
        rewards: (T,) float32.
        success: (T,) bool, whether that step was a success.
        terminated: whether the task itself ended the episode, so that nothing is to be earned after it.
        truncated: whether it was cut off instead, by a limit of steps or by whoever recorded it.
        task: the task's name.
        labels: where the episode comes from; every episode of a dataset has the same ones.

    Raises:
        DataError: shapes that do not fit, no step, numbers that are not finite, actions outside [-1, 1].
    """

    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    success: NDArray[np.bool_]
    terminated: bool
    truncated: bool
    task: str
    labels: dict[str, Label] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"trajectory of task '{self.task}'"
        for name, kind in (("states", np.float32), ("actions", np.float32), ("rewards", np.float32), ("success", bool)):
            try:
                object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), kind))
            except (ValueError, TypeError) as error:
                raise DataError(f"{where}: {name} should be an array of numbers ({error}).") from error
        steps = len(self.actions)
        if self.states.ndim != 2 or self.actions.ndim != 2 or steps == 0 or len(self.states) != steps + 1:
            raise DataError(
                f"{where}: should have states (T + 1, O) and actions (T, A) with T at least 1, "
                f"got {self.states.shape} and {self.actions.shape}."
            )
        for name in ("rewards", "success"):
            if getattr(self, name).shape != (steps,):
                raise DataError(f"{where}: {name} should be {(steps,)}, got {getattr(self, name).shape}.")
        for name in ("states", "actions", "rewards"):
            values = getattr(self, name)
            if not np.isfinite(values).all():
                bad = np.argwhere(~np.isfinite(values))[0]
                raise DataError(f"{where}: {name} are not all finite: {values[tuple(bad)]} at {_place(bad)}.")
        if np.abs(self.actions).max(initial=0.0) > 1.0:
            bad = np.argwhere(np.abs(self.actions) > 1.0)[0]
            raise DataError(
                f"{where}: actions should be in [-1, 1], got {self.actions[tuple(bad)]:.4g} at {_place(bad)}; "
                f"the largest is {np.abs(self.actions).max():.4g}."
            )

    def __len__(self) -> int:
        return len(self.actions)


def _place(index: NDArray[np.intp]) -> str:
    """Where in an array of (T,) or (T, width) an index points."""
    return f"step {index[0]}" + (f", dimension {index[1]}" if len(index) > 1 else "")
