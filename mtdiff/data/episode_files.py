"""Episodes of others as arrays: the keys that MTDiff's authors, HarmoDT and D4RL agree on, one episode a file.

    observations (T, O)   actions (T, A)   rewards (T,)   next_observations (T, O)   terminals (T,)

`terminals` is 1 at the last of 500 steps, where a limit of steps cut the episode off: that is a truncation here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.trajectory import Label, Trajectory
from mtdiff.errors import DataError

KEYS = ("observations", "actions", "rewards", "next_observations", "terminals")


def episode_from(arrays: Mapping[str, Any], *, task: str, where: str, labels: Mapping[str, Label]) -> Trajectory:
    """Make a trajectory of an episode's arrays.

    Actions beyond [-1, 1] are clipped, as the simulator does with them; the label `clipped` counts the numbers.

    Args:
        arrays: `KEYS`; `success` (T,) too if it was recorded.
        task: the task's name.
        where: the beginning of messages: the file.
        labels: of the episode.

    Raises:
        DataError: a missing key, shapes that do not fit, several episodes in one.
    """
    if missing := [key for key in KEYS if key not in arrays]:
        raise DataError(
            f"{where}: has no {', '.join(missing)}. An episode has {', '.join(KEYS)}; got {_names(arrays)}."
        )
    try:
        found = {key: np.asarray(arrays[key], np.float32) for key in (*KEYS, *(("success",) * ("success" in arrays)))}
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: should hold arrays of numbers ({error}).") from error
    states, last = found["observations"], found["next_observations"]
    steps = len(found["actions"]) if found["actions"].ndim == 2 else 0
    if not steps or states.ndim != 2 or states.shape != last.shape or len(states) != steps:
        raise DataError(
            f"{where}: observations and next_observations should be (T, O) and actions (T, A), got "
            f"{states.shape}, {last.shape} and {found['actions'].shape}."
        )
    for key in ("rewards", "terminals", "success"):
        if key in found and found[key].size != steps:
            raise DataError(f"{where}: {key} should be ({steps},) or ({steps}, 1), got {found[key].shape}.")
    ends = np.flatnonzero(found["terminals"].reshape(-1)[:-1])
    if len(ends):
        raise DataError(f"{where}: terminals should be 1 at the last step only, got 1 at step {ends[0]} of {steps}.")
    actions, clipped = clip(found["actions"])
    success = found["success"].reshape(-1) > 0 if "success" in found else np.zeros(steps, bool)
    try:
        return Trajectory(
            states=np.concatenate([states, last[-1:]]),
            actions=actions,
            rewards=found["rewards"].reshape(-1),
            success=success,
            terminated=False,
            truncated=True,
            task=task,
            labels={**labels, "clipped": clipped},
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def clip(actions: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """Return actions inside [-1, 1], and how many numbers were not. NaN stays, to be refused."""
    return np.clip(actions, -1.0, 1.0), int((np.abs(actions) > 1.0).sum())


def read_npz(path: Path, *, task: str, labels: Mapping[str, Label] | None = None) -> Trajectory:
    """Read one episode.

    Raises:
        DataError: the file is missing or damaged, holds Python objects, or `episode_from` refuses it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except Exception as error:  # a damaged file can fail in any way
        raise DataError(f"{path}: cannot be read as .npz ({_first_line(error)}).") from error
    return episode_from(arrays, task=task, where=str(path), labels=labels or {})


def episode_files(folder: Path) -> list[Path]:
    """Return a task's files by number: `<int>.npz` in the folder, or in the only `<run>/dataset` below it.

    Raises:
        DataError: no files, several runs, or a file whose name is no number.
    """
    files = list(folder.glob("*.npz"))
    if not files:
        runs = sorted(run for run in folder.glob("*/dataset") if any(run.glob("*.npz")))
        runs = runs or ([folder / "dataset"] if any((folder / "dataset").glob("*.npz")) else [])
        if not runs:
            raise DataError(f"{folder}: holds no episodes: neither <number>.npz nor <run>/dataset/<number>.npz.")
        if len(runs) > 1:
            names = ", ".join(run.parent.name for run in runs)
            raise DataError(f"{folder}: holds several runs, {names}. Name the one to read, as a folder of data.tasks.")
        files = list(runs[0].glob("*.npz"))
    if odd := sorted(path.name for path in files if not re.fullmatch(r"\d+", path.stem)):
        raise DataError(f"{files[0].parent}: episodes should be called <number>.npz, got {odd[0]}.")
    return sorted(files, key=lambda path: int(path.stem))


def _names(arrays: Mapping[str, Any]) -> str:
    return ", ".join(map(str, arrays)) or "nothing"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
