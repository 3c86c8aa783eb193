"""One self-contained HTML page that shows what a run did. Nothing in it is fetched from anywhere."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mtdiff.evaluation.plots import learning_curve, return_bars, success_bars
from mtdiff.evaluation.results import EvaluationResult
from mtdiff.evaluation.video import Video
from mtdiff.whole import beside, writing

_GAP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the page shows. A section with nothing to say is left out.

    Args:
        title: the page's title.
        result: the evaluation; the headline and the table of tasks are its numbers.
        summary: one or two sentences below the title: what was trained on what.
        told_by: how the agent is told its task: "prompt", "label", or "" for not at all.
        random_goals: whether every episode has a goal of its own, as the page will say.
        swapped: the same evaluation while the agent was shown another task's prompt.
        others: further rows for the table, by label, such as the scripted demonstrator's.
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
    path, text = Path(path), render(report)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def render(report: Report) -> str:
    """Return the page as text."""
    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(
        percent=_percent,
        span=_span,
        amount=_amount,
        extent=_extent,
        duration=_duration,
        number=_number,
        cell=_cell,
        film=_film,
    )
    told = f" {report.told_by}" if report.told_by else ""
    own, other = f"own{told}" if told else "planner", f"swapped{told}"
    rows = [{"label": own, "kind": "first", "result": report.result}]
    if report.swapped:
        rows.append({"label": other, "kind": "second", "result": report.swapped})
    rows += [{"label": label, "kind": "other", "result": result} for label, result in report.others.items()]
    curve = learning_curve(report.metrics)
    swapped = report.swapped.to_dict() if report.swapped else None
    numbers = {"success": report.result.to_dict(), "swapped": swapped}
    bars = success_bars if report.result.measure == "success" else return_bars
    return environment.from_string(template).render(
        report=report,
        rows=rows,
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


def _percent(value: float) -> str:
    return f"{100 * value:.0f}{_GAP}%"


def _span(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.0f}–{100 * interval[1]:.0f}{_GAP}%"


def _amount(value: float | None) -> str:
    """A return, which may be negative."""
    return "–" if value is None else _number(float(value)).replace("-", "\N{MINUS SIGN}")


def _extent(interval: Sequence[float] | None) -> str:
    """An interval of returns: a dash between two negative ones would be one too many."""
    return "–" if interval is None else f"{_amount(interval[0])} to {_amount(interval[1])}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f}{_GAP}ms"
    if seconds < 120:
        return f"{seconds:.1f}{_GAP}s"
    return f"{seconds / 60:.1f}{_GAP}min" if seconds < 7200 else f"{seconds / 3600:.1f}{_GAP}h"


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{THIN SPACE}")
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _cell(value: Any, column: str) -> str:
    """A rate of success is shown in percent, anything else as a number."""
    return _percent(value) if "success" in column and isinstance(value, float) else _number(value)


def _film(video: Video) -> str:
    return "data:video/mp4;base64," + base64.b64encode(video.mp4).decode("ascii")
