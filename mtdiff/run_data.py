"""The data of a recipe: collected in its simulator, read once from files of others, or used where they lie."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff.collection import collect, summarize
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import MTDiffError

if TYPE_CHECKING:
    from mtdiff.recipe import Recipe

ROOT = Path("outputs")


def data_folder(recipe: Recipe, root: Path = ROOT) -> Path:
    """Where the data of a recipe are kept: named by what they are made from, shared by all runs."""
    place: Path | None = getattr(recipe.build("data"), "in_place", None)
    name = f"{recipe.get('suite.name')}-{recipe.section_hash('suite', 'data')}"
    return place or Path(root) / "data" / name


def collect_data(
    recipe: Recipe,
    *,
    root: Path = ROOT,
    folder: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Collect or read the data of a recipe, or what is missing of them.

    Args:
        recipe: what to collect.
        root: folder of data and runs.
        folder: where to, if not below `root`; a dataset folder that is used in place is then copied there.
        workers: simulator processes.
        progress: show a bar on stderr.

    Returns:
        The summary of `mtdiff.collection.collect`; `collected` counts the episodes that this call recorded or read.

    Raises:
        MTDiffError: see `collect` and `mtdiff.data.importing.read_once`.
    """
    from mtdiff.data.importing import read_once
    from mtdiff.data.sources.source import reads

    suite, source = recipe.build("suite"), recipe.build("data")
    place = folder or data_folder(recipe, root)
    if not reads(source):
        acting = _trained(source, suite, place, root=root, workers=workers)
        return collect(suite=suite, source=source, folder=place, pipelines=acting, workers=workers, progress=progress)
    started, count = time.perf_counter(), 0
    if folder is None and source.in_place is not None:
        use_in_place(place, suite)
    else:
        count = read_once(place, suite=suite, source=source)
    return summarize(place, count, time.perf_counter() - started)


def _trained(source: Any, suite: Any, folder: Path, *, root: Path, workers: int | None) -> list[Path]:
    """Train what a source lets act, unless its data are there already; returns the pipelines' folders.

    Raises:
        MTDiffError: it was launched in several processes, of which this one would train alone and wait for the others.
    """
    from mtdiff.data.storage import MANIFEST

    if not hasattr(source, "teachers"):
        return []
    recipes = source.teachers(suite)  # refused before any work, and also where nothing is left to do
    if (folder / MANIFEST).is_file():
        return []
    from mtdiff.runs import train
    from mtdiff.world import join

    if (count := join().num_processes) > 1:
        raise MTDiffError(
            f"data: {source.describe()['name']} trains what acts, which cannot be done among {count} processes. "
            "Collect first, without a launcher: mtdiff collect RECIPE"
        )
    return [train(recipe, root=root, resume=True, workers=workers).pipeline for recipe in recipes]


def use_in_place(folder: Path, suite: Any) -> None:
    """Refuse a dataset folder that is not whole, or not of a suite.

    Raises:
        DataError: what is wrong with it.
    """
    from mtdiff.data.sources.source import refuse_other_suites

    for part in load_data(folder):
        if part is not None:
            refuse_other_suites(part, suite, where=str(folder))


def load_data(folder: Path) -> tuple[TrajectoryDataset, TrajectoryDataset | None]:
    """Return the trajectories of a folder, and its demonstrations if it has any.

    Raises:
        DataError: see `TrajectoryDataset.load`.
    """
    from mtdiff.data.storage import read_manifest

    data = TrajectoryDataset.load(folder)
    shown = "prompts" in read_manifest(folder)["splits"]
    return data, TrajectoryDataset.load(folder, split="prompts") if shown else None
