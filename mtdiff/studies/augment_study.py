"""`mtdiff augment`: does synthetic data help a learner, on tasks of which little is known?

The question of MTDiff's table 2 and figures 6 and 7 (He et al. 2023), asked so that the answer means something: every
learner of a target sees the same recorded episodes, demonstrations included, makes the same number of updates and meets
the same goals, and differences are paired by seed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtdiff.errors import MTDiffError, choices
from mtdiff.recipe import Recipe, Variant, variants
from mtdiff.run_data import ROOT
from mtdiff.runs import Run, hardware, versions
from mtdiff.studies import augment_table as table
from mtdiff.studies.augment_page import Page, embeddings, write, write_overview
from mtdiff.studies.augment_plan import LEARN, MEASURE, Plan, make_plan, prepare
from mtdiff.studies.cells import Cell, Results, run_cells
from mtdiff.whole import write_text, writing

RESULTS = Path("results")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is known so far.

    Attributes:
        variant: which recipe of a grid.
        plan: what was asked for.
        cells: everything that is measured.
        success: (task, label, seed) -> share of successful episodes.
        fidelity: task -> label -> what `Fidelity.to_dict` says.
        failed: cell's name -> why it could not be measured.
        runs: label -> task -> the synthesizer's run.
    """

    variant: Variant
    plan: Plan
    cells: list[Cell]
    success: dict[tuple[str, str, int], float]
    fidelity: dict[str, dict[str, dict[str, Any]]]
    failed: dict[str, str] = field(default_factory=dict)
    runs: dict[str, dict[str, Run]] = field(default_factory=dict)

    @property
    def tables(self) -> dict[str, list[table.Row]]:
        """Group of targets -> rows of success."""
        seen, unseen = ([t.task for t in self.plan.targets if t.seen is kind] for kind in (True, False))
        seeds = range(self.plan.settings.seeds)
        found = {
            group: table.rows(self.plan.augmentations, tasks, self.success, seeds)
            for group, tasks in table.groups(seen, unseen).items()
        }
        return {group: rows for group, rows in found.items() if rows}

    @property
    def truths(self) -> dict[str, list[dict[str, Any]]]:
        """Target -> rows of fidelity."""
        return {
            task: [table.fidelity_row(label, found[label]) for label in self.plan.augmentations if label in found]
            for task, found in self.fidelity.items()
        }

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "variant": self.variant.coordinates,
            "success": {group: [vars(row) for row in rows] for group, rows in self.tables.items()},
            "fidelity": self.truths,
            "cells": {"finished": len(self.success) + sum(map(len, self.fidelity.values())), "all": len(self.cells)},
            "failed": self.failed,
        }


def augment(
    recipe: Recipe,
    *,
    root: Path = ROOT,
    results: Path = RESULTS,
    jobs: int = 1,
    workers: int | None = None,
    only: Sequence[str] | None = None,
    pictures: bool = True,
    progress: bool = True,
) -> tuple[list[Study], Path]:
    """Do whatever is left to do of a study, and write its tables and its report page.

    Args:
        recipe: a synthesizer's, with the sections `augment` and `augmentations`; with `vary`, one study for each recipe
            of the grid. Cells that they share are measured once.
        root: folder of data, runs and reports.
        results: folder of finished cells; whatever is there is not measured again.
        jobs: cells that are measured side by side.
        workers: simulator processes for the collection of data.
        only: labels of the augmentations to measure now; the others are shown as far as they are finished.
        pictures: draw the transitions in a plane (needs scikit-learn; without it the page says so).
        progress: show bars on stderr.

    Returns:
        What is known, and the path of `report.html`; `table.md`, `learners.csv` and `study.json` lie beside it. With
        `vary`, that page compares the studies, and each has a folder of its own beside it.

    Raises:
        MTDiffError: the recipe asks for what cannot be done, or data or a synthesizer could not be made. A cell that
            fails stops no other and is among `failed`.
    """
    plans = [(variant, make_plan(variant.recipe)) for variant in variants(recipe)]  # all of it is right, or nothing
    for label in only or []:
        if label not in plans[0][1].augmentations:
            raise MTDiffError(f"only: {choices('augmentation', label, list(plans[0][1].augmentations))}")
    sections = [key for key in recipe.values if key in recipe.sections]
    digest = recipe.section_hash(*sections, fingerprint=json.dumps(recipe.vary))
    home, store = root / "studies" / f"{recipe.name}-{digest}", Results(results)
    studies: list[Study] = []
    for variant, plan in plans:
        cells, runs = prepare(plan, root=root, workers=workers, only=only)
        wanted = [cell for cell in cells if only is None or cell.label["augmentation"] in only]
        failed = run_cells(wanted, store, jobs=jobs, progress=progress)
        study = _gather(variant, plan, cells, store, runs)
        study.failed.update({cell.name: str(failed[cell.hash]) for cell in cells if cell.hash in failed})
        studies.append(study)
        page = _write(study, home / _slug(variant) if variant.coordinates else home, pictures=pictures)
    if recipe.vary is not None:
        tables = {study.variant.name: study.tables for study in studies}
        pages = {study.variant.name: f"{_slug(study.variant)}/report.html" for study in studies}
        page = write_overview(home / "report.html", recipe, tables, pages)
    return studies, page


def _write(study: Study, folder: Path, *, pictures: bool) -> Path:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", table.markdown(study.tables, study.truths) + "\n")
    write_text(folder / "learners.csv", table.as_csv(study.success))
    write_text(folder / "study.json", json.dumps(study.document(), indent=1) + "\n")
    name = study.plan.recipe.name + (f", {study.variant.name}" if study.variant.coordinates else "")
    page = Page(
        title=f"{name}: does synthetic data help?",
        plan=study.plan,
        tables=study.tables,
        truths=study.truths,
        finished=study.document()["cells"],
        failed=study.failed,
        pictures=embeddings(study.cells, study.plan, folder) if pictures else {},
        environment={**versions(), "hardware": hardware()},
    )
    return write(folder / "report.html", page)


def _slug(variant: Variant) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", variant.name)


def _gather(
    variant: Variant, plan: Plan, cells: Sequence[Cell], store: Results, runs: dict[str, dict[str, Run]]
) -> Study:
    study = Study(variant=variant, plan=plan, cells=list(cells), success={}, fidelity={}, runs=runs)
    for cell in cells:
        found, task, label = store.get(cell), cell.label["task"], cell.label["augmentation"]
        if found is not None and cell.measure == LEARN:
            study.success[(task, label, cell.label["seed"])] = float(np.mean(found["success"]))
        elif found is not None and cell.measure == MEASURE:
            study.fidelity.setdefault(task, {})[label] = found
    return study
