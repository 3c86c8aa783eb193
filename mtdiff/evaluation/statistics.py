"""Intervals that say how far a success rate measured on few episodes can be trusted.

All are two-sided, 95 % unless told otherwise. Those of one trained model are about *goals*: they cover the luck of
which goals were drawn, not the luck of the training seed, for which `over_runs` needs several trained models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, bootstrap, trim_mean

Interval = tuple[float, float]


def wilson(successes: int, episodes: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of one task's success rate (Wilson, 1927).

    Unlike the usual `p ± z·sqrt(p(1-p)/n)` it stays inside [0, 1] and does not collapse to a point when all
    episodes succeed: 20 of 20 gives (0.84, 1.00).

    Args:
        successes: number of successful episodes, in [0, episodes].
        episodes: number of episodes, at least 1.
        confidence: coverage, inside (0, 1).
    """
    interval = binomtest(int(successes), int(episodes)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mean_of_rates(successes: Sequence[int], episodes: Sequence[int], confidence: float = 0.95) -> Interval:
    """Return an interval for the mean over tasks of their success rates, every task counting the same.

    The tasks' Wilson intervals are combined by adding the distances to their limits in squares, as for
    independent errors (Zou & Donner, 2008; Newcombe, 1998). A stratified bootstrap would give tasks that
    never fail no uncertainty at all, hence (1, 1) for 80 successes in 80 episodes; this gives (0.92, 1).

    Args:
        successes: successful episodes per task.
        episodes: episodes per task, each at least 1.
        confidence: coverage, inside (0, 1).
    """
    rates = np.asarray(successes, float) / np.asarray(episodes, float)
    limits = np.array([wilson(s, n, confidence) for s, n in zip(successes, episodes, strict=True)])
    below, above = (np.sqrt((gap**2).sum()) / len(rates) for gap in (rates - limits[:, 0], limits[:, 1] - rates))
    mean = float(rates.mean())
    return max(0.0, mean - float(below)), min(1.0, mean + float(above))


def stratified_bootstrap(
    values: Sequence[Sequence[float]], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Return a percentile bootstrap interval for the mean over tasks of the tasks' means.

    Episodes are drawn with replacement inside their own task, so every resample has the same tasks and the
    same number of episodes of each. Good for returns; for success rates near 0 or 1 see `mean_of_rates`.

    Args:
        values: one sequence of per-episode numbers (return, success ...) per task; lengths may differ.
        confidence: coverage, inside (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the resampling: the same numbers give the same interval.
    """
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for episodes in values:
        task = np.asarray(episodes, float)
        means += task[rng.integers(len(task), size=(resamples, len(task)))].mean(axis=1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means / len(values), [tail, 1.0 - tail])
    return float(low), float(high)


def paired_difference(
    differences: Sequence[Sequence[float]], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Return a percentile bootstrap interval for the mean over tasks of paired differences between two methods.

    Differences are drawn with replacement inside their own task (scipy's bootstrap of several samples). Few seeds make
    it too narrow: with five seeds of five tasks and normal differences, about 89 % of these intervals hold the truth.

    Args:
        differences: for every task, one method minus the other for each seed; lengths may differ.
        confidence: coverage, inside (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the resampling: the same numbers give the same interval.
    """
    found = over_runs(differences, confidence=confidence, resamples=resamples, seed=seed)
    return found or (float("-inf"), float("inf"))  # nothing to resample


def interquartile_mean(scores: Sequence[Sequence[float]]) -> float:
    """Return the mean of the middle half of all runs' scores on all tasks (Agarwal et al., 2021).

    Args:
        scores: for every task, the score of each run.
    """
    return float(trim_mean(np.concatenate([np.asarray(task, float) for task in scores]), 0.25))


def over_runs(
    scores: Sequence[Sequence[float]],
    *,
    interquartile: bool = False,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval | None:
    """Return a percentile bootstrap interval over runs, stratified by task (scipy's bootstrap of several samples).

    Every resample has the same tasks, and of each as many runs as there are, drawn with replacement.

    Args:
        scores: for every task, the score of each run; lengths may differ.
        interquartile: of `interquartile_mean`, and not of the mean over tasks of their means.
        confidence: coverage, inside (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the resampling: the same numbers give the same interval.

    Returns:
        None where a task has fewer than two runs: there is nothing to resample.
    """
    samples = [np.asarray(task, float) for task in scores]
    if min(map(len, samples)) < 2:
        return None

    def mean(*tasks: np.ndarray, axis: int) -> np.ndarray:
        return sum(task.mean(axis=axis) for task in tasks) / len(tasks)

    def middle(*tasks: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis))

    found = bootstrap(
        samples, middle if interquartile else mean, vectorized=True, paired=False, method="percentile",
        confidence_level=confidence, n_resamples=resamples, rng=seed,
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)
