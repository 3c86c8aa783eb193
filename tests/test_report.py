"""The report page: its numbers are the result's, and it needs nothing but itself."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from mtdiff.environments.metaworld import MetaWorld
from mtdiff.evaluation import (
    Evaluation,
    EvaluationResult,
    Report,
    ScriptedAgent,
    Video,
    evaluate,
    swap,
    write_report,
)
from mtdiff.evaluation.plots import learning_curve, success_bars
from mtdiff.evaluation.report import render

TASKS = ["reach-v3", "window-close-v3"]
GAP = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def results() -> tuple[EvaluationResult, EvaluationResult]:
    """The demonstrator in the real simulator, told the truth and told the wrong task."""
    suite = MetaWorld(tasks=TASKS)
    settings = Evaluation(episodes_per_task=3, max_steps=150, workers=2)
    right = evaluate(ScriptedAgent(suite), suite, settings=settings, progress=False)
    return right, evaluate(ScriptedAgent(suite), suite, settings=settings, told=swap(TASKS), progress=False)


@pytest.fixture
def report(results) -> Report:
    right, wrong = results
    return Report(
        title="Two tasks <b>& more",
        summary="A demonstrator.",
        result=right,
        swapped=wrong,
        others={"scripted": right},
        metrics=[{"update": k, "loss": 1 / (k + 1), "val_loss": 1 / (k + 1) if k % 2 else None} for k in range(50)],
        videos={"reach-v3": Video(mp4=b"film", success=True, steps=51)},
        latency={"one environment": {"plans": 20, "batch": 1.0, "p50": 0.0213, "p95": 0.0254}, "none": None},
        data=[{"task": "reach-v3", "episodes": 1234, "success_rate": 0.98, "mean_return": 451.26}],
        recipe="pipeline: planner  # <script>",
        environment={"torch": "2.13.0"},
        commands=["mtdiff evaluate runs/one"],
        notes=["Few episodes."],
    )


class Page(HTMLParser):
    """Collects table rows, attributes and element names."""

    VOID = {"meta", "br", "link", "img"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and "script" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def percent(value: float) -> str:
    return f"{100 * value:.0f}{GAP}%"


def span(interval) -> str:
    return f"{100 * interval[0]:.0f}–{100 * interval[1]:.0f}{GAP}%"


def test_the_numbers_are_the_results(report):
    page = Page(render(report))
    assert page.open == []  # every element is closed
    table = {row[0]: row[1:] for row in page.rows}
    for task, row in report.result.by_task.items():
        wrong = report.swapped.by_task[task]
        own = f"{row.successes}/{row.episodes} {span(row.interval)}"
        assert table[task][:3] == [
            own,
            f"{wrong.successes}/{wrong.episodes} {span(wrong.interval)}",
            own,
        ] or (
            task == "reach-v3"  # also the first cell of the data table
        )
        assert [task, own] in [r[:2] for r in page.rows]
        assert [r[-1] for r in page.rows if r[:2] == [task, own]] == [f"{row.steps:.0f}"]
    mean = f"{percent(report.result.mean_success)} {span(report.result.mean_interval)}"
    assert table["mean"][0] == mean
    assert table["mean"][1] == f"{percent(report.swapped.mean_success)} {span(report.swapped.mean_interval)}"
    assert table["one environment"] == ["1", "20", f"21{GAP}ms", f"25{GAP}ms"]
    assert ["reach-v3", "1\N{THIN SPACE}234", f"98{GAP}%", "451"] in page.rows
    assert "succeeded, 51 steps" in page.text
    for words in (
        "Two tasks <b>& more",
        "# <script>",
        "2.13.0",
        "mtdiff evaluate runs/one",
        "Few episodes.",
        "49",
    ):
        assert words in page.text


def test_the_numbers_are_in_it_as_json_too(report):
    text = render(report)
    numbers = json.loads(re.search(r'id="numbers">(.*?)</script>', text).group(1))
    assert EvaluationResult.from_dict(numbers["success"]) == report.result
    assert EvaluationResult.from_dict(numbers["swapped"]) == report.swapped


def test_nothing_is_fetched(report):
    text = render(report)
    for tag, name, value in Page(text).attributes:
        if name in ("src", "href", "xlink:href", "poster", "srcset", "data", "action"):
            assert value.startswith(("#", "data:")), (tag, name, value[:60])
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert not re.search(r"<(link|iframe|object|embed)\b", text)
    assert not re.search(r"<script(?! type=\"application/json\")", text)


def test_sections_with_nothing_to_say_are_left_out(results):
    text = render(Report(title="Bare", result=results[0]))
    for heading in (
        "What it looks like",
        "Training",
        "Planning time",
        "Data",
        "Recipe",
        "Versions",
        "Swapped",
    ):
        assert heading not in Page(text).text
    reasoned = Page(render(Report(title="Bare", result=results[0], no_video_reason="no EGL here.")))
    assert "No videos on this machine: no EGL here." in reasoned.text


def test_plots_follow_the_page(report):
    curve = learning_curve(report.metrics)
    assert curve is not None
    for svg in (success_bars(report.result, report.swapped), curve):
        assert svg.startswith('<svg role="img" aria-label="')
        assert "<text" in svg and "var(--faint)" in svg and "var(--first)" in svg
        assert not re.search(r"#(0[1-5])\1\1", svg)  # every stand-in colour has become a variable
        assert len(svg) < 60_000
    assert success_bars(report.result) == success_bars(report.result)
    assert learning_curve([{"update": 1, "seconds": 2.0}]) is None


def test_written_whole(report, tmp_path):
    path = write_report(tmp_path / "run" / "report.html", report)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == render(report)
    assert path.stat().st_size < 300_000
