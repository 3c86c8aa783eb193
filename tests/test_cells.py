"""Cells of a study: measured once, kept one by one, and no failure stops the others."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtdiff.errors import DataError, MTDiffError
from mtdiff.studies.cells import Cell, Results, run_cells


def cell(number: Any, marks: Path, **label: Any) -> Cell:
    return Cell(
        measure="study_cells:square",
        content={"number": number, "of": "a test"},
        label={"number": number, **label},
        where={"marks": str(marks)},
    )


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_a_hash_is_of_what_decides_the_result(tmp_path: Path) -> None:
    one = cell(3, tmp_path)
    assert len(one.hash) == 12
    assert cell(3, tmp_path / "elsewhere", called="otherwise").hash == one.hash
    assert replace(one, content=dict(reversed(one.content.items()))).hash == one.hash
    assert len({one.hash, cell(4, tmp_path).hash, replace(one, measure="study_cells:cube").hash}) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_is_measured_once_and_a_failure_stops_no_other(jobs: int, tmp_path: Path, marks: Path) -> None:
    results = Results(tmp_path / "results")
    cells = [cell(n, marks) for n in (2, "wrong", 3, 2, 4)]
    failed = run_cells(cells, results, jobs=jobs, progress=False)
    assert {hash_: str(error) for hash_, error in failed.items()} == {cells[1].hash: "this number is wrong"}
    assert [results.get(one) for one in cells] == [{"square": 4}, None, {"square": 9}, {"square": 4}, {"square": 16}]
    assert sorted(mark.name.partition("-")[0] for mark in marks.iterdir()) == ["2", "3", "4"]
    here = {mark.name.partition("-")[2] == str(os.getpid()) for mark in marks.iterdir()}
    assert here == {jobs == 1}
    kept = json.loads(results.path(cells[0]).read_text())
    assert kept["label"] == {"number": 2} and kept["versions"]["torch"] and kept["hardware"]
    before = {path: path.stat().st_mtime_ns for path in results.folder.iterdir()}
    more = [*cells, cell(5, marks)]
    run_cells(more, results, jobs=jobs, progress=False)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished cells were written again"
    assert results.missing(more) == [cells[1]]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_that_nobody_thought_of_stops_no_other_cell(jobs: int, tmp_path: Path, marks: Path) -> None:
    results = Results(tmp_path / "results")
    cells = [cell(n, marks) for n in ("unforeseen", 2, 3)]
    failed = run_cells(cells, results, jobs=jobs, progress=False)
    assert list(failed) == [cells[0].hash] and "RuntimeError: nobody thought of this" in str(failed[cells[0].hash])
    assert results.missing(cells) == [cells[0]]


def test_a_worker_that_dies_is_replaced(tmp_path: Path, marks: Path) -> None:
    results = Results(tmp_path / "results")
    cells = [cell(n, marks) for n in ("deadly", 2, 3, 4)]
    failed = run_cells(cells, results, jobs=2, progress=False)
    assert list(failed) == [cells[0].hash] and "was killed by SIGKILL" in str(failed[cells[0].hash])
    assert results.missing(cells) == [cells[0]]


def test_a_result_of_something_else_is_refused(tmp_path: Path, marks: Path) -> None:
    results, one, other = Results(tmp_path), cell(2, marks), cell(3, marks)
    results.save(other, {"square": 9}, 0.1)
    results.path(other).rename(results.path(one))
    with pytest.raises(DataError) as refused:
        results.get(one)
    assert str(refused.value) == f"{results.path(one)}: is the result of something else (2 was expected); remove it."
    results.path(one).write_text('{"measure": "study_cells:square", "cont')
    with pytest.raises(DataError, match=rf"^{results.path(one)}: is damaged \(JSONDecodeError: .*; remove it.$"):
        run_cells([one], results, progress=False)


def test_no_jobs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MTDiffError, match="^jobs: should be at least 1, got 0.$"):
        run_cells([], Results(tmp_path), jobs=0)
