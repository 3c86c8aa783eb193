"""Self-contained HTML pages: one style sheet, and how numbers are written in all of them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from mtdiff.evaluation.video import Video
from mtdiff.whole import beside, writing

_GAP = "\N{NO-BREAK SPACE}"


def page(template: str, *, folder: Path | None = None, **values: Any) -> str:
    """Return a page as text.

    Args:
        template: a file's name; it includes `page.css`.
        folder: where it lies, if not beside this module.
        **values: what it shows.
    """
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder or here, here]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
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
    return environment.get_template(template).render(**values)


def write_page(path: Path, text: str) -> Path:
    """Write a page, whole or not at all, and return its path.

    Raises:
        StorageFault: it could not be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


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
