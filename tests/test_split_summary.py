"""Manifest and card are made of one shard at a time, and say what the whole dataset says."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
from test_synthesizer import TASKS, walk

from mtdiff.data import split_summary
from mtdiff.data.shards import write_shard
from mtdiff.data.split_summary import fingerprint, summarize
from mtdiff.data.storage import write_manifest
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError

EPISODES = [
    data[e] for data in (walk(seed, steps=5 + seed) for seed in range(3)) for e in range(len(data))
]  # of left and right in turn


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Four shards, of which one holds a single task."""
    for number, some in enumerate((EPISODES[:5], EPISODES[5:7], EPISODES[7:8], EPISODES[8:])):
        write_shard(tmp_path / f"{number}.parquet", some)
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize("tasks", [TASKS, [*TASKS[::-1], "never"]])
def test_fingerprint_and_rows_are_those_of_the_whole(paths: list[Path], tasks: list[str]) -> None:
    data, found = TrajectoryDataset.from_trajectories(EPISODES, tasks=tasks), summarize(paths, tasks)
    assert fingerprint(found) == data.fingerprint
    assert found.rows == [pytest.approx(row) for row in data.summary()]
    assert [found.episodes, found.steps, found.counts] == [len(data), data.num_steps, [5, 2, 1, 4]]


def test_a_task_that_nobody_named_is_refused(paths: list[Path]) -> None:
    with pytest.raises(DataError) as refused:
        summarize(paths, ["left"])
    assert str(refused.value) == f"{paths[0]}: unknown task 'right'. Allowed: left."


def test_no_shard_is_read_while_another_is_in_memory(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[weakref.ref[Any]] = []
    alive = []

    def counting(of: Any) -> Any:
        def reading(*arguments: Any) -> Any:
            alive.append(sum(one() is not None for one in read))
            found = of(*arguments)
            read.append(weakref.ref(found))
            return found

        return reading

    for name in ("read_shard", "read_array"):
        monkeypatch.setattr(split_summary, name, counting(getattr(split_summary, name)))
    names = [path.name for path in paths]
    write_manifest(paths[0].parent, shards={"trajectories": names}, tasks=TASKS, metadata={})
    assert len(alive) > 4 * 8 and not any(alive)
    assert len(TrajectoryDataset.load(paths[0].parent)) == len(EPISODES)
