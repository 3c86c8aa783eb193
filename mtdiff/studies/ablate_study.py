"""`mtdiff ablate`: does X beat Y here? One recipe, one command, a table that grows cell by cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtdiff.errors import DataError, MTDiffError
from mtdiff.run_data import ROOT
from mtdiff.studies import ablate_table as table
from mtdiff.studies.ablate_mixed import mixtures
from mtdiff.studies.ablate_page import write
from mtdiff.studies.ablate_plan import RESULTS, Plan
from mtdiff.studies.cells import Results, run_cells
from mtdiff.whole import write_text, writing


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is known so far.

    Attributes:
        plan: what was asked for.
        store: finished cells.
        done: row -> its finished cells.
        failed: cell's name -> why it could not be measured, and where its log is.
        mixed: what differs between results in the table, if that was allowed.
    """

    plan: Plan
    store: Results
    done: dict[str, list[table.Done]]
    failed: dict[str, str] = field(default_factory=dict)
    mixed: list[str] = field(default_factory=list)

    @property
    def measure(self) -> str:
        """What is compared: "success", or "return" where the suite knows no success."""
        return next((one.result["measure"] for cells in self.done.values() for one in cells), "success")

    @property
    def rows(self) -> list[table.Row]:
        """The table."""
        return table.rows(self.done, self.plan.planned, self.plan.reference)

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "name": self.plan.recipe.name,
            "measure": self.measure,
            "reference": self.plan.reference,
            "rows": [vars(row) for row in self.rows],
            "cells": {"finished": sum(map(len, self.done.values())), "all": len(self.plan.places)},
            "failed": self.failed,
            "mixed": self.mixed,
        }


def ablate(
    plan: Plan,
    *,
    root: Path = ROOT,
    results: Path = RESULTS,
    jobs: int = 1,
    index: int | None = None,
    only: Sequence[str] | None = None,
    report: bool = False,
    mix: bool = False,
    progress: bool = True,
) -> tuple[Study, Path]:
    """Measure whatever is left of a study, and write its tables and its page.

    Args:
        plan: see `make_plan`.
        root: folder of data, runs and studies.
        results: folder of finished cells; whatever is there is not measured again.
        jobs: cells that are measured side by side.
        index: measure this cell alone, and write neither tables nor page: as a job of many.
        only: rows to measure now; the others are shown as far as they are finished.
        report: measure nothing: write tables and page of what is finished.
        mix: allow results of other code or data in the table; the page says so.
        progress: show a bar on stderr.

    Returns:
        What is known, and the path of `report.html`; `table.md`, `table.csv`, `table.tex` and `study.json` lie beside.

    Raises:
        DataError: results of other code or data would be in one table.
        MTDiffError: there is no such index or row; with `index`, its cell failed. Without, a cell that fails is among
            `failed` and stops no other.
    """
    store = Results(results)
    chosen = plan.chosen(index=index, only=only)
    todo = [] if report else chosen
    mixed = mixtures(plan, store, todo, root)
    if mixed and not mix:
        told = "\n".join(f"  {line}" for line in mixed)
        raise DataError(
            f"{results}: results that differ in more than the recipe would be in one table:\n{told}\n"
            "Keep them apart with --results DIR, remove those that should be measured again, or take them together "
            "with --mix, which the page then says."
        )
    failed = run_cells([place.cell for place in todo], store, jobs=jobs, progress=progress)
    if index is not None and failed:
        raise next(iter(failed.values()))
    study = gather(plan, store)
    study.failed.update({place.cell.name: str(failed[place.cell.hash]) for place in todo if place.cell.hash in failed})
    study.mixed.extend(mixed)
    page = plan.home / "report.html"
    return study, page if index is not None else _write(study, page)


def gather(plan: Plan, store: Results) -> Study:
    """Return what is finished.

    Raises:
        DataError: a result is damaged; some count success and others return.
    """
    done: dict[str, list[table.Done]] = {row: [] for row in plan.planned}
    for place in plan.places:
        if (found := store.get(place.cell)) is not None:
            one = table.Done(repetition=place.variant.repetition, content=place.cell.content, result=found)
            done[place.row].append(one)
    measures = {one.result["measure"] for cells in done.values() for one in cells}
    if len(measures) > 1:
        raise DataError(f"{store.folder}: some rows of {plan.recipe.name} count success and others return.")
    return Study(plan=plan, store=store, done=done)


def _write(study: Study, page: Path) -> Path:
    rows, measure, folder = study.rows, study.measure, page.parent
    if not rows:
        if study.failed:
            raise MTDiffError("\n".join(f"{name}: {why}" for name, why in study.failed.items()))
        raise MTDiffError(f"{study.store.folder}: has no finished cell of {study.plan.recipe.name} yet.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", table.markdown(rows, measure, study.plan.reference))
    write_text(folder / "table.csv", table.as_csv(rows, measure))
    write_text(folder / "table.tex", table.latex(rows, measure, study.plan.reference))
    write_text(folder / "study.json", json.dumps(study.document(), indent=1) + "\n")
    return write(page, study)
