"""The numbers of `mtdiff ablate`: means, intervals and paired differences, against closed forms and plain loops."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtdiff.errors import MTDiffError
from mtdiff.evaluation.statistics import interquartile_mean, mean_of_rates, over_runs, paired_difference
from mtdiff.studies import ablate_table as table
from mtdiff.studies.ablate_cells import measure
from mtdiff.studies.ablate_table import Done

SUITE = {"name": "toy", "tasks": ["a", "b"], "goals": "random"}


def done(seed: int, scores: dict[str, list[float]], *, goals: int = 0, kind: str = "success", **suite: Any) -> Done:
    episodes = {
        task: {"goals": [goals + n for n in range(len(mine))], "success": mine, "return": mine}
        for task, mine in scores.items()
    }
    training = {"run": f"r-{seed}", "updates": 9, "seconds": 60.0 * (seed + 1), "parameters": 1000}
    result = {"measure": kind, "episodes": episodes, "training": training, "plan_seconds": 0.002 * (seed + 1)}
    return Done(repetition=f"seed={seed}", content={"suite": {**SUITE, **suite}}, result=result)


def test_the_interquartile_mean_leaves_out_the_lowest_and_the_highest_quarter() -> None:
    assert interquartile_mean([[0.0, 1.0, 2.0, 90.0], [3.0, 4.0, 5.0, -50.0]]) == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert interquartile_mean([[1.0], [3.0]]) == 2.0, "of two nothing is left out"


def test_a_bootstrap_over_runs_is_as_wide_as_theory_says() -> None:
    rng = np.random.default_rng(0)
    scores = [list(rng.normal(task, 1.0, 40)) for task in range(5)]
    found = over_runs(scores)
    assert found is not None
    # The mean of resampled runs varies by the runs' variance over their number, in every task by itself.
    deviation = math.sqrt(sum(np.var(task) / len(task) for task in scores)) / len(scores)
    mean = np.mean([np.mean(task) for task in scores])
    assert found == pytest.approx((mean - 1.96 * deviation, mean + 1.96 * deviation), abs=0.05 * 3.92 * deviation)
    assert over_runs(scores) == found and paired_difference(scores) == found
    assert over_runs([[1.0, 2.0], [1.0]]) is None


def test_the_bootstrap_of_the_interquartile_mean_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    scores = [list(rng.random(6)) for _ in range(4)]
    means = []
    for _ in range(4000):
        drawn = sorted(value for task in scores for value in rng.choice(task, len(task)))
        means.append(np.mean(drawn[6:18]))
    assert over_runs(scores, interquartile=True) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


def test_a_row_counts_every_task_the_same() -> None:
    one = table.row(
        "x", [done(0, {"a": [1, 1], "b": [0, 0, 0, 1]}), done(1, {"a": [0, 1], "b": [1, 1, 1, 1]})], 3, None
    )
    assert one.by_task == {"a": 0.75, "b": 0.625} and one.score == pytest.approx(0.6875)
    assert one.spread == pytest.approx(np.std([0.625, 0.75], ddof=1))
    assert (one.runs, one.planned, one.updates, one.parameters) == (2, 3, 9, 1000)
    assert one.seconds == 90.0 and one.plan == pytest.approx(0.003) and one.difference is None


def test_runs_that_happen_to_agree_are_not_certainty() -> None:
    same = [done(seed, {"a": [1, 0, 1, 0], "b": [1, 1, 1, 1]}) for seed in range(2)]
    assert over_runs([[0.5, 0.5], [1.0, 1.0]]) == (0.75, 0.75)
    assert table.row("x", same, 2, None).interval == mean_of_rates([4, 8], [8, 8])
    alone = table.row("x", same[:1], 1, None)
    assert alone.interval == mean_of_rates([2, 4], [4, 4]) and alone.spread is None and alone.middle_interval is None


def test_differences_are_paired_by_task_seed_and_goal() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = (
        {(seed, task): rng.integers(0, 2, 6).tolist() for seed in range(3) for task in "ab"} for _ in range(2)
    )
    rows = [[done(seed, {task: of[seed, task] for task in "ab"}) for seed in range(3)] for of in (ours, theirs)]
    one = table.row("x", rows[0], 3, rows[1])
    by_task = [[np.mean(np.subtract(ours[s, t], theirs[s, t])) for s in range(3)] for t in "ab"]
    assert one.difference == pytest.approx(np.mean(by_task)) and (one.pairs, one.common) == (3, 2)
    episodes = [[float(v) for s in range(3) for v in np.subtract(ours[s, t], theirs[s, t])] for t in "ab"]
    either = [over_runs(by_task), over_runs(episodes)]
    assert one.difference_interval == max(either, key=lambda interval: interval[1] - interval[0])  # type: ignore[index]


def test_what_has_nothing_in_common_is_not_compared() -> None:
    reference = [done(0, {"a": [1, 1, 1], "b": [0, 0, 0]}), done(1, {"a": [1, 1, 1], "b": [0, 0, 0]})]
    half = table.row("x", [done(0, {"a": [0, 1, 1], "c": [1, 1, 1]})], 2, reference)
    assert half.difference == pytest.approx(-1 / 3) and (half.pairs, half.common) == (1, 1)
    shifted = table.row("x", [done(0, {"a": [0, 0, 1], "b": [1, 0, 0]}, goals=1)], 1, reference)
    assert shifted.difference == pytest.approx(np.mean([-1.0, 0.5])), "the last two goals of one, the first of other"
    for other in (
        done(2, {"a": [0, 1, 1]}), done(0, {"a": [0, 1, 1]}, goals=7), done(0, {"a": [0, 1]}, world="other"),
    ):  # fmt: skip
        assert table.row("x", [other], 1, reference).difference is None


def test_the_table_in_three_languages() -> None:
    cells = {"x=a_b": [done(0, {"a": [1, 0], "b": [1, 1]})], "y": [done(0, {"a": [0, 0], "b": [1, 0]})], "z": []}
    rows = table.rows(cells, {"x=a_b": 1, "y": 2, "z": 1}, "x=a_b")
    assert [one.label for one in rows] == ["x=a_b", "y"]
    text = table.markdown(rows, "success", "x=a_b")
    assert text.splitlines()[2].startswith("| x=a_b | 1 | 0.75 [") and "| 1 of 2 | 0.25 [" in text.splitlines()[3]
    assert "| -0.50 [" in text.splitlines()[3] and "last checkpoints" in text
    lines = table.latex(rows, "success", "x=a_b").splitlines()
    assert any(line.startswith(r"x=a\_b & 1 & 0.75 [") for line in lines) and r"\pm" in lines[3]
    first, second = csv.DictReader(io.StringIO(table.as_csv(rows, "success")))
    assert (first["score"], first["a"], first["difference"], second["difference"]) == ("0.75", "0.5", "", "-0.5")
    assert {one["checkpoint"] for one in (first, second)} == {"last"} and second["planned"] == "2"


def test_returns_have_intervals_of_their_episodes() -> None:
    one = table.row("x", [done(0, {"a": [-3.0, 5.0, 9.0], "b": [100.0, 90.0, 80.0]}, kind="return")], 1, None)
    assert one.score == pytest.approx((11 / 3 + 90) / 2)
    assert one.interval is not None and one.interval[0] < one.score < one.interval[1]
    assert table.columns("return")["return"](one).startswith("46.8 [")


def test_whatever_goes_wrong_in_a_cell_is_in_its_log(tmp_path: Path) -> None:
    where = {"recipe": {"bakbone": "gpt2"}, "name": "x", "root": str(tmp_path), "workers": 1, "cell": "x, seed=0"}
    log = tmp_path / "logs" / "x.log"
    with pytest.raises(MTDiffError) as failed:
        measure({}, {**where, "log": str(log)})
    assert "unknown section 'bakbone'" in str(failed.value) and str(failed.value).endswith(f"\nlog: {log}")
    assert "Traceback" in log.read_text()
    with pytest.raises(MTDiffError, match=r"^TypeError: .*\nlog: "):
        measure({}, {**where, "recipe": 7, "log": str(log)})


def test_a_row_is_plain_json() -> None:
    rows = table.rows(
        {"x": [done(0, {"a": [1], "b": [0]})], "y": [done(0, {"a": [0], "b": [0]})]}, {"x": 1, "y": 1}, "x"
    )
    assert json.loads(json.dumps([vars(one) for one in rows], allow_nan=False))[1]["difference_interval"] is None
