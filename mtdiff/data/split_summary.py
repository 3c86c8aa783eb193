"""What the manifest and the card say of a split, found one shard at a time, so that memory does not grow with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.shards import read_array, read_shard
from mtdiff.errors import DataError, choices


@dataclass
class SplitSummary:
    """What is in the shards of a split.

    Attributes:
        tasks: order of the task names.
        state_dim: O.
        action_dim: A.
        counts: episodes of every shard.
        rows: as those of `TrajectoryDataset.summary`, of the tasks that have an episode.
        retries: by task, the sum of the label `attempt`.
        clipped: the sum of the label `clipped`.
        succeeded: whether any step of any episode is a success.
        parts: by task, the shards that hold it, and whether they hold nothing else.
    """

    tasks: Sequence[str]
    state_dim: int = 0
    action_dim: int = 0
    counts: list[int] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    retries: dict[str, int] = field(default_factory=dict)
    clipped: int = 0
    succeeded: bool = False
    parts: dict[str, list[tuple[Path, bool]]] = field(default_factory=dict)

    @property
    def episodes(self) -> int:
        """Episodes of all tasks."""
        return sum(self.counts)

    @property
    def steps(self) -> int:
        """Actions in all episodes."""
        return sum(row["steps"] for row in self.rows)


def summarize(paths: Sequence[Path], tasks: Sequence[str]) -> SplitSummary:
    """Read every shard once.

    Args:
        paths: the shards, in order.
        tasks: order of the task names.

    Raises:
        DataError: a shard that cannot be read, or holds a task that is not in `tasks`.
    """
    found = SplitSummary(tasks=list(tasks))
    totals: dict[str, NDArray[np.float64]] = {}
    for path in paths:
        _add(found, totals, path)
    for task in found.tasks:
        if task in totals:
            episodes, steps, successes, returned = totals[task].tolist()
            row = {"task": task, "episodes": int(episodes), "steps": int(steps), "success": successes / episodes}
            found.rows.append({**row, "mean_return": returned / episodes, "mean_length": steps / episodes})
    return found


def _add(found: SplitSummary, totals: dict[str, NDArray[np.float64]], path: Path) -> None:
    piece = read_shard(path)
    found.state_dim, found.action_dim = piece.states.shape[1], piece.actions.shape[1]
    found.counts.append(len(piece))
    found.clipped += int(sum(piece.labels.get("clipped", [])))
    found.succeeded |= bool(piece.success.any())
    returns, succeeded = piece.returns, piece.succeeded
    for number, task in enumerate(piece.tasks):
        if task not in found.tasks:
            raise DataError(f"{path}: {choices('task', task, found.tasks)}")
        of = piece.task_index == number
        sums = np.array([of.sum(), piece.lengths[of].sum(), succeeded[of].sum(), returns[of].sum()], np.float64)
        totals[task] = totals.get(task, 0.0) + sums
        attempts = piece.labels.get("attempt", [])
        found.retries[task] = found.retries.get(task, 0) + sum(attempts[e] for e in np.flatnonzero(of) if attempts)
        found.parts.setdefault(task, []).append((path, len(piece.tasks) == 1))


def fingerprint(found: SplitSummary) -> str:
    """Return what `TrajectoryDataset.fingerprint` is for all shards together: one pass over them for every array."""
    digest = hashlib.sha256(b"mtdiff trajectories 1\n")
    digest.update("\n".join(found.tasks).encode())
    episodes, rows = (found.episodes,), found.steps + found.episodes
    digest.update(f"{episodes}".encode())
    for number, task in enumerate(found.tasks):
        for path, alone in found.parts.get(task, []):
            digest.update(np.full(len(_array("lengths", task, path, alone)), number, "<i8").tobytes())
    for name, kind, shape in (
        ("lengths", "<i8", episodes), ("states", "<f4", (rows, found.state_dim)),
        ("actions", "<f4", (rows, found.action_dim)), ("rewards", "<f4", (rows,)), ("success", "u1", (rows,)),
        ("terminated", "u1", episodes), ("truncated", "u1", episodes),
    ):  # fmt: skip
        digest.update(f"{shape}".encode())
        for task in found.tasks:
            for path, alone in found.parts.get(task, []):
                digest.update(np.ascontiguousarray(_array(name, task, path, alone), np.dtype(kind)).tobytes())
    return digest.hexdigest()


def _array(name: str, task: str, path: Path, alone: bool) -> NDArray[Any]:
    return read_array(path, name) if alone else getattr(read_shard(path).of_task(task), name)
