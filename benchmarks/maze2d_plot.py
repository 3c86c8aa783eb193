"""The pictures of `maze2d.py`: success by training maps and ingredients, and plans over maps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter

# Okabe & Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
SERIES = {
    "way and walls drawn, from here": (BLUE, "o", {"maps8": 8, "maps64": 64, "maps512": 512}),
    "way as numbers, where it lies": (ORANGE, "s", {"absolute64": 64, "absolute": 512}),
}  # fmt: skip
BARS = (
    "long", "maps512", "no_walls", "numbers", "absolute", "no_way", "none", "prompt_dt", "copied", "expert",
)  # fmt: skip
LABELS = {"long": "12,000 updates, not 3,000", "maps512": "way and walls, drawn from here"}
LINES = {"walk": (BLUE, 0.9), "lost": (ORANGE, 0.9), "plan": ("#E69F00", 1.6)}


def draw_rows(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write a PNG, to be shown 800 pixels wide: success by number of training maps, and one ingredient at a time."""
    with plt.rc_context({"font.size": 10.5, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.4), dpi=150)
        _by_maps(left, rows)
        _one_by_one(right, rows)
        for axes in (left, right):
            axes.grid(color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
        figure.tight_layout()
        figure.savefig(path)
    plt.close(figure)


def _by_maps(axes: Axes, rows: Mapping[str, Mapping[str, Any]]) -> None:
    counts: set[int] = set()
    for shift, (label, (colour, marker, names)) in enumerate(SERIES.items()):
        known = {name: count for name, count in names.items() if name in rows}
        middle, errors = _errors([rows[name] for name in known])
        axes.errorbar([count * 1.07 ** (shift - 1) for count in known.values()], middle, yerr=errors, color=colour,
                      marker=marker, markersize=5, linewidth=1.4, capsize=2.5, label=label)  # fmt: skip
        counts |= set(known.values())
    axes.legend(loc="lower right", frameon=False, fontsize=9.5)
    if "copied" in rows:
        axes.axhline(rows["copied"]["success"], color=GREY, linestyle="--", linewidth=1.2)
        axes.annotate("copying the shown way", (512, rows["copied"]["success"]), xytext=(0, -5), color=GREY,
                      textcoords="offset points", fontsize=9.5, ha="right", va="top")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(counts)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("maps in training, always 4,096 episodes in all")
    axes.set_title("success on 40 unseen maps", fontsize=10.5, loc="left")


def _one_by_one(axes: Axes, rows: Mapping[str, Mapping[str, Any]]) -> None:
    shown = [name for name in BARS if name in rows]
    middle, errors = _errors([rows[name] for name in shown])
    colours = [GREEN if name == "expert" else GREY if name in ("copied", "prompt_dt") else BLUE if name in
               ("long", "maps512") else ORANGE for name in shown]  # fmt: skip
    axes.barh(range(len(shown)), middle, color=colours, height=0.62, xerr=errors, error_kw={"capsize": 2.5, "lw": 1.2})
    axes.set_yticks(range(len(shown)), [LABELS.get(name, rows[name]["label"]) for name in shown])
    for place, value in enumerate(middle):
        axes.text(0.015, place, f"{100 * value:.0f} %", color="white" if value > 0.1 else "black", va="center",
                  fontsize=9.5)  # fmt: skip
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title("512 maps and 3,000 updates unless said", fontsize=10.5, loc="left")


def _errors(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[list[float]]]:
    middle = [row["success"] for row in rows]
    below = [row["success"] - row["interval"][0] for row in rows]
    return middle, [below, [row["interval"][1] - row["success"] for row in rows]]


def draw_pictures(drawings: Sequence[tuple[str, str]], path: Path, columns: int = 6, most: int = 12) -> None:
    """Write a PNG of the first of a report's drawings (SVG), `columns` in a row."""
    shown = drawings[:most]
    lines = -(-len(shown) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(10, 1.85 * lines), dpi=130, squeeze=False)
    for cell in axes.flat:
        cell.axis("off")
    for (task, svg), cell in zip(shown, axes.flat, strict=False):
        _picture(cell, task, svg)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, pil_kwargs={"optimize": True})
    plt.close(figure)


def _picture(axes: Axes, task: str, svg: str) -> None:
    columns, rows = (int(size) for size in re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())  # type: ignore[union-attr]
    axes.add_patch(Rectangle((0, 0), columns, rows, color="#8b9198"))
    for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", svg):
        axes.add_patch(Rectangle((int(x), int(y)), 1, 1, color="white"))
    for kind, x, y, radius in re.findall(r'<circle class="(\w+)" cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', svg):
        look = {"goal": {"color": GREEN, "alpha": 0.35}, "end": {"color": ORANGE}}.get(kind, {"fc": "white", "ec": "k"})
        axes.add_patch(Circle((float(x), float(y)), float(radius), zorder=3, **look))
    for kind, points in re.findall(r'<polyline class="(\w+)" points="([^"]*)"', svg):
        colour, width = LINES[kind]
        path = [tuple(map(float, pair.split(","))) for pair in points.split()]
        axes.plot(*zip(*path, strict=True), color=colour, linewidth=width, solid_capstyle="round")
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")
    arrived, lost = svg.count('class="walk"'), svg.count('class="lost"')
    axes.set_title(f"{task}: {arrived} of {arrived + lost}", fontsize=8, pad=2)
