"""Many episodes in flat arrays.

T steps of an episode, O state, A action, E episodes, R = sum over episodes of T + 1 rows of states.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtdiff.data.trajectory import Label, Trajectory
from mtdiff.errors import DataError, choices

__all__ = ["DEFAULT_SPLIT", "Label", "Trajectory", "TrajectoryDataset"]

DEFAULT_SPLIT = "trajectories"


class TrajectoryDataset:
    """Many episodes in flat arrays; build it with `from_trajectories`, `from_arrays` or `load`.

    An episode of T steps takes T + 1 rows; in its last row only the state means anything, the rest is zero.

    Attributes:
        states: (R, O) float32.
        actions: (R, A) float32 in [-1, 1].
        rewards: (R,) float32.
        success: (R,) bool.
        offsets: (E + 1,) int64, where each episode's rows begin; the last one is R.
        lengths: (E,) int64, T of each episode.
        task_index: (E,) int64 into `tasks`.
        tasks: names.
        terminated: (E,) bool.
        truncated: (E,) bool.
        labels: one list of E values per label.
        metadata: suite, how it was collected, seed, versions.
    """

    def __init__(
        self,
        *,
        states: NDArray[np.float32],
        actions: NDArray[np.float32],
        rewards: NDArray[np.float32],
        success: NDArray[np.bool_],
        offsets: NDArray[np.int64],
        task_index: NDArray[np.int64],
        tasks: Sequence[str],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        labels: Mapping[str, list[Any]] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.states, self.actions, self.rewards, self.success = states, actions, rewards, success
        self.offsets, self.lengths = offsets, np.diff(offsets) - 1
        self.task_index, self.tasks = task_index, list(tasks)
        self.terminated, self.truncated = terminated, truncated
        self.labels: dict[str, list[Any]] = dict(labels or {})
        self.metadata = dict(metadata or {})

    @classmethod
    def from_trajectories(
        cls,
        trajectories: Iterable[Trajectory],
        *,
        tasks: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> TrajectoryDataset:
        """Join episodes, in the order given.

        Args:
            trajectories: at least one; all with the same state and action sizes and the same labels.
            tasks: order of the task names; by default that of their first appearance.
            metadata: kept as it is; should be JSON-able.

        Raises:
            DataError: no episode, sizes or labels that differ, a task that is not in `tasks`.
        """
        episodes = list(trajectories)
        if not episodes:
            raise DataError("a dataset of trajectories should have at least one episode, got none.")
        first = episodes[0]
        widths = first.states.shape[1], first.actions.shape[1]
        names = list(dict.fromkeys(e.task for e in episodes) if tasks is None else tasks)
        for e, episode in enumerate(episodes):
            where, own = f"episode {e} ({episode.task})", (episode.states.shape[1], episode.actions.shape[1])
            if own != widths:
                raise DataError(f"{where}: state and action sizes should be those before, {widths}, got {own}.")
            if episode.labels.keys() != first.labels.keys():
                raise DataError(f"{where}: labels should be {[*first.labels]}, got {[*episode.labels]}.")
            if episode.task not in names:
                raise DataError(f"episode {e}: {choices('task', episode.task, names)}")

        def padded(name: str) -> NDArray[Any]:
            rows = [getattr(e, name) for e in episodes]
            gap = np.zeros((1, *rows[0].shape[1:]), rows[0].dtype)
            return np.concatenate([part for row in rows for part in (row, gap)])

        position = {name: i for i, name in enumerate(names)}
        return cls(
            states=np.concatenate([e.states for e in episodes]),
            actions=padded("actions"),
            rewards=padded("rewards"),
            success=padded("success"),
            offsets=np.cumsum([0, *(len(e) + 1 for e in episodes)], dtype=np.int64),
            task_index=np.array([position[e.task] for e in episodes], np.int64),
            tasks=names,
            terminated=np.array([e.terminated for e in episodes], bool),
            truncated=np.array([e.truncated for e in episodes], bool),
            labels={key: [e.labels[key] for e in episodes] for key in first.labels},
            metadata=metadata,
        )

    @classmethod
    def from_arrays(
        cls,
        *,
        states: Sequence[ArrayLike],
        actions: Sequence[ArrayLike],
        rewards: Sequence[ArrayLike],
        tasks: str | Sequence[str],
        success: Sequence[ArrayLike] | None = None,
        terminated: Sequence[bool] | None = None,
        labels: Mapping[str, Sequence[Label]] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> TrajectoryDataset:
        """Make a dataset of your own data: sequences with one entry per episode.

        Args:
            states: (T + 1, O) each, the state after the last action included.
            actions: (T, A) each, in [-1, 1].
            rewards: (T,) each.
            tasks: one name for all, or one per episode.
            success: (T,) each; never, by default.
            terminated: whether the task ended the episode; otherwise, and by default, it counts as cut off.
            labels: anything known about each episode.
            metadata: kept as it is.

        Raises:
            DataError: as for `Trajectory` and `from_trajectories`, or sequences of different lengths.
        """
        count = len(states)
        names = [tasks] * count if isinstance(tasks, str) else list(tasks)
        ended = [False] * count if terminated is None else [bool(flag) for flag in terminated]
        columns: dict[str, Sequence[Any]] = {
            "actions": actions,
            "rewards": rewards,
            "tasks": names,
            "terminated": ended,
        }
        optional = {} if success is None else {"success": success}
        for key, column in {**columns, **(labels or {}), **optional}.items():
            if len(column) != count:
                raise DataError(f"from_arrays: {key} should have one entry per episode, {count}, got {len(column)}.")
        episodes = []
        for e in range(count):
            try:
                episode = Trajectory(
                    states=np.asarray(states[e]),
                    actions=np.asarray(actions[e]),
                    rewards=np.asarray(rewards[e]),
                    success=np.zeros(len(actions[e]), bool) if success is None else np.asarray(success[e]),  # type: ignore[arg-type]
                    terminated=ended[e],
                    truncated=not ended[e],
                    task=names[e],
                    labels={key: column[e] for key, column in (labels or {}).items()},
                )
            except (DataError, ValueError, TypeError) as error:
                raise DataError(f"from_arrays: episode {e}: {error}") from error
            episodes.append(episode)
        return cls.from_trajectories(episodes, metadata=metadata)

    @classmethod
    def load(cls, folder: str | Path, *, split: str = DEFAULT_SPLIT) -> TrajectoryDataset:
        """Read a split ("trajectories" or "prompts") of a folder, after checking that it is whole.

        Raises:
            DataError: no complete dataset there, an unknown split, or a file that is missing or damaged, by name.
        """
        from mtdiff.data.storage import load

        return load(Path(folder), split=split)

    def save(self, folder: str | Path, *, prompts: TrajectoryDataset | None = None) -> None:
        """Write this dataset, task by task, and its prompt demonstrations if given, as a folder with a card.

        Raises:
            DataError: the folder holds trajectories already.
        """
        from mtdiff.data.storage import save

        save(Path(folder), {DEFAULT_SPLIT: self, **({"prompts": prompts} if prompts is not None else {})})

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, e: int) -> Trajectory:
        """Return episode `e`; its arrays are views."""
        e = range(len(self))[e]  # negative numbers count from the end; IndexError beyond
        start, stop = self.offsets[e], self.offsets[e + 1]
        return Trajectory(
            states=self.states[start:stop],
            actions=self.actions[start : stop - 1],
            rewards=self.rewards[start : stop - 1],
            success=self.success[start : stop - 1],
            terminated=bool(self.terminated[e]),
            truncated=bool(self.truncated[e]),
            task=self.tasks[self.task_index[e]],
            labels={key: column[e] for key, column in self.labels.items()},
        )

    @property
    def num_steps(self) -> int:
        """Actions in all episodes."""
        return int(self.lengths.sum())

    @property
    def returns(self) -> NDArray[np.float64]:
        """(E,) sum of each episode's rewards."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.offsets[:-1])

    @property
    def succeeded(self) -> NDArray[np.bool_]:
        """(E,) whether any step of the episode was a success."""
        return np.logical_or.reduceat(self.success, self.offsets[:-1])

    def subset(self, indices: ArrayLike) -> TrajectoryDataset:
        """Return the episodes of `indices` (numbers, or E flags) in that order; `tasks` stays as it is."""
        return TrajectoryDataset.from_trajectories(
            (self[int(e)] for e in np.arange(len(self))[np.asarray(indices)]),
            tasks=self.tasks,
            metadata=self.metadata,
        )

    def of_task(self, name: str) -> TrajectoryDataset:
        """Return the episodes of one task.

        Raises:
            DataError: there is no such task.
        """
        if name not in self.tasks:
            raise DataError(choices("task", name, self.tasks))
        return self.subset(self.task_index == self.tasks.index(name))

    def transitions(self) -> dict[str, NDArray[Any]]:
        """Return every step as arrays of N = `num_steps` rows, for learners that take transitions.

        Returns:
            state (N, O), action (N, A), reward (N,), next_state (N, O), in physical units; terminated (N,), whether
            the task itself ended the episode with this step, so that nothing is to be earned after it; truncated
            (N,), whether the episode was cut off after it; task (N,), an index into `tasks`.
        """
        last = np.zeros(len(self.states), bool)
        last[self.offsets[1:] - 1] = True
        rows = np.flatnonzero(~last)
        episode = np.repeat(np.arange(len(self)), self.lengths)
        return {
            "state": self.states[rows],
            "action": self.actions[rows],
            "reward": self.rewards[rows],
            "next_state": self.states[rows + 1],
            "terminated": self.terminated[episode] & last[rows + 1],
            "truncated": self.truncated[episode] & last[rows + 1],
            "task": self.task_index[episode],
        }

    def summary(self) -> list[dict[str, Any]]:
        """Return one row per task: task, episodes, steps, success (rate), mean_return, mean_length."""
        returns, succeeded, rows = self.returns, self.succeeded, []
        for i, task in enumerate(self.tasks):
            of = self.task_index == i
            if of.any():
                means = {"success": succeeded, "mean_return": returns, "mean_length": self.lengths}
                row = {"task": task, "episodes": int(of.sum()), "steps": int(self.lengths[of].sum())}
                rows.append(row | {name: float(values[of].mean()) for name, values in means.items()})
        return rows

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash (sha256, 64 hex digits) of everything but labels and metadata, episodes taken task by task.

        The same on every machine and for every layout of the files.
        """
        if (np.diff(self.task_index) < 0).any():
            return self.subset(np.argsort(self.task_index, kind="stable")).fingerprint
        digest = hashlib.sha256(b"mtdiff trajectories 1\n")
        digest.update("\n".join(self.tasks).encode())
        for array, kind in (
            (self.task_index, "<i8"), (self.lengths, "<i8"), (self.states, "<f4"), (self.actions, "<f4"),
            (self.rewards, "<f4"), (self.success, "u1"), (self.terminated, "u1"), (self.truncated, "u1"),
        ):  # fmt: skip
            digest.update(f"{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, np.dtype(kind)).tobytes())
        return digest.hexdigest()
