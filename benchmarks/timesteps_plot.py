"""The picture of `timesteps.py`: success and energy distance against the number of sampling timesteps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter

# Okabe & Ito's colours, which colour-blind readers tell apart; stochastic schedulers dashed, a marker for each.
LOOK: dict[str, tuple[str, str, str]] = {
    "DDPM": ("#000000", "o", "--"),
    "SDE-DPM-Solver++": ("#E69F00", "s", "--"),
    "DDIM": ("#56B4E9", "v", "-"),
    "DPM-Solver++": ("#D55E00", "D", "-"),
    "UniPC": ("#009E73", "^", "-"),
    "DEIS": ("#CC79A7", "P", "-"),
    "DPM-Solver++, first noise 1.0": ("#0072B2", "X", ":"),
}
APART = 0.022  # of a decade: how far the rows' intervals stand apart


def draw(cells: Sequence[Any], path: Path) -> None:
    """Write a PNG, to be shown 800 pixels wide.

    Args:
        cells: of `timesteps.py`; those that were not found yet are left out.
        path: where to.
    """
    found = [cell.found for cell in cells if cell.found is not None]
    with plt.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), dpi=160)
        _success(left, [row for row in found if row["kind"] == "success"])
        _distance(right, [row for row in found if row["kind"] == "distance"])
        counts = sorted({row["sampling"]["num_inference_steps"] for row in found})
        for axes in (left, right):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(counts))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.set_xlabel("sampling timesteps")
            axes.grid(color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=10)
        figure.tight_layout(rect=(0, 0.13, 1, 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    plt.close(figure)


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[float], list[Mapping[str, Any]]]]:
    """Name, shifted places and rows of every line."""
    lines = []
    for number, name in enumerate(LOOK):
        mine = sorted((row for row in rows if row["name"] == name), key=_count)
        places = [_count(row) * 10 ** (APART * (number - len(LOOK) / 2)) for row in mine]
        if mine:
            lines.append((name, places, mine))
    return lines


def _count(row: Mapping[str, Any]) -> int:
    return row["sampling"]["num_inference_steps"]


def _success(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for name, places, mine in _lines(rows):
        colour, marker, line = LOOK[name]
        middle = [row["success"] for row in mine]
        below = [row["success"] - row["interval"][0] for row in mine]
        above = [row["interval"][1] - row["success"] for row in mine]
        axes.errorbar(
            places, middle, yerr=[below, above], color=colour, marker=marker, linestyle=line, label=name,
            markersize=5, linewidth=1.4, elinewidth=0.8,
        )  # fmt: skip
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title("mean success, 95 % intervals", fontsize=11)


def _distance(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for name, places, mine in _lines(rows):
        colour, marker, line = LOOK[name]
        middle = [1000 * row["distance"] for row in mine]
        errors = [1000 * row["standard_error"] for row in mine]
        axes.errorbar(
            places, middle, yerr=errors, color=colour, marker=marker, linestyle=line, markersize=5, linewidth=1.4,
            elinewidth=0.8,
        )  # fmt: skip
    for row in rows:
        if row["name"] not in LOOK:
            axes.axhline(1000 * row["distance"], color="#666666", linewidth=1, linestyle="-.")
            axes.annotate(
                "DDPM-200, another seed", (0.98, 1000 * row["distance"]), xycoords=("axes fraction", "data"),
                xytext=(0, 4), textcoords="offset points", ha="right", color="#444444", fontsize=9,
            )  # fmt: skip
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_ylim(bottom=-1)
    axes.set_title("energy distance of first actions to DDPM-200, × 1000", fontsize=11)
