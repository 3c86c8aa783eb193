"""The report page of `mtdiff ablate`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter

from mtdiff.evaluation import plots
from mtdiff.evaluation.page import page, write_page
from mtdiff.evaluation.statistics import Interval
from mtdiff.provenance import versions
from mtdiff.studies import ablate_table as table

if TYPE_CHECKING:
    from mtdiff.studies.ablate_study import Study


def write(path: Path, study: Study) -> Path:
    """Write the page, whole or not at all, and return its path."""
    rows, measure, reference = study.rows, study.measure, study.plan.reference
    counted = measure == "success"
    hardware = dict.fromkeys(one.result["made"]["hardware"] for cells in study.done.values() for one in cells)
    recipe = study.plan.recipe
    text = page(
        "ablate.html.j2",
        folder=Path(__file__).parent,
        title=f"{recipe.name}: what makes a difference?",
        study=study.document(),
        rows=rows,
        measure=measure,
        counted=counted,
        reference=reference,
        best=any(row.label.endswith(table.BEST) for row in rows),
        single=max(row.runs for row in rows) == 1,
        tasks=list(dict.fromkeys(task for row in rows for task in row.by_task)),
        shades=_shades(rows, counted),
        number=lambda value: table.number(value, measure),
        span=lambda interval, sign=False: table.span(interval, measure, sign=sign),
        signed=lambda value: f"{value:+.2f}" if counted else f"{value:+.1f}",
        compared=Markup(compared(rows, measure, reference)),
        curves=Markup(curves(study.done)),
        recipe=recipe.to_yaml(),
        vary=recipe.vary,
        command=shlex.join(study.plan.command),
        breaking=lambda label: Markup("_<wbr>").join(label.split("_")),
        environment={**versions(), "hardware": "; ".join(hardware)},
    )
    return write_page(path, text)


def _shades(rows: Sequence[table.Row], counted: bool) -> dict[tuple[str, str], int]:
    """(row, task) -> how dark, in percent: of a success rate itself, of returns between a task's least and most."""
    shades = {}
    for task in dict.fromkeys(task for row in rows for task in row.by_task):
        mine = {row.label: row.by_task[task] for row in rows if task in row.by_task}
        low, high = (0.0, 1.0) if counted else (min(mine.values()), max(mine.values()))
        for label, value in mine.items():
            shades[(label, task)] = round(100 * (value - low) / (high - low)) if high > low else 50
    return shades


def compared(rows: Sequence[table.Row], measure: str, reference: str) -> str:
    """Return the rows' scores, and beside them their paired differences to the reference, as an <svg>.

    A point and its interval for each; a difference is coloured where its interval leaves zero out.
    """
    gaps = [(row.difference, row.difference_interval) for row in rows]
    several = any(value is not None for value, _ in gaps)
    with matplotlib.rc_context({**plots._STYLE, "svg.hashsalt": "compared"}):
        figure = Figure(figsize=(9.6, 0.8 + 0.3 * len(rows)), layout="constrained")
        figure.patch.set_alpha(0.0)
        panels = figure.subplots(1, 1 + several, sharey=True, squeeze=False)[0]
        for axes in panels:
            axes.patch.set_alpha(0.0)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
            axes.spines["left"].set_visible(False)
            axes.set_ylim(len(rows) - 0.5, -0.5)
        for place, row in enumerate(rows):
            _point(panels[0], place, row.score, row.interval, plots.SECOND if row.label == reference else plots.FIRST)
        panels[0].set_yticks(range(len(rows)), [row.label for row in rows], color=plots.INK)
        panels[0].set_xlabel(f"mean {measure}")
        if measure == "success":
            panels[0].set_xlim(0, 1)
            panels[0].xaxis.set_major_formatter(PercentFormatter(1.0))
        if several:
            panels[1].axvline(0.0, color=plots.SECOND, linewidth=1.0)
            panels[1].set_xlabel(f"{measure}, paired difference")
            for place, (value, interval) in enumerate(gaps):
                if value is not None:
                    sure = interval is not None and (interval[0] > 0 or interval[1] < 0)
                    _point(panels[1], place, value, interval, plots.FIRST if sure else plots.FAINT)
        return plots._svg(figure, f"Mean {measure} of each row, and differences to {reference}")


def _point(axes: Axes, place: int, value: float, interval: Interval | None, colour: str) -> None:
    if interval is not None and np.isfinite(interval).all():
        axes.plot(interval, (place, place), color=plots.INK, linewidth=1.2, alpha=0.75, clip_on=False)
    axes.plot(value, place, "o", color=colour, markersize=6, clip_on=False)


def curves(done: Mapping[str, Sequence[table.Done]]) -> str:
    """Return the loss over updates as an <svg>, a line for each row, once for rows that share their trainings.

    It is the held-out loss, or that of training where nothing was held out: the mean over runs.
    """
    lines: dict[tuple[str, ...], tuple[list[str], Any]] = {}
    for label, cells in done.items():
        if cells:
            runs = tuple(sorted(one.result["training"]["run"] for one in cells))
            lines.setdefault(runs, ([], _mean_curve(cells)))[0].append(label)
    lines = {runs: (labels, curve) for runs, (labels, curve) in lines.items() if len(curve)}
    if not lines:
        return ""
    with matplotlib.rc_context({**plots._STYLE, "svg.hashsalt": "curves"}):
        figure, axes = plots._figure(7.2, 3.2 + 0.09 * len(lines))
        for number, (labels, curve) in enumerate(lines.values()):
            colour = (plots.FIRST, plots.SECOND, plots.INK)[number % 3]
            style = ("-", "--", ":", "-.")[number // 3 % 4]
            label = labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more of the same training"
            axes.plot(curve[:, 0], curve[:, 1], style, color=colour, linewidth=1.4, label=label)
        if all((curve[:, 1] > 0).all() for _, curve in lines.values()):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.set_xlim(left=0)
        held = all(one.result["val_loss"] for cells in done.values() for one in cells)
        axes.set(xlabel="update", ylabel="held-out loss" if held else "loss")
        if len(lines) > 1:
            figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return plots._svg(figure, "Loss over updates")


def _mean_curve(cells: Sequence[table.Done]) -> np.ndarray:
    """(points, 2): updates that all runs have logged, and the mean of their losses."""
    kind = "val_loss" if all(one.result["val_loss"] for one in cells) else "loss"
    series = [dict(one.result[kind]) for one in cells]
    shared = [update for update in series[0] if all(update in other for other in series)]
    return np.array([[update, np.mean([one[update] for one in series])] for update in shared])
