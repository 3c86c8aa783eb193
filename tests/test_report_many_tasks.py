"""The page of an evaluation of hundreds of tasks: a curve and folded rows, no bar and no line for each."""

import re
from itertools import pairwise

import pytest

from mtdiff.evaluation import EvaluationResult, Report
from mtdiff.evaluation.plots import sorted_curve
from mtdiff.evaluation.report import MANY, render
from mtdiff.evaluation.results import Episode


def result(tasks, measure="success"):
    """Of task n, n of 4 episodes succeed, over and over."""
    episodes = [
        Episode(
            task=f"map-{task}", episode=n, seed=n, success=measure == "success" and n < task % 5, success_step=None,
            steps=10, total_reward=float(task), scores={"path": 1.5},
        )
        for task in range(tasks) for n in range(4)
    ]  # fmt: skip
    settings = {"max_steps": None, "stop_on_success": True}
    return EvaluationResult(episodes=episodes, settings=settings, suite={"max_steps": 600}, measure=measure)


@pytest.mark.parametrize("measure", ["success", "return"])
def test_rows_of_many_tasks_are_folded_and_their_bars_are_a_curve(measure):
    rows = [{"task": f"map-{task}", "episodes": 8} for task in range(MANY + 1)]
    page = render(Report(title="many", result=result(MANY + 1, measure), swapped=result(MANY + 1, measure), data=rows))
    assert "tasks, sorted" in page and "Success per task with 95 % intervals" not in page
    outside = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL).split("<script")[0]
    assert "map-7" not in outside and outside.count('class="total"') == 2  # of success and of the scores
    folded = "".join(re.findall(r"<details>.*?</details>", page, re.DOTALL))
    assert folded.count('<th scope="row">map-7</th>') == 3  # of success, scores and data
    assert folded.count(f"All {MANY + 1} tasks") == 2 and f"All {MANY + 1} rows" in folded
    assert page.count("<details>") == page.count("</details>") and page.count("<table>") == page.count("</table>")


def test_rows_of_few_tasks_are_not():
    page = render(Report(title="few", result=result(MANY), data=[{"task": "map-7", "episodes": 8}]))
    assert "tasks, sorted" not in page and "<details>" not in page
    assert page.count('<th scope="row">map-7</th>') == 3


def test_the_curve_says_what_share_of_tasks_reaches_a_rate():
    svg = sorted_curve(result(100))
    assert 'aria-label="Success of 100 tasks, sorted"' in svg and "share of tasks, the best first" in svg
    curve = re.search(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--first\)', svg)[1]
    points = [tuple(map(float, pair)) for pair in re.findall(r"[ML] ([\d.]+) ([\d.]+)", curve)]
    width = max(x for x, _ in points) - min(x for x, _ in points)
    lengths = {}
    for (x, y), (x2, y2) in pairwise(points):
        if y == y2:
            lengths[y] = lengths.get(y, 0.0) + (x2 - x) / width
    assert [pytest.approx(0.2, abs=1e-3)] * 5 == [lengths[y] for y in sorted(lengths)]  # each of 0, 1/4 ... 1 a fifth
