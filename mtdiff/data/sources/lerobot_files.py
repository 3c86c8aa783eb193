"""Read the files of LeRobot's layout, versions 2.0, 2.1 and 3.0.

    meta/info.json                                      the version, the columns and their shapes
    meta/tasks.jsonl, or meta/tasks.parquet (3.0)       sentences by number
    data/chunk-000/episode_000000.parquet               2.x: one episode a file
    data/chunk-000/file-000.parquet                     3.0: many

A row is a frame: what was seen, what was done there, and what that gave. No row says what was seen after the last
action of an episode.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.trajectories import Trajectory, TrajectoryDataset
from mtdiff.errors import DataError, choices

INFO = "meta/info.json"
VERSIONS = ("v2.0", "v2.1", "v3.0")

_STATE = ("observation.state", "observation.environment_state")
_REWARD = ("next.reward", "reward")
_SUCCESS = ("next.success", "success")
_DONE = ("next.done", "done")
_NUMBERS = ("episode_index", "frame_index", "task_index")


def files(folder: Path) -> list[Path]:
    """Return the files that hold numbers; none if the folder is gone."""
    found = [*folder.glob("meta/*.json"), *folder.glob("meta/*.jsonl"), *folder.glob("meta/tasks.parquet")]
    return sorted([*found, *folder.glob("data/chunk-*/*.parquet")])


def read(folder: Path, *, tasks: dict[str, str] | None, scaled: bool, repeat: bool, where: str) -> TrajectoryDataset:
    """Read every episode.

    Args:
        folder: see the module.
        tasks: task to its sentence; None calls them by their sentences, see `called`.
        scaled: whether actions are scaled from their least and greatest values to [-1, 1].
        repeat: whether the last state is taken for the one after the last action, which is left out otherwise.
        where: the beginning of messages.

    Raises:
        DataError: not such a folder, another version, columns that are missing, actions beyond [-1, 1].
    """
    info = _info(folder, where)
    sentences = _sentences(folder, where)
    names = _names(sentences, tasks, where)
    columns = _columns(folder, info, where)
    metadata: dict[str, Any] = {"lerobot": {"version": info["codebase_version"], "robot": info.get("robot_type")}}
    low, high = columns["action"].min(axis=0), columns["action"].max(axis=0)
    if scaled:
        middle, half = (high + low) / 2, np.where(high > low, (high - low) / 2, 1.0)
        columns["action"] = np.clip((columns["action"] - middle) / half, -1, 1)
        metadata["action_bounds"] = {"low": low.tolist(), "high": high.tolist()}
    elif low.min() < -1 or high.max() > 1:
        raise DataError(
            f"{where}: actions should be in [-1, 1], and go from {low.min():.4g} to {high.max():.4g}. "
            "data.actions=min_max scales them."
        )
    order = np.lexsort((columns["frame_index"], columns["episode_index"]))
    columns = {name: values[order] for name, values in columns.items()}
    starts = np.flatnonzero(np.diff(columns["episode_index"], prepend=-1))
    episodes = []
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        rows = {name: values[start:stop] for name, values in columns.items()}
        number = int(rows["task_index"][0])
        if number not in names:
            continue  # a task that was not asked for
        if found := _episode(rows, names[number], repeat=repeat, where=where):
            episodes.append(found)
    if not episodes:
        raise DataError(f"{where}: has no episode of {', '.join(names.values()) or 'any task'}.")
    return TrajectoryDataset.from_trajectories(episodes, tasks=list(names.values()), metadata=metadata)


def called(sentence: str) -> str:
    """Return a task's name for a sentence: "Pick up the cube." is `pick-up-the-cube`."""
    return "-".join(re.findall(r"\w+", sentence.lower()))[:80] or "task"


def _episode(rows: dict[str, NDArray[Any]], task: str, *, repeat: bool, where: str) -> Trajectory | None:
    states, steps = rows["state"], len(rows["state"]) - (not repeat)
    if steps < 1:
        return None  # one frame and nothing after it
    episode = int(rows["episode_index"][0])
    done = bool(rows["done"][-1]) and repeat
    try:
        return Trajectory(
            states=np.concatenate([states, states[-1:]]) if repeat else states,
            actions=rows["action"][:steps],
            rewards=rows["reward"][:steps],
            success=rows["success"][:steps],
            terminated=done and bool(rows["success"][-1]),
            truncated=not (done and bool(rows["success"][-1])),
            task=task,
            labels={"episode": episode},
        )
    except DataError as error:
        raise DataError(f"{where}: episode {episode}: {error}") from error


def _info(folder: Path, where: str) -> dict[str, Any]:
    path = folder / INFO
    if not path.is_file():
        raise DataError(f"{where}: is not in LeRobot's layout; it has no {INFO}.")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version, _ = info["codebase_version"], info["features"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: {INFO} is damaged ({type(error).__name__}: {error}).") from error
    if version not in VERSIONS:
        raise DataError(f"{where}: {choices('version of LeRobot', version, VERSIONS)}")
    return info


def _sentences(folder: Path, where: str) -> dict[int, str]:
    """Sentences by number; version 3.0 keeps them as the index of a table."""
    lines, table = folder / "meta/tasks.jsonl", folder / "meta/tasks.parquet"
    try:
        if lines.is_file():
            rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines() if line.strip()]
            return {int(row["task_index"]): str(row["task"]) for row in rows}
        if table.is_file():
            import pyarrow.parquet as pq

            found = pq.read_table(table)
            text = next(name for name in found.column_names if name != "task_index")
            return dict(zip(found["task_index"].to_pylist(), map(str, found[text].to_pylist()), strict=True))
    except (ValueError, KeyError, TypeError, StopIteration, OSError) as error:
        raise DataError(f"{where}: meta/tasks cannot be read ({type(error).__name__}: {error}).") from error
    raise DataError(f"{where}: has neither meta/tasks.jsonl nor meta/tasks.parquet.")


def _names(sentences: dict[int, str], tasks: dict[str, str] | None, where: str) -> dict[int, str]:
    """Names by number; of the tasks that were asked for, if any were."""
    if tasks is None:
        names = {number: called(sentence) for number, sentence in sorted(sentences.items())}
        if twice := [name for name in names.values() if list(names.values()).count(name) > 1]:
            raise DataError(f"{where}: two tasks would be called {twice[0]}. Name them under data.tasks.")
        return names
    numbers = {sentence: number for number, sentence in sentences.items()}
    for task, sentence in tasks.items():
        if sentence not in numbers:
            raise DataError(f"data.tasks.{task}: {choices('task of the dataset', sentence, numbers)}")
    return {numbers[sentence]: task for task, sentence in tasks.items()}


def _columns(folder: Path, info: dict[str, Any], where: str) -> dict[str, NDArray[Any]]:
    """Every frame's numbers: state (N, O), action (N, A), and one number a frame for the rest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = list(info["features"])
    state = next((name for name in _STATE if name in features), None)
    if state is None or "action" not in features:
        missing = "action" if state else " or ".join(_STATE)
        raise DataError(f"{where}: has no column {missing}; it has {', '.join(features)}.")
    chosen = {name: next((key for key in keys if key in features), None) for name, keys in _OPTIONAL.items()}
    shards = sorted(folder.glob("data/chunk-*/*.parquet"))
    if not shards:
        raise DataError(f"{where}: has no data/chunk-*/*.parquet.")
    wanted = [state, "action", *_NUMBERS, *(key for key in chosen.values() if key)]
    try:
        table = pa.concat_tables([pq.read_table(path, columns=wanted) for path in shards])
        found = {
            "state": _matrix(table[state]),
            "action": _matrix(table["action"]),
            **{name: table[name].to_numpy() for name in _NUMBERS},
        }
        for name, key in chosen.items():
            values = np.zeros(len(table)) if key is None else _matrix(table[key])[:, 0]
            found[name] = values.astype(np.float32 if name == "reward" else bool)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{where}: cannot be read ({str(error).splitlines()[0]}).") from error
    if (episodes := len(set(found["episode_index"].tolist()))) != info.get("total_episodes", episodes):
        raise DataError(f"{where}: should have {info['total_episodes']} episodes, and {episodes} are there.")
    return found


_OPTIONAL = {"reward": _REWARD, "success": _SUCCESS, "done": _DONE}


def _matrix(column: Any) -> NDArray[np.float64]:
    """A column of numbers, or of lists of as many numbers, as (N, width)."""
    array = column.combine_chunks()
    if hasattr(array, "flatten") and array.type.num_fields:
        values = array.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(array), -1).astype(np.float64)
    return array.to_numpy(zero_copy_only=False).reshape(-1, 1).astype(np.float64)
