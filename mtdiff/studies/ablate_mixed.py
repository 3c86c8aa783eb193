"""What must not be in one table: results that other code made, or other data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtdiff.data.storage import MANIFEST
from mtdiff.run_data import data_folder
from mtdiff.studies.ablate_cells import fingerprint, origin
from mtdiff.studies.ablate_plan import Place, Plan, data_of
from mtdiff.studies.cells import Results

_HERE = "this installation"


def mixtures(plan: Plan, store: Results, todo: Sequence[Place], root: Path) -> list[str]:
    """Return what differs between results that would be in one table: a line each, none if all is well.

    Args:
        plan: of the study.
        store: finished cells.
        todo: places that are to be measured now, by the code that runs here.
        root: folder of data; data that are not there cannot differ.
    """
    found = [(place, result) for place in plan.places if (result := store.get(place.cell)) is not None]
    lines = []
    for kind in dict.fromkeys(place.training.get("pipeline") for place in plan.places):
        made: dict[str, list[str]] = {}
        for place, result in found:
            if place.training.get("pipeline") == kind:
                made.setdefault(_words(result["made"]), []).append(str(store.path(place.cell)))
        if any(store.get(place.cell) is None for place in todo if place.training.get("pipeline") == kind):
            made.setdefault(_words(origin(kind)), []).append(_HERE)
        if len(made) > 1:
            lines.append(f"code of a {kind}: {_listed(made)}")
    for digest, recipe in plan.data.items():
        prints: dict[str, list[str]] = {}
        for place, result in found:
            if data_of(place.training) == digest:
                prints.setdefault(result["made"]["data"], []).append(str(store.path(place.cell)))
        folder = data_folder(recipe, root)
        if (folder / MANIFEST).is_file():
            prints.setdefault(fingerprint(folder), []).append(str(folder))
        if len(prints) > 1:
            lines.append(f"data: {_listed({name[:12]: places for name, places in prints.items()})}")
    return lines


def _words(made: Mapping[str, Any]) -> str:
    return f"mtdiff {made['mtdiff']}, {made['code']}"


def _listed(kinds: Mapping[str, Sequence[str]]) -> str:
    """Each kind with what is of it, few of many."""
    parts = []
    for kind, places in kinds.items():
        more = f" and {len(places) - 2} more" if len(places) > 3 else ""
        parts.append(f"{kind} ({', '.join(places[: 2 if more else 3])}{more})")
    return "; ".join(parts)
