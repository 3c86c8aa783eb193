"""One self-contained HTML page that shows what a run did. Nothing in it is fetched from anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mtdiff.evaluation.page import page, write_page
from mtdiff.evaluation.plots import learning_curve, return_bars, sorted_curve, success_bars
from mtdiff.evaluation.results import EvaluationResult
from mtdiff.evaluation.video import Video

MANY = 60  # tasks beyond which their rows are folded, and bars become a curve


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the page shows. A section with nothing to say is left out.

    Args:
        title: the page's title.
        result: the evaluation; the headline and the table of tasks are its numbers.
        summary: one or two sentences below the title: what was trained on what.
        told_by: how the agent is told its task: "prompt", "map", "label", or "" for not at all.
        random_goals: whether every episode has a goal of its own, as the page will say.
        swapped: the same evaluation while the agent was shown another task's prompt.
        others: further rows for the table, by label, such as the scripted demonstrator's.
        drawings: maps with plans on them by task, as SVG; see `mtdiff.evaluation.map_plans`.
        unseen: tasks among them that the planner was not trained on.
        metrics: training's log: rows with `update`, `loss`, `val_loss`, `seconds` where known.
        videos: one film per task.
        no_video_reason: why there are none.
        latency: rows of `mtdiff.evaluation.latency` by label.
        data: rows of the data table, all with the same keys.
        recipe: the resolved recipe, as YAML.
        environment: versions and hardware, name to value.
        commands: what to type to get this page again, and what to type next.
        notes: what a reader must know to judge the numbers.
    """

    title: str
    result: EvaluationResult
    summary: str = ""
    told_by: str = "prompt"
    random_goals: bool = True
    swapped: EvaluationResult | None = None
    others: Mapping[str, EvaluationResult] = field(default_factory=dict)
    drawings: Mapping[str, str] = field(default_factory=dict)
    unseen: Sequence[str] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
    videos: Mapping[str, Video] = field(default_factory=dict)
    no_video_reason: str | None = None
    latency: Mapping[str, Mapping[str, float] | None] = field(default_factory=dict)
    data: Sequence[Mapping[str, Any]] = ()
    recipe: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    notes: Sequence[str] = ()


def write_report(path: str | os.PathLike[str], report: Report) -> Path:
    """Write the page and return its path. It appears whole or not at all.

    Raises:
        StorageFault: it could not be written.
    """
    return write_page(Path(path), render(report))


def render(report: Report) -> str:
    """Return the page as text."""
    told = f" {report.told_by}" if report.told_by else ""
    own, other = f"own{told}" if told else "agent", f"swapped{told}"
    rows: list[dict[str, Any]] = [{"label": own, "kind": "first", "result": report.result}]
    if report.swapped:
        rows.append({"label": other, "kind": "second", "result": report.swapped})
    rows += [{"label": label, "kind": "other", "result": result} for label, result in report.others.items()]
    curve = learning_curve(report.metrics)
    swapped = report.swapped.to_dict() if report.swapped else None
    numbers = {"success": report.result.to_dict(), "swapped": swapped}
    many = len(report.result.by_task) > MANY
    bars = sorted_curve if many else success_bars if report.result.measure == "success" else return_bars
    return page(
        "report.html.j2",
        report=report,
        rows=rows,
        scores=list(dict.fromkeys(name for row in rows for name in row["result"].scores())),
        drawings={task: Markup(drawing) for task, drawing in report.drawings.items()},
        many=many,
        limit_rows=MANY,
        own=own,
        other=other,
        bars=Markup(bars(report.result, report.swapped)),
        curve=Markup(curve) if curve else None,
        training=_training(report.metrics),
        latency={label: row for label, row in report.latency.items() if row},
        columns=list(report.data[0]) if report.data else [],
        numbers=Markup(json.dumps(numbers, separators=(",", ":")).replace("<", "\\u003c")),
    )


def _training(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the last known value of what training logged."""
    return {key: value for row in metrics for key, value in row.items() if value is not None}
