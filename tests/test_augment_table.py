"""What a study of augmentations says: differences paired by task and seed, and how far its intervals hold."""

from __future__ import annotations

import numpy as np
import pytest

from mtdiff.evaluation.statistics import paired_difference
from mtdiff.studies.augment_table import Row, as_csv, fidelity_row, groups, markdown, row, rows

TASKS, SEEDS = ["easy", "hard"], range(3)
SUCCESS = {
    ("easy", "original", 0): 0.8, ("easy", "original", 1): 0.9, ("easy", "original", 2): 1.0,
    ("hard", "original", 0): 0.1, ("hard", "original", 1): 0.2, ("hard", "original", 2): 0.3,
    ("easy", "better", 0): 0.9, ("easy", "better", 1): 1.0, ("easy", "better", 2): 1.0,
    ("hard", "better", 0): 0.5, ("hard", "better", 1): 0.5, ("hard", "better", 2): 0.6,
}  # fmt: skip


def test_differences_are_paired_by_task_and_seed_and_every_task_counts_the_same() -> None:
    better = row("better", TASKS, SUCCESS, SEEDS)
    assert better is not None
    easy, hard = np.array([0.1, 0.1, 0.0]), np.array([0.4, 0.3, 0.3])
    assert better.difference == pytest.approx((easy.mean() + hard.mean()) / 2)
    assert better.success == pytest.approx((2.9 / 3 + 1.6 / 3) / 2)
    assert better.spread == pytest.approx(np.std([0.7, 0.75, 0.8], ddof=1))
    assert better.interval is not None and 0 < better.interval[0] < better.difference < better.interval[1] < 0.4
    assert better.cells == 6
    original = row("original", TASKS, SUCCESS, SEEDS)
    assert original is not None and original.difference is None and original.interval is None


def test_a_seed_that_one_side_lacks_is_in_no_difference() -> None:
    partial = {key: value for key, value in SUCCESS.items() if key != ("hard", "better", 2)}
    found = row("better", TASKS, partial, SEEDS)
    assert found is not None and found.cells == 5
    assert found.difference == pytest.approx((0.2 / 3 + 0.35) / 2)
    nothing = {key: value for key, value in SUCCESS.items() if key[:2] != ("hard", "better")}
    assert row("better", TASKS, nothing, SEEDS) is None
    assert row("better", ["easy"], nothing, SEEDS) is not None


def test_one_seed_has_no_finite_interval() -> None:
    found = row("better", TASKS, SUCCESS, range(1))
    assert found is not None and found.interval == (float("-inf"), float("inf"))


def test_rows_are_sorted_and_groups_are_named() -> None:
    worse = {("easy", "worse", 0): 0.0, ("hard", "worse", 0): 0.0}
    found = rows(["worse", "better", "original"], TASKS, {**SUCCESS, **worse}, SEEDS)
    assert [one.label for one in found] == ["original", "better", "worse"]
    assert groups(["a", "b"], ["c"]) == {
        "all targets": ["a", "b", "c"], "seen in training": ["a", "b"], "unseen in training": ["c"],
        "a": ["a"], "b": ["b"], "c": ["c"],
    }  # fmt: skip
    assert list(groups(["a"], [])) == ["all targets", "a"]


def test_the_interval_resamples_seeds_inside_their_task() -> None:
    # Tasks differ a lot and seeds not at all: an interval that resampled tasks would be wide.
    assert paired_difference([[0.0] * 5, [1.0] * 5]) == (0.5, 0.5)
    draws = np.random.default_rng(0).normal(0.3, 0.1, (4, 6))
    low, high = paired_difference(draws)
    error = np.sqrt(draws.var(axis=1).mean() / 6 / 4)
    assert low == pytest.approx(draws.mean() - 1.96 * error, abs=0.006)
    assert high == pytest.approx(draws.mean() + 1.96 * error, abs=0.006)


def test_with_few_seeds_it_is_too_narrow_by_no_more_than_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        low, high = paired_difference(rng.normal(size=(5, 5)), resamples=500)
        held += low < 0 < high
    assert 0.83 < held / 300 < 0.94


def test_tables_are_written() -> None:
    table = {"all targets": [Row(label="x", success=0.5, spread=0.1, difference=0.2, interval=(0.1, 0.3), cells=4)]}
    measured = {
        "dynamics": None, "reward_error": None, "distance": 1.0, "bin_coverage": 0.9, "marginal": 0.8, "pairwise": 0.7,
        "restored": None,
    }  # fmt: skip
    text = markdown(table, {"reach-v3": [fidelity_row("x", measured)]})
    assert "| x | 0.50 ± 0.10 | +0.20 [+0.10, +0.30] | 4 |" in text
    assert "| x | – | – | – | 1.000 | 0.900 | 0.800 | 0.700 | – |" in text
    assert as_csv(SUCCESS).splitlines()[:2] == ["task,augmentation,seed,success", "easy,better,0,0.9000"]
