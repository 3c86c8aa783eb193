"""The report's pictures: small inline SVGs whose text stays text and whose colours follow the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter

from mtdiff.evaluation.results import EvaluationResult
from mtdiff.evaluation.statistics import Interval

# Matplotlib wants colours, the page wants CSS variables: these stand-ins are replaced in the finished SVG.
INK, FAINT, LINE, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", FAINT: "--faint", LINE: "--line", FIRST: "--first", SECOND: "--second"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text as text: searchable, and in the page's own font
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
}


def success_bars(result: EvaluationResult, swapped: EvaluationResult | None = None) -> str:
    """Return a bar per task with its 95 % interval; below it, the bar under the swapped prompt."""
    rows, other = (
        {task: (row.success, row.interval) for task, row in r.by_task.items()} for r in _both(result, swapped)
    )
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "success"}):
        figure, axes = _bars(rows, other)
        axes.set_xlim(0, 1.0)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        return _svg(figure, "Success per task with 95 % intervals")


def return_bars(result: EvaluationResult, swapped: EvaluationResult | None = None) -> str:
    """Return a bar per task for its mean return, from zero, likewise."""
    rows, other = (
        {task: (row.total_reward, r.return_interval(task)) for task, row in r.by_task.items()}
        for r in _both(result, swapped)
    )
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "return"}):
        figure, axes = _bars(rows, other)
        axes.axvline(0.0, color=FAINT, linewidth=0.8)
        return _svg(figure, "Mean return per task with 95 % intervals")


def sorted_curve(result: EvaluationResult, swapped: EvaluationResult | None = None) -> str:
    """Return success, or mean return, of every task from the best to the worst: for more tasks than bars can show.

    Where the curve is at a height, so large a share of the tasks reaches it. The swapped prompt's is sorted by itself.
    """
    counted = result.measure == "success"
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "sorted"}):
        figure, axes = _figure(4.7, 3.0)
        for found, colour in zip(_both(result, swapped), (FIRST, SECOND), strict=True):
            values = sorted(row.success if counted else row.total_reward for row in found.by_task.values())[::-1]
            if values:
                edges = [place / len(values) for place in range(len(values) + 1)]
                axes.stairs(values, edges, baseline=None, color=colour, linewidth=1.6)
        axes.set_xlim(0, 1.0)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set(xlabel="share of tasks, the best first", ylabel="success" if counted else "mean return")
        if counted:
            axes.set_ylim(-0.02, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        return _svg(figure, f"{'Success' if counted else 'Mean return'} of {len(result.by_task)} tasks, sorted")


_Heights = Mapping[str, tuple[float, Interval | None]]


def _both(result: EvaluationResult, swapped: EvaluationResult | None) -> tuple[EvaluationResult, EvaluationResult]:
    """Both results; for want of the second one, one without episodes."""
    return result, swapped or EvaluationResult(episodes=[], settings={}, suite={})


def _bars(rows: _Heights, other: _Heights) -> tuple[Figure, Axes]:
    figure, axes = _figure(4.7, 0.75 + (0.46 if other else 0.34) * len(rows))
    height = 0.34 if other else 0.56
    for index, (task, (value, interval)) in enumerate(rows.items()):
        _bar(axes, index - (height / 2 if other else 0), height, value, interval, FIRST)
        if task in other:
            _bar(axes, index + height / 2, height, *other[task], SECOND)
    axes.set_yticks(range(len(rows)), list(rows), color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    return figure, axes


def _bar(axes: Axes, y: float, height: float, value: float, interval: Interval | None, colour: str) -> None:
    axes.barh(y, value, height=height * 0.86, color=colour, linewidth=0)
    if interval is None:
        return
    axes.plot(interval, (y, y), color=INK, linewidth=1.1, alpha=0.75, solid_capstyle="butt", clip_on=False)
    for end in interval:
        reach = height * 0.2
        axes.plot((end, end), (y - reach, y + reach), color=INK, linewidth=1.1, alpha=0.75, clip_on=False)


def learning_curve(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Return training and held-out loss over updates, or None if nothing was logged.

    Args:
        metrics: rows with `update` and `loss` or `val_loss` or both; other keys are not looked at.
    """
    train = _series(metrics, "loss")
    held_out = _series(metrics, "val_loss")
    if not train and not held_out:
        return None
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "loss"}):
        figure, axes = _figure(4.7, 2.7)
        if train:
            axes.plot(*zip(*train, strict=True), color=FIRST, linewidth=1.2)
        if held_out:
            marker = "o" if len(held_out) < 40 else None
            axes.plot(*zip(*held_out, strict=True), color=SECOND, linewidth=1.6, marker=marker, markersize=3)
        if all(value > 0 for _, value in train + held_out):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
            axes.grid(axis="y", which="minor", linewidth=0.3)
        axes.set_xlim(left=0)
        axes.set(xlabel="update", ylabel="loss")
        return _svg(figure, "Loss over updates")


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(row["update"], row[key]) for row in metrics if row.get(key) is not None]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    return figure, axes


def _svg(figure: Figure, title: str) -> str:
    """Return an <svg> element that scales with its column and takes its colours and font from the page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"(font-family: |px )'[^;\"]*", r"\1var(--sans)", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)  # the page says how wide
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # not needed inside HTML
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
