"""What `mtdiff ablate` found, as rows: score, its paired difference to the reference's, and cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtdiff.evaluation.statistics import (
    Interval,
    interquartile_mean,
    mean_of_rates,
    over_runs,
    stratified_bootstrap,
)

BEST = ", best checkpoint"
"""What the row of a recipe's best weights, by the loss on held-out episodes, is called after the recipe's own."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished cell.

    Attributes:
        repetition: which one of its row.
        content: what was measured.
        result: what was found, see `mtdiff.studies.ablate_cells.measure`.
    """

    repetition: str
    content: Mapping[str, Any]
    result: Mapping[str, Any]

    def scores(self, task: str) -> dict[int, float]:
        """Return what each episode of a task scored: its goal's seed -> success (0 or 1), or return."""
        episodes = self.result["episodes"][task]
        return dict(zip(episodes["goals"], map(float, episodes[self.result["measure"]]), strict=True))

    @property
    def by_task(self) -> dict[str, float]:
        """Mean score of each task."""
        return {task: float(np.mean(list(self.scores(task).values()))) for task in self.result["episodes"]}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: what is known of all repetitions of one recipe.

    Attributes:
        label: its name.
        runs: repetitions that are finished.
        planned: repetitions that there are to be.
        by_task: mean score of each task.
        score: mean over tasks of the mean over repetitions and episodes.
        interval: its 95 % interval: the wider of those over repetitions and over episodes.
        middle: interquartile mean over repetitions and tasks.
        middle_interval: its interval; None for a single repetition.
        spread: standard deviation of the repetitions' means over tasks; None for a single one.
        difference: mean paired difference to the reference; None for that itself, or if nothing is common.
        difference_interval: its interval, likewise; None if there are too few episodes to tell.
        pairs: repetitions of which both were measured.
        common: tasks that both have.
        updates: of each training.
        seconds: of training, mean.
        plan: seconds of one plan for one environment, mean of the medians; None if not measured.
        parameters: of the networks.
    """

    label: str
    runs: int
    planned: int
    by_task: dict[str, float]
    score: float
    interval: Interval | None
    middle: float
    middle_interval: Interval | None
    spread: float | None
    difference: float | None = None
    difference_interval: Interval | None = None
    pairs: int = 0
    common: int = 0
    updates: int
    seconds: float
    plan: float | None
    parameters: int


def row(label: str, done: Sequence[Done], planned: int, reference: Sequence[Done] | None) -> Row:
    """Return what is known of a row.

    Args:
        label: its name.
        done: its finished repetitions, at least one.
        planned: how many there are to be.
        reference: the repetitions that it is compared with; None for the reference itself.
    """
    tasks = list(dict.fromkeys(task for one in done for task in one.by_task))
    scores = [[one.by_task[task] for one in done if task in one.by_task] for task in tasks]
    totals = [float(np.mean(list(one.by_task.values()))) for one in done]
    plans = [one.result["plan_seconds"] for one in done if one.result["plan_seconds"] is not None]
    training = [one.result["training"] for one in done]
    return Row(
        label=label,
        runs=len(done),
        planned=planned,
        by_task={task: float(np.mean(mine)) for task, mine in zip(tasks, scores, strict=True)},
        score=float(np.mean([np.mean(mine) for mine in scores])),
        interval=_wider(over_runs(scores), _over_episodes(done, tasks)),
        middle=interquartile_mean(scores),
        middle_interval=over_runs(scores, interquartile=True),
        spread=float(np.std(totals, ddof=1)) if len(totals) > 1 else None,
        updates=training[0]["updates"],
        seconds=float(np.mean([one["seconds"] for one in training])),
        plan=float(np.mean(plans)) if plans else None,
        parameters=training[0]["parameters"],
        **(_compared(done, reference) if reference else {}),
    )


def _over_episodes(done: Sequence[Done], tasks: Sequence[str]) -> Interval:
    """The luck of the goals, which is all that can be known of a single training."""
    scores = [[v for one in done if task in one.by_task for v in one.scores(task).values()] for task in tasks]
    if done[0].result["measure"] == "success":
        return mean_of_rates([int(sum(mine)) for mine in scores], list(map(len, scores)))
    return stratified_bootstrap(scores)


def _wider(*intervals: Interval | None) -> Interval | None:
    """Few runs that happen to agree would leave no uncertainty at all: an interval covers the luck of goals as well."""
    return max((one for one in intervals if one is not None), key=lambda one: one[1] - one[0], default=None)


def _compared(done: Sequence[Done], reference: Sequence[Done]) -> dict[str, Any]:
    """Differences between trainings of the same seed on the same goals of the same task."""
    others = {one.repetition: one for one in reference}
    pairs = [(one, others[one.repetition]) for one in done if one.repetition in others]
    pairs = [(mine, other) for mine, other in pairs if _world(mine) == _world(other)]
    by_task: list[list[float]] = []
    episodes: list[list[float]] = []
    for task in list(dict.fromkeys(task for mine, _ in pairs for task in mine.result["episodes"])):
        both = [
            (mine.scores(task), other.scores(task)) for mine, other in pairs
            if task in mine.result["episodes"] and task in other.result["episodes"]
        ]  # fmt: skip
        gaps = [[mine[goal] - other[goal] for goal in mine if goal in other] for mine, other in both]
        if gaps := [gap for gap in gaps if gap]:
            by_task.append([float(np.mean(gap)) for gap in gaps])
            episodes.append([value for gap in gaps for value in gap])
    if not by_task:
        return {}
    return {
        "difference": float(np.mean([np.mean(mine) for mine in by_task])),
        "difference_interval": _wider(over_runs(by_task), over_runs(episodes)),
        "pairs": len(pairs),
        "common": len(by_task),
    }


def _world(one: Done) -> dict[str, Any]:
    """The suite but for which of its tasks: goals of other worlds are not the same goals."""
    return {key: value for key, value in one.content["suite"].items() if key != "tasks"}


def rows(done: Mapping[str, Sequence[Done]], planned: Mapping[str, int], reference: str) -> list[Row]:
    """Return the rows of which something is known, in the order planned."""

    def beside(label: str) -> Sequence[Done] | None:
        to = reference + (BEST if label.endswith(BEST) else "")
        return (done.get(to) or None) if label != to else None

    return [row(label, done[label], count, beside(label)) for label, count in planned.items() if done.get(label)]


def number(value: float | None, measure: str) -> str:
    """Return a score as tables write it."""
    return "–" if value is None else f"{value:.2f}" if measure == "success" else f"{value:.1f}"


def span(interval: Interval | None, measure: str, *, sign: bool = False) -> str:
    """Return an interval as tables write it; a dash where nothing is known."""
    if interval is None or not np.isfinite(interval).all():
        return "–"
    form = ("{:+" if sign else "{:") + (".2f}" if measure == "success" else ".1f}")
    return f"{form.format(interval[0])} to {form.format(interval[1])}"


_Column = Callable[[Row], str]


def columns(measure: str) -> dict[str, _Column]:
    """Heading -> what a row has there."""

    def gap(one: Row) -> str:
        if one.difference is None:
            return "–"
        shown = f"{one.difference:+.2f}" if measure == "success" else f"{one.difference:+.1f}"
        return f"{shown} [{span(one.difference_interval, measure, sign=True)}]"

    return {
        "runs": lambda one: str(one.runs) if one.runs == one.planned else f"{one.runs} of {one.planned}",
        measure: lambda one: f"{number(one.score, measure)} [{span(one.interval, measure)}]",
        "± runs": lambda one: number(one.spread, measure),
        "IQM": lambda one: f"{number(one.middle, measure)} [{span(one.middle_interval, measure)}]",
        "difference": gap,
        "updates": lambda one: f"{one.updates}",
        "training min": lambda one: f"{one.seconds / 60:.1f}",
        "ms per plan": lambda one: "–" if one.plan is None else f"{1000 * one.plan:.1f}",
        "parameters": lambda one: f"{one.parameters}",
    }


def markdown(found: Sequence[Row], measure: str, reference: str) -> str:
    """Return the table in Markdown."""
    shown = columns(measure)
    lines = [f"| | {' | '.join(shown)} |", "|---|" + "---:|" * len(shown)]
    lines += [f"| {one.label} | {' | '.join(cell(one) for cell in shown.values())} |" for one in found]
    return "\n".join([*lines, "", _note(measure, reference), ""])


def latex(found: Sequence[Row], measure: str, reference: str) -> str:
    """Return the table in LaTeX (package booktabs)."""
    shown = columns(measure)
    head = " & ".join(["", *map(_escape, shown)])
    lines = [rf"\begin{{tabular}}{{l{'r' * len(shown)}}}", r"\toprule", rf"{head} \\", r"\midrule"]
    for one in found:
        lines.append(" & ".join(map(_escape, [one.label, *(cell(one) for cell in shown.values())])) + r" \\")
    return "\n".join([f"% {_note(measure, reference)}", *lines, r"\bottomrule", r"\end{tabular}", ""])


def _note(measure: str, reference: str) -> str:
    return (
        f"Mean {measure} over tasks, last checkpoints unless said, with 95 % intervals; IQM: interquartile mean over "
        f"runs and tasks; difference: to {reference} (best to best), paired by task, seed and goal."
    )


def _escape(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "–": "--",
    }
    return "".join(special.get(letter, rf"\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def as_csv(found: Sequence[Row], measure: str) -> str:
    """Return the rows as numbers: a line each, and a column for every task."""
    tasks = list(dict.fromkeys(task for one in found for task in one.by_task))
    names = ["score", "low", "high", "spread", "iqm", "iqm_low", "iqm_high", "difference", "difference_low"]
    names += ["difference_high", "pairs", "updates", "training_seconds", "seconds_per_plan", "parameters"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "checkpoint", "runs", "planned", "measure", *names, *tasks])
    for one in found:
        values: list[Any] = [
            one.score,
            *(one.interval or (None, None)),
            one.spread,
            one.middle,
            *(one.middle_interval or (None, None)),
        ]
        values += [one.difference, *(one.difference_interval or (None, None)), one.pairs, one.updates]
        values += [round(one.seconds, 1), one.plan, one.parameters, *(one.by_task.get(task) for task in tasks)]
        shown = [f"{value:.6g}" if isinstance(value, float) else value for value in values]
        checkpoint = "best" if one.label.endswith(BEST) else "last"
        writer.writerow([one.label.removesuffix(BEST), checkpoint, one.runs, one.planned, measure, *shown])
    return text.getvalue()
