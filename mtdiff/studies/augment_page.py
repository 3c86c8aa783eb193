"""The report page of `mtdiff augment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from markupsafe import Markup

from mtdiff.errors import MTDiffError
from mtdiff.evaluation import plots
from mtdiff.evaluation.page import page, write_page
from mtdiff.studies import augment_table as table
from mtdiff.studies.augment import ORIGINAL
from mtdiff.studies.augment_plan import LEARN, Plan
from mtdiff.studies.cells import Cell
from mtdiff.whole import write_text

if TYPE_CHECKING:
    from mtdiff.recipe import Recipe

_DRAWN = 300
"""Points of each kind in a picture."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page shows.

    Args:
        title: the page's title.
        plan: what was compared.
        tables: group of targets -> rows of success.
        truths: target -> rows of fidelity.
        finished: how many cells there are, and how many of them are finished.
        failed: cell's name -> why it could not be measured.
        pictures: target -> label -> <svg>; a single text under "" says why there are none.
        environment: versions and hardware, name to value.
    """

    title: str
    plan: Plan
    tables: Mapping[str, Sequence[table.Row]]
    truths: Mapping[str, Sequence[Mapping[str, Any]]]
    finished: Mapping[str, int]
    failed: Mapping[str, str]
    pictures: Mapping[str, Mapping[str, str]]
    environment: Mapping[str, str]


def write(path: Path, shown: Page) -> Path:
    """Write the page, whole or not at all, and return its path."""
    recipe = shown.plan.recipe
    bars = {group: Markup(differences(group, rows)) for group, rows in shown.tables.items() if len(rows) > 1}
    text = page(
        "augment.html.j2",
        folder=Path(__file__).parent,
        shown=shown,
        original=ORIGINAL,
        columns=table.FIDELITY,
        digits=table.number,
        signed=table.signed,
        bars=bars,
        pictures={task: {k: Markup(v) for k, v in by.items()} for task, by in shown.pictures.items() if task},
        recipe=recipe.to_yaml(),
        command=f"mtdiff augment {recipe.path or recipe.name}",
    )
    return write_page(path, text)


def write_overview(
    path: Path, recipe: Recipe, tables: Mapping[str, Mapping[str, Sequence[table.Row]]], pages: Mapping[str, str]
) -> Path:
    """Write the page that compares the studies of a grid.

    Args:
        path: of the page.
        recipe: with `vary`.
        tables: name of a study -> group of targets -> rows.
        pages: name of a study -> its own page, seen from this one.
    """
    groups: dict[str, dict[str, dict[str, table.Row]]] = {}
    for name, by_group in tables.items():
        for group, rows in by_group.items():
            for row in rows:
                groups.setdefault(group, {}).setdefault(row.label, {})[name] = row
    text = page(
        "overview.html.j2",
        folder=Path(__file__).parent,
        title=f"{recipe.name}: does synthetic data help?",
        groups=groups,
        pages=pages,
        signed=table.signed,
        lines={group: Markup(gains(group, labels, list(pages))) for group, labels in groups.items()},
        command=f"mtdiff augment {recipe.path or recipe.name}",
        recipe=recipe.to_yaml(),
        vary=recipe.vary,
    )
    return write_page(path, text)


def gains(title: str, labels: Mapping[str, Mapping[str, table.Row]], studies: Sequence[str]) -> str:
    """Return differences to the original data over the studies of a grid as an <svg>, a line for each augmentation."""
    with matplotlib.rc_context({**plots._STYLE, "svg.hashsalt": f"gains {title}"}):
        figure, axes = plots._figure(4.7, 3.0)
        shown = [label for label in labels if label != ORIGINAL]
        for number, label in enumerate(shown):
            points = [
                (studies.index(name), row.difference, row.interval)
                for name, row in labels[label].items()
                if row.difference is not None
            ]
            colour, style = (plots.FIRST, plots.SECOND, plots.INK)[number % 3], ("-", "--", ":")[number // 3 % 3]
            xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
            axes.plot(xs, ys, style, marker="o", markersize=4, color=colour, label=label)
            for x, _, interval in points:
                if interval is not None:
                    axes.plot((x, x), interval, color=colour, linewidth=0.8, alpha=0.6)
        axes.axhline(0.0, color=plots.FAINT, linewidth=0.8)
        axes.set_xticks(range(len(studies)), list(studies))
        axes.set_ylabel("success, difference to original")
        if shown:
            figure.legend(loc="outside lower center", ncols=3, frameon=False)
        return plots._svg(figure, f"Gains, {title}")


def differences(title: str, rows: Sequence[table.Row]) -> str:
    """Return the paired differences to the original data as an <svg>: a point and its interval for every row."""
    shown = [row for row in rows if row.difference is not None and row.interval is not None]
    with matplotlib.rc_context({**plots._STYLE, "svg.hashsalt": f"difference {title}"}):
        figure, axes = plots._figure(4.7, 0.75 + 0.3 * max(len(shown), 1))
        for place, row in enumerate(shown):
            assert row.interval is not None
            assert row.difference is not None
            better = row.interval[0] > 0
            axes.plot(row.interval, (place, place), color=plots.INK, linewidth=1.2, alpha=0.75)
            axes.plot(row.difference, place, "o", color=plots.FIRST if better else plots.SECOND, markersize=6)
        axes.axvline(0.0, color=plots.FAINT, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [row.label for row in shown], color=plots.INK)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("success, difference to the original data")
        return plots._svg(figure, f"Paired differences, {title}")


def embeddings(cells: Sequence[Cell], plan: Plan, folder: Path) -> dict[str, dict[str, str]]:
    """Return pictures of what each synthesizer wrote beside the reference episodes: target -> label -> <svg>.

    They are kept in `folder` and drawn once. Without scikit-learn there is one text under "": why there are none.
    """
    from mtdiff.evaluation.embedding import embed, embedding_svg
    from mtdiff.run_data import load_data
    from mtdiff.studies.augment_cells import ready, shown

    found: dict[str, dict[str, str]] = {}
    for cell in cells:
        task, label = cell.label["task"], cell.label["augmentation"]
        if cell.measure == LEARN or plan.augmentations[label]["name"] != "synthesizer":
            continue
        kept = folder / f"tsne-{cell.hash}.svg"
        if not kept.is_file():
            try:
                written = shown(ready(cell.content, cell.where), cell.content, samples=_DRAWN, seed=0)
                real = load_data(Path(str(cell.where["reference"])))[0].transitions()
                picture = embed(written, real, samples=_DRAWN)
            except MTDiffError as error:
                return {"": {"": str(error)}}
            write_text(kept, embedding_svg(picture, title=f"{task}, {label}"))
        found.setdefault(task, {})[label] = kept.read_text(encoding="utf-8")
    return found
