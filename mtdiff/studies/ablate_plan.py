"""From a recipe to the cells that `mtdiff ablate` measures, all of them checked before any is begun."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff.errors import MTDiffError, RecipeError, choices
from mtdiff.recipe import Recipe, Variant, variants
from mtdiff.run_data import ROOT
from mtdiff.studies.ablate_table import BEST
from mtdiff.studies.cells import Cell, Results

if TYPE_CHECKING:
    from collections.abc import Mapping

MEASURE = "mtdiff.studies.ablate_cells:measure"
RESULTS = Path("results")
ACTING = ("planner", "policy")
_UNMEASURED = ("workers", "swapped_prompt", "demonstrator", "videos")
"""Of the evaluation: what does not change the episodes that a table is made of."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cell and where it is in the grid.

    Attributes:
        index: its number, from 0: the same for the same recipe and changes.
        variant: its recipe and coordinates.
        training: the recipe that is trained for it; other cells may sample the same training otherwise.
        checkpoint: the weights that are measured: "last" or "best".
        cell: what is measured.
    """

    index: int
    variant: Variant
    training: Recipe
    checkpoint: str
    cell: Cell

    @property
    def row(self) -> str:
        """The row of the table: best weights have one of their own."""
        return row_of(self.variant, self.checkpoint)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe asks for.

    Attributes:
        recipe: as it was given.
        overrides: changes of the command line that it was given with.
        home: folder of tables, page and logs.
        places: every cell, repetition by repetition, so that all rows of the table grow alike.
        reference: the row that others are compared with.
    """

    recipe: Recipe
    overrides: tuple[str, ...]
    home: Path
    places: list[Place]
    reference: str

    @property
    def planned(self) -> dict[str, int]:
        """Rows in the order of the grid, and how many repetitions each is to have."""
        found: dict[str, int] = {}
        for place in sorted(self.places, key=lambda one: (one.checkpoint == "best", one.variant.named is not None)):
            found[place.row] = found.get(place.row, 0) + 1
        return found

    @property
    def command(self) -> list[str]:
        """Words of the command that asks for this study."""
        return ["mtdiff", "ablate", _short(self.recipe), *self.overrides]

    @property
    def data(self) -> dict[str, Recipe]:
        """One recipe of each dataset, by its hash."""
        return {data_of(place.training): place.training for place in self.places}

    def chosen(self, *, index: int | None, only: Sequence[str] | None) -> list[Place]:
        """Return the places to measure now, one of each training first, so that jobs do not wait for each other.

        Raises:
            MTDiffError: there is no such index or row.
        """
        if index is not None:
            if not 0 <= index < len(self.places):
                raise MTDiffError(f"index: should be from 0 to {len(self.places) - 1}, got {index}.")
            return [self.places[index]]
        for row in only or []:
            if row not in self.planned:
                raise MTDiffError(f"only: {choices('row', row, self.planned)}")
        seen: dict[str, int] = {}
        turns: list[tuple[int, Place]] = []
        for place in self.places:
            if only is None or place.row in only:
                digest = place.training.hash()
                turns.append((seen.get(digest, 0), place))
                seen[digest] = seen.get(digest, 0) + 1
        return [place for _, place in sorted(turns, key=lambda turn: turn[0])]

    def document(self, store: Results, root: Path) -> dict[str, Any]:
        """JSON-able: every cell with its state and command."""
        from mtdiff.studies.ablate_cells import state

        def words(place: Place) -> str:
            options = ["--index", str(place.index)]
            options += ["--results", str(store.folder)] * (store.folder != RESULTS)
            return shlex.join([*self.command, *options, *(["--output", str(root)] * (root != ROOT))])

        cells = [
            {
                "index": place.index,
                "row": place.row,
                "repetition": place.variant.repetition,
                "coordinates": place.variant.coordinates,
                "state": "done" if store.get(place.cell) is not None else state(place.training, root),
                "training": place.training.hash(),
                "result": str(store.path(place.cell)),
                "command": words(place),
            }
            for place in self.places
        ]
        return {"name": self.recipe.name, "folder": str(self.home), "reference": self.reference, "cells": cells}


def make_plan(recipe: Recipe, *, overrides: Sequence[str] = (), root: Path = ROOT, workers: int | None = None) -> Plan:
    """Work out all cells of a recipe. Nothing is collected, trained or measured.

    Args:
        recipe: a planner's or a policy's, with `vary:` or the section `ablation`.
        overrides: the changes of the command line that are already in it, for the commands that are shown.
        root: folder of data, runs and studies.
        workers: simulator processes of each cell.

    Raises:
        RecipeError: nothing is varied; something in the grid is wrong (with its coordinates); two cells are the same;
            cells that share a training want other prompts of it; the reference is no row.
    """
    extra: Mapping[str, Any] = recipe.values.get("ablation") or {}
    if recipe.vary is None and not extra.get("rows"):
        raise RecipeError(
            f"{recipe.name}: has neither 'vary:' nor 'ablation.rows', which say what `mtdiff ablate` compares."
        )
    found = variants(recipe)
    checkpoints = extra.get("checkpoints", ("last",))
    for variant in found:
        if (got := variant.recipe.get("pipeline")) not in ACTING:
            allowed = " or ".join(ACTING)
            raise RecipeError(f"{_called(recipe, variant)}: pipeline: should be {allowed}, which can act, got {got}.")
        if "best" in checkpoints and not variant.recipe.get("training.validation"):
            raise RecipeError(
                f"{_called(recipe, variant)}: training.validation: must be above 0 for best checkpoints, got 0.0."
            )
    sections = [key for key in recipe.values if key in recipe.sections]
    digest = recipe.section_hash(*sections, fingerprint=json.dumps(recipe.vary))
    home = root / "studies" / f"{recipe.name}-{digest}"
    turns = {repetition: turn for turn, repetition in enumerate(dict.fromkeys(one.repetition for one in found))}
    found.sort(key=lambda one: turns[one.repetition])
    trainings: dict[str, Variant] = {}
    cells: dict[str, Variant] = {}
    places = []
    for index, (variant, checkpoint) in enumerate(itertools.product(found, checkpoints)):
        first = trainings.setdefault(variant.recipe.hash(), variant)
        ours, theirs = (one.recipe.get("sampling.prompts_per_task") for one in (variant, first))
        if ours != theirs:
            raise RecipeError(
                f"{_called(recipe, variant)}: sampling.prompts_per_task: is {ours}, and {theirs} in "
                f"{first.name or recipe.name}, which is the same training; a trained planner keeps its prompts."
            )
        cell = _cell(variant, first, checkpoint, home=home, root=root, workers=workers)
        if cell.hash in cells:
            other = cells[cell.hash]
            raise RecipeError(f"{_called(recipe, variant)}: is the same as {other.name or recipe.name}; leave one out.")
        cells[cell.hash] = variant
        places.append(Place(index=index, variant=variant, training=first.recipe, checkpoint=checkpoint, cell=cell))
    plan = Plan(recipe=recipe, overrides=tuple(overrides), home=home, places=places, reference="")
    reference = extra.get("reference") or next(iter(plan.planned))
    if reference not in plan.planned:
        where = recipe.origin("ablation.reference")
        raise RecipeError(f"{where}: ablation.reference: {choices('row', reference, plan.planned)}")
    return Plan(recipe=recipe, overrides=tuple(overrides), home=home, places=places, reference=reference)


def row_of(variant: Variant, checkpoint: str) -> str:
    """Return the row of the table that a cell belongs to."""
    return variant.row + (BEST if checkpoint == "best" else "")


def data_of(recipe: Recipe) -> str:
    """Return what the data of a recipe are made from, as a hash."""
    return recipe.section_hash("suite", "data")


def _cell(variant: Variant, first: Variant, checkpoint: str, *, home: Path, root: Path, workers: int | None) -> Cell:
    values = variant.recipe.values
    content = {
        "checkpoint": checkpoint,
        "training": variant.recipe.hash(),
        "suite": values["suite"],
        "sampling": values["sampling"],
        "evaluation": {key: value for key, value in values["evaluation"].items() if key not in _UNMEASURED},
    }
    cell = Cell(
        measure=MEASURE,
        content=json.loads(json.dumps(content)),
        label={"row": row_of(variant, checkpoint)} | ({"repetition": variant.repetition} if variant.repetition else {}),
    )
    where = {
        "recipe": first.recipe.values,
        "name": first.recipe.name,
        "root": str(root),
        "workers": workers,
        "cell": cell.name,
        "log": str(home / "logs" / f"{cell.hash}.log"),
    }
    return Cell(measure=MEASURE, content=cell.content, label=cell.label, where=where)


def _called(recipe: Recipe, variant: Variant) -> str:
    return f"{recipe.name}: vary, {variant.name}" if variant.name else recipe.name


def _short(recipe: Recipe) -> str:
    """A shipped recipe by its name, any other by its path."""
    from mtdiff.recipe import shipped_recipes
    from mtdiff.recipe.finding import show_path

    if recipe.path is None:
        return recipe.name
    names = {path.resolve(): name for name, path in shipped_recipes().items()}
    return names.get(recipe.path.resolve()) or show_path(recipe.path)
