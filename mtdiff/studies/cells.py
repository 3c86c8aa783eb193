"""Cells of a study: each is measured once, and its result is a small file that can be committed.

    results/<hash>.json     what was measured (`content`), what it is called (`label`), and what was found (`result`)

The hash covers everything that decides the result, so that a cell is never measured twice, whoever measured it, and one
of other settings is never taken for it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mtdiff.environments.processes import Worker
from mtdiff.errors import DataError, EnvironmentFault, MTDiffError
from mtdiff.whole import write_text, writing

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement.

    Args:
        measure: "module:function" that is called with `content` and `where`, and returns a JSON-able result.
        content: everything that decides the result.
        label: what people call it; two studies may call the same cell differently.
        where: what it needs that does not decide the result, such as folders: the hash knows their content.
    """

    measure: str
    content: Mapping[str, Any]
    label: Mapping[str, Any]
    where: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def hash(self) -> str:
        """12 hex digits."""
        text = json.dumps([SCHEMA, self.measure, self.content], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """The label in one line."""
        return ", ".join(map(str, self.label.values()))


@dataclass(frozen=True)
class Results:
    """The folder of finished cells."""

    folder: Path

    def path(self, cell: Cell) -> Path:
        """Where the result of a cell is."""
        return self.folder / f"{cell.hash}.json"

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """Return the result of a cell, None if it is not finished.

        Raises:
            DataError: the file is damaged, or holds another cell.
        """
        path = self.path(cell)
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            same = [found["measure"], found["content"]] == [cell.measure, json.loads(json.dumps(cell.content))]
            result: dict[str, Any] = found["result"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is damaged ({type(error).__name__}: {error}); remove it.") from error
        if not same:
            raise DataError(f"{path}: is the result of something else ({cell.name} was expected); remove it.")
        return result

    def save(self, cell: Cell, result: Mapping[str, Any], seconds: float) -> None:
        """Write the result of a cell, whole or not at all.

        Raises:
            StorageFault: it could not be written.
        """
        from mtdiff.runs import hardware, versions

        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        document = {
            "measure": cell.measure,
            "label": dict(cell.label),
            "content": dict(cell.content),
            "result": dict(result),
            "seconds": round(seconds, 1),
            "versions": versions(),
            "hardware": hardware(),
        }
        write_text(self.path(cell), json.dumps(document, indent=1) + "\n")

    def missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells that are not finished, each once."""
        return [cell for cell in {cell.hash: cell for cell in cells}.values() if self.get(cell) is None]


def run_cells(
    cells: Sequence[Cell], results: Results, *, jobs: int = 1, progress: bool = True
) -> dict[str, MTDiffError]:
    """Measure the cells that are not finished. A cell that fails stops no other.

    Args:
        cells: in the order in which they are begun.
        results: where their results are kept, each as soon as it is there.
        jobs: processes that measure side by side, each with one thread.
        progress: show a bar on stderr.

    Returns:
        What failed: the cell's hash, and why.

    Raises:
        MTDiffError: fewer than one job.
        StorageFault: a result could not be written.
    """
    if jobs < 1:
        raise MTDiffError(f"jobs: should be at least 1, got {jobs}.")
    todo = results.missing(cells)
    failed: dict[str, MTDiffError] = {}
    with tqdm(total=len(todo), desc="cells", unit="cell", disable=not progress or not todo) as bar:
        for cell, found, seconds in (_here if jobs == 1 else functools.partial(_beside, jobs=jobs))(todo):
            if isinstance(found, MTDiffError):
                failed[cell.hash] = found
                tqdm.write(f"{cell.name}: {found}", file=sys.stderr)
            else:
                results.save(cell, found, seconds)
            bar.set_postfix_str(cell.name, refresh=False)
            bar.update()
    return failed


Measured = tuple[Cell, dict[str, Any] | MTDiffError, float]


def _here(cells: Sequence[Cell]) -> Iterator[Measured]:
    bench = Bench()
    for cell in cells:
        begun = time.perf_counter()
        try:
            found: Any = bench.measure(cell.measure, dict(cell.content), dict(cell.where))
        except MTDiffError as error:
            found = error
        except Exception as error:  # somebody else's part, a full GPU: the other cells go on
            found = MTDiffError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        yield cell, found, time.perf_counter() - begun


def _beside(cells: Sequence[Cell], *, jobs: int) -> Iterator[Measured]:
    waiting = list(reversed(cells))
    busy: dict[Connection, tuple[Worker, Cell, float]] = {}

    def give(worker: Worker) -> None:
        if waiting:
            cell = waiting.pop()
            worker.send("measure", cell.measure, dict(cell.content), dict(cell.where))
            busy[worker.connection] = (worker, cell, time.perf_counter())

    with _workers(min(jobs, len(cells))) as pool:
        for worker in pool:
            give(worker)
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker, cell, begun = busy.pop(connection)
                found: Any
                try:
                    found = worker.receive()
                except EnvironmentFault as error:
                    found = error
                    if worker.process.poll() is not None:  # it has died, and the others go on
                        worker = _worker(len(pool))
                        pool.append(worker)
                except MTDiffError as error:
                    found = error
                give(worker)
                yield cell, found, time.perf_counter() - begun


@contextmanager
def _workers(count: int) -> Iterator[list[Worker]]:
    pool: list[Worker] = []
    try:
        pool += [_worker(number) for number in range(count)]
        yield pool
    finally:
        for worker in pool:
            worker.close()


def _worker(number: int) -> Worker:
    return Worker(name=f"job {number}", server=f"{Bench.__module__}:{Bench.__qualname__}", arguments={})


class Bench:
    """What measures cells, in this process or in another one."""

    def measure(self, name: str, content: dict[str, Any], where: dict[str, Any]) -> dict[str, Any]:
        """Call "module:function" and return what it finds."""
        module, _, function = name.partition(":")
        found: dict[str, Any] = getattr(importlib.import_module(module), function)(content, where)
        return found
