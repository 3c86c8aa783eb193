"""What a source of data is, and what every source that reads data of others has in common.

There are two kinds. A `Recorder` makes episodes in the suite's simulator; `mtdiff.collection` spreads them over worker
processes. A `Reader` reads what exists; `mtdiff.data.importing` does so once, and keeps the result as a dataset folder
like any other. Which kind a part is follows from its methods: a reader has `read`.

A new source is one file here that registers a class in `DATA`. Its constructor must not touch the disk, because a saved
recipe is checked wherever it is loaded, also where its data are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.trajectories import DEFAULT_SPLIT, TrajectoryDataset
from mtdiff.data.trajectory import Trajectory
from mtdiff.environments.suite import Environment, Suite
from mtdiff.errors import DataError, choices


class Source(Protocol):
    """Where trajectories come from."""

    name: str

    def describe(self) -> dict[str, Any]:
        """Return `{"name": ..., **arguments}`, enough to build an equal source."""
        ...


class Recorder(Source, Protocol):
    """A source that records episodes in the suite's simulator; rebuilt in worker processes from `describe()`.

    One that lets trained pipelines act has a method `teachers(suite)`, the recipes to be trained before, and an
    attribute `pipelines`, which workers get: the folders of what was trained.
    """

    seed: int

    def episodes(self, task: str) -> dict[str, int]:
        """Return how many episodes of a task each split has."""
        ...

    def limit(self, suite: Suite, split: str) -> int:
        """Return the longest episode's steps."""
        ...

    def record(
        self,
        suite: Suite,
        environment: Environment,
        demonstrator: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        *,
        split: str,
        episode: int,
    ) -> Trajectory:
        """Record one episode, which follows from the arguments, the task, the split and the number alone."""
        ...


class Reader(Source, Protocol):
    """A source that reads what exists."""

    @property
    def in_place(self) -> Path | None:
        """The dataset folder that is this source as it stands, so that nothing need be read and kept; or None."""
        ...

    def read(self, suite: Suite) -> dict[str, TrajectoryDataset]:
        """Return `{"trajectories": ...}`, and demonstrations under "prompts" if there are any.

        Raises:
            DataError: something is missing, damaged, or of another suite.
        """
        ...

    def files(self, suite: Suite) -> list[Path]:
        """Return every file that `read` reads and that is there now: whether they changed is found out by them."""
        ...


def reads(source: Any) -> bool:
    """Return whether a source is a `Reader`."""
    return hasattr(source, "read")


def refuse_other_suites(data: TrajectoryDataset, suite: Suite, *, where: str) -> None:
    """Refuse trajectories that are not of a suite: other widths, or tasks it does not have.

    Args:
        data: the trajectories.
        suite: what they should be of.
        where: the beginning of the message.

    Raises:
        DataError: with the widths that were got and expected, or every unknown task and the one most like it.
    """
    got, expected = (data.states.shape[1], data.actions.shape[1]), (suite.state_dim, suite.action_dim)
    if got != expected:
        raise DataError(
            f"{where}: states and actions should have {expected[0]} and {expected[1]} numbers, as those of suite "
            f"'{suite.name}' have, got {got[0]} and {got[1]}. These are the data of another suite."
        )
    present = [data.tasks[i] for i in sorted(set(data.task_index.tolist()))]
    if unknown := [task for task in present if task not in suite.tasks]:
        more = f" Also unknown: {', '.join(unknown[1:])}." if len(unknown) > 1 else ""
        raise DataError(f"{where}: {choices('task', unknown[0], suite.tasks)}{more}")


def as_task(name: str, tasks: Sequence[str]) -> str:
    """Return the task that a file's name means: itself, or what Meta-World's `-v2` tasks are called today."""
    renamed = f"{name.removesuffix('-v2')}-v3"
    return renamed if name.endswith("-v2") and name not in tasks and renamed in tasks else name


def older_names(task: str) -> tuple[str, ...]:
    """Return the names under which files may hold a task, its own first."""
    return (task, f"{task.removesuffix('-v3')}-v2") if task.endswith("-v3") else (task,)


def with_prompts(
    data: TrajectoryDataset,
    suite: Suite,
    *,
    given: str | None,
    count: int | None,
    min_steps: int,
    where: str,
) -> dict[str, TrajectoryDataset]:
    """Add the split of demonstrations that are shown as prompts: from elsewhere, or held out of the data themselves.

    Args:
        data: every trajectory.
        suite: what all of them should be of.
        given: where demonstrations lie, see `mtdiff.data.prompt_files.demonstrations`; None holds out `data`'s own.
        count: demonstrations a task; None takes all that are given.
        min_steps: a shorter episode is no demonstration.
        where: the beginning of messages.

    Raises:
        DataError: of another suite, too few, or too short.
    """
    refuse_other_suites(data, suite, where=where)
    if given is None:
        return hold_out(data, count, min_steps) if count else {DEFAULT_SPLIT: data}
    from mtdiff.data.prompt_files import demonstrations

    shown = demonstrations(Path(given), data.tasks)
    refuse_other_suites(shown, suite, where=given)
    for e, length in enumerate(shown.lengths):
        if length < min_steps:
            raise DataError(
                f"{given}: demonstration {e} ({shown[e].task}) has {length} steps, "
                f"and data.prompt_min_steps is {min_steps}."
            )
    if count is not None:
        first = [np.flatnonzero(shown.task_index == i)[:count] for i in range(len(shown.tasks))]
        shown = shown.subset(np.concatenate(first))
    return {DEFAULT_SPLIT: data, "prompts": shown}


def hold_out(data: TrajectoryDataset, count: int, min_steps: int) -> dict[str, TrajectoryDataset]:
    """Split off each task's best episodes as demonstrations: successful ones first, then by return.

    Args:
        data: every trajectory.
        count: demonstrations a task, at least 1.
        min_steps: a shorter episode is no demonstration.

    Raises:
        DataError: a task has too few episodes, or too few of that length.
    """
    best: list[int] = []
    for number, task in enumerate(data.tasks):
        mine = np.flatnonzero(data.task_index == number)
        long = mine[data.lengths[mine] >= min_steps]
        if len(mine) and (len(long) < count or len(mine) == count):
            raise DataError(
                f"data.prompts_per_task: {count} of the {len(mine)} episodes of task {task} should be held out as "
                f"prompts, and {len(long)} have data.prompt_min_steps={min_steps} steps. Lower one of the two, or say "
                "under data.prompts where demonstrations are."
            )
        order = np.lexsort((-data.returns[long], ~data.succeeded[long]))  # the last key counts most
        best += long[order[:count]].tolist()
    rest = np.setdiff1d(np.arange(len(data)), best)
    return {DEFAULT_SPLIT: data.subset(rest), "prompts": data.subset(sorted(best))}
