"""Tables and curves of fine-tunings that are finished: success against environment steps, over seeds.

A curve is of rollouts: episodes on goals that were new when they were collected, exploration included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtdiff.evaluation.statistics import wilson

POINTS = 20
_FIELDS = 3  # of a plot, most side by side


def label_of(settings: Mapping[str, Any]) -> str:
    """What people call a choice of `finetune`: "own_best", "own_best alone" without a policy gradient ..."""
    return settings["regularizer"] + ("" if settings["policy_weight"] else " alone")


def curve_of(place: Path) -> list[dict[str, float]]:
    """Environment steps, episodes and successes of every iteration of a copy's folder."""
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: row[key] for key in ("environment_steps", "episodes", "successes")} for row in rows]


def gathered(curves: Iterable[Sequence[Mapping[str, float]]], points: int = POINTS) -> list[dict[str, Any]]:
    """Put the curves of several seeds together: success in windows of equally many steps, with Wilson's intervals.

    An interval is over all episodes of a window, so it covers the luck of goals and not that of seeds: `lowest` and
    `highest` are the seeds' own rates.

    Args:
        curves: what `curve_of` returned, one per seed.
        points: windows.

    Returns:
        A row for each window: environment_steps (its end), success, interval, episodes, lowest, highest.
    """
    curves = [list(curve) for curve in curves]
    end = max(row["environment_steps"] for curve in curves for row in curve)
    rows = []
    for low, high in zip(*(lambda e: (e[:-1], e[1:]))(np.linspace(0, end, points + 1)), strict=True):
        inside = [[row for row in curve if low < row["environment_steps"] <= high] for curve in curves]
        counts = [(sum(r["successes"] for r in one), sum(r["episodes"] for r in one)) for one in inside if one]
        if counts:
            won, all_of = (int(sum(column)) for column in zip(*counts, strict=True))
            rates = [w / n for w, n in counts]
            rows.append({
                "environment_steps": int(high), "success": won / all_of, "interval": list(wilson(won, all_of)),
                "episodes": all_of, "lowest": min(rates), "highest": max(rates),
            })  # fmt: skip
    return rows


def plot(curves: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], path: Path) -> None:
    """Draw success against environment steps: one field per task, one line per label, with 95 % intervals.

    Args:
        curves: task to label to the rows of `gathered`.
        path: a PNG or SVG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = list(dict.fromkeys(label for lines in curves.values() for label in lines))
    down = -(-len(curves) // _FIELDS)
    across = -(-len(curves) // down)
    size = (3.9 * across + 4.2 * (len(labels) > 1), 0.3 + 3.1 * down)
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False, sharey=True)
    for axis in axes.flat[len(curves) :]:
        axis.axis("off")
    for axis, (task, lines) in zip(axes.flat, curves.items(), strict=False):
        for label, rows in lines.items():
            steps, color = [row["environment_steps"] / 1000 for row in rows], f"C{labels.index(label)}"
            axis.plot(steps, [row["success"] for row in rows], linewidth=1.8, color=color)
            low, high = zip(*(row["interval"] for row in rows), strict=True)
            axis.fill_between(steps, low, high, alpha=0.15, color=color, linewidth=0)
        axis.axhline(0.85, color="0.6", linewidth=0.8, linestyle=":")
        axis.set(title=task, xlabel="thousand environment steps", ylim=(0, 1.02), xlim=(0, None))
        axis.grid(alpha=0.2)
    for row in axes:
        row[0].set_ylabel("success of rollouts")
    keys = [plt.Line2D([], [], color=f"C{number}", linewidth=1.8) for number in range(len(labels))]
    if len(labels) > 1:  # beside the fields: in one of them it would lie on curves
        axes[0][-1].legend(keys, labels, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
