"""What `mtdiff augment` found, as rows: success, its paired difference to the original data's, and fidelity."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtdiff.evaluation.statistics import Interval, paired_difference
from mtdiff.studies.augment import ORIGINAL

FIDELITY = {
    "dynamics": "dynamics error",
    "floor": "floor",
    "reward_error": "reward error",
    "distance": "distance",
    "bin_coverage": "coverage",
    "marginal": "marginal",
    "pairwise": "pairwise",
    "restored": "restored",
}
"""Columns of the fidelity table: key of a row, heading."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One augmentation on one target, or on a group of them.

    Attributes:
        label: of the augmentation.
        success: mean success over targets, seeds and episodes; every target counts the same.
        spread: standard deviation of the seeds' mean success.
        difference: mean paired difference to the original data's; None for that itself.
        interval: its 95 % bootstrap interval.
        cells: learners that are finished.
    """

    label: str
    success: float
    spread: float
    difference: float | None
    interval: Interval | None
    cells: int


Success = Mapping[tuple[str, str, int], float]
"""(task, label, seed) -> share of successful episodes."""


def row(label: str, tasks: Sequence[str], success: Success, seeds: Sequence[int]) -> Row | None:
    """Return what is known of an augmentation on some targets; None if nothing is known on one of them.

    Differences are between learners of the same target and seed, which met the same goals; a seed that only one side
    has finished is left out of them. The interval resamples seeds within each target, not targets: it speaks of these.
    """
    mine = [[success[key] for seed in seeds if (key := (task, label, seed)) in success] for task in tasks]
    if not tasks or not all(mine):
        return None
    pairs = [
        [
            success[(task, label, seed)] - success[(task, ORIGINAL, seed)]
            for seed in seeds
            if (task, label, seed) in success and (task, ORIGINAL, seed) in success
        ]
        for task in tasks
    ]
    paired = label != ORIGINAL and all(pairs)
    by_seed = [
        np.mean([success[(task, label, seed)] for task in tasks])
        for seed in seeds
        if all((task, label, seed) in success for task in tasks)
    ]
    return Row(
        label=label,
        success=float(np.mean([np.mean(values) for values in mine])),
        spread=float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else 0.0,
        difference=float(np.mean([np.mean(values) for values in pairs])) if paired else None,
        interval=paired_difference(pairs) if paired else None,
        cells=sum(map(len, mine)),
    )


def groups(seen: Sequence[str], unseen: Sequence[str]) -> dict[str, list[str]]:
    """Return what rows are made for: all targets, the seen and the unseen ones if there are both, and each alone."""
    found = {"all targets": [*seen, *unseen]}
    if seen and unseen:
        found |= {"seen in training": [*seen], "unseen in training": [*unseen]}
    return found | {task: [task] for task in (*seen, *unseen)}


def rows(labels: Iterable[str], tasks: Sequence[str], success: Success, seeds: Sequence[int]) -> list[Row]:
    """Return the rows of a group, the original data's first and then the best first."""
    found = [one for label in labels if (one := row(label, tasks, success, seeds)) is not None]
    return sorted(found, key=lambda one: (one.label != ORIGINAL, -one.success))


def fidelity_row(label: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of `FIDELITY` of one measurement; None where the simulator could not tell."""
    dynamics = found["dynamics"] or {"ratio": None, "floor": None}
    rest = {key: found[key] for key in FIDELITY if key in found and key != "dynamics"}
    return {"label": label, "dynamics": dynamics["ratio"], "floor": dynamics["floor"], **rest}


def number(value: float | None, places: int = 2) -> str:
    """Return a number as the tables write it; a dash where there is none."""
    return "–" if value is None else f"{value:.{places}f}"


def signed(one: Row) -> str:
    """Return the paired difference and its interval."""
    if one.difference is None or one.interval is None:
        return "–"
    return f"{one.difference:+.2f} [{one.interval[0]:+.2f}, {one.interval[1]:+.2f}]"


def markdown(success: Mapping[str, Sequence[Row]], fidelity: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return both tables in Markdown, group by group and target by target."""
    lines = []
    for group, found in success.items():
        lines += [f"### {group}", "", "| augmentation | success | difference to original [95 %] | learners |"]
        lines += ["|---|---:|---:|---:|"]
        lines += [f"| {r.label} | {r.success:.2f} ± {r.spread:.2f} | {signed(r)} | {r.cells} |" for r in found]
        lines.append("")
    for task, measured in fidelity.items():
        lines += [f"### Fidelity: {task}", "", "| augmentation | " + " | ".join(FIDELITY.values()) + " |"]
        lines.append("|---|" + "---:|" * len(FIDELITY))
        for one in measured:
            lines.append("| " + " | ".join([one["label"], *(number(one[key], 3) for key in FIDELITY)]) + " |")
        lines.append("")
    return "\n".join(lines)


def as_csv(success: Success) -> str:
    """Return every learner as a line: task, augmentation, seed, success."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "augmentation", "seed", "success"])
    writer.writerows([*key, f"{value:.4f}"] for key, value in sorted(success.items()))
    return text.getvalue()
