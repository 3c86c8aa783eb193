"""What an evaluation found: plain numbers, written to and read from JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mtdiff.errors import DataError
from mtdiff.evaluation.statistics import Interval, mean_of_rates, stratified_bootstrap, wilson


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One evaluated episode.

    Args:
        task: the task the environment ran.
        episode: its number within the task, from 0.
        seed: the environment's seed, from which the goal follows.
        success: whether any step was successful.
        success_step: the first successful step, counted from 1, or None.
        steps: steps done.
        total_reward: sum of rewards over these steps. With `stop_on_success` it was cut at its success.
    """

    task: str
    episode: int
    seed: int
    success: bool
    success_step: int | None
    steps: int
    total_reward: float


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task's row: counts, rate in [0, 1], its 95 % Wilson interval, mean steps and mean return."""

    successes: int
    episodes: int
    success: float
    interval: Interval
    steps: float
    total_reward: float
    told: str


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """All episodes of one evaluation, and what follows from them.

    Args:
        episodes: one record per episode, tasks in order.
        settings: the evaluation settings used.
        suite: the suite's own description (name and arguments).
        told: which task's prompt the agent was given for each task, where that was not the task itself.
        seconds: wall time of the whole evaluation, starting of the simulators included.
        planning_seconds: of which inside the agent.
        simulating_seconds: of which inside the simulators.
        latency: percentiles of the agent's own planning times, see `latency`; None if it keeps none.
    """

    episodes: list[Episode]
    settings: dict[str, Any]
    suite: dict[str, Any]
    told: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    planning_seconds: float = 0.0
    simulating_seconds: float = 0.0
    latency: dict[str, float] | None = None

    @property
    def by_task(self) -> dict[str, TaskResult]:
        """Each task's counts, rate and interval, in the order evaluated."""
        rows: dict[str, list[Episode]] = {}
        for episode in self.episodes:
            rows.setdefault(episode.task, []).append(episode)
        return {task: self._row(task, episodes) for task, episodes in rows.items()}

    def _row(self, task: str, episodes: list[Episode]) -> TaskResult:
        wins = sum(e.success for e in episodes)
        return TaskResult(
            successes=wins,
            episodes=len(episodes),
            success=wins / len(episodes),
            interval=wilson(wins, len(episodes)),
            steps=float(np.mean([e.steps for e in episodes])),
            total_reward=float(np.mean([e.total_reward for e in episodes])),
            told=self.told.get(task, task),
        )

    @property
    def mean_success(self) -> float:
        """Mean over tasks of their success rates, in [0, 1]."""
        return float(np.mean([row.success for row in self.by_task.values()]))

    @property
    def mean_interval(self) -> Interval:
        """95 % interval of `mean_success` (`mean_of_rates`)."""
        rows = self.by_task.values()
        return mean_of_rates([row.successes for row in rows], [row.episodes for row in rows])

    def bootstrap(self, what: str = "success") -> Interval:
        """Return a stratified bootstrap's 95 % interval of the mean `success` or `total_reward`."""
        values: dict[str, list[float]] = {}
        for episode in self.episodes:
            values.setdefault(episode.task, []).append(float(getattr(episode, what)))
        return stratified_bootstrap(list(values.values()))

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second of wall time."""
        return sum(e.steps for e in self.episodes) / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON's types: the summary first, for readers, then what `from_dict` needs."""
        rows = self.by_task
        cut = "_until_success" if self.settings.get("stop_on_success") else ""
        return {
            "mean_success": self.mean_success,
            "mean_interval": list(self.mean_interval),
            "mean_interval_bootstrap": list(self.bootstrap()),
            f"mean_total_reward{cut}": float(np.mean([row.total_reward for row in rows.values()])),
            "tasks": {task: {**asdict(row), "interval": list(row.interval)} for task, row in rows.items()},
            "told": dict(self.told),
            "seconds": self.seconds,
            "planning_seconds": self.planning_seconds,
            "simulating_seconds": self.simulating_seconds,
            "steps_per_second": self.steps_per_second,
            "latency": self.latency,
            "settings": self.settings,
            "suite": self.suite,
            "episodes": [asdict(e) for e in self.episodes],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EvaluationResult:
        """Rebuild from `to_dict`; the summary is computed again.

        Raises:
            DataError: a field is missing or an episode has other fields than `Episode`.
        """
        try:
            return cls(
                episodes=[Episode(**episode) for episode in data["episodes"]],
                settings=dict(data["settings"]),
                suite=dict(data["suite"]),
                told=dict(data["told"]),
                seconds=data["seconds"],
                planning_seconds=data["planning_seconds"],
                simulating_seconds=data["simulating_seconds"],
                latency=data["latency"],
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"this is not an evaluation result written by mtdiff: {error}.") from error


def latency(plans: Sequence[tuple[int, float]]) -> dict[str, float] | None:
    """Return percentiles of planning times, or None if there were no plans.

    Args:
        plans: (environments planned for, seconds) per plan.

    Returns:
        `plans` (how many), `batch` (median environments per plan), `p50`, `p95` (seconds per plan).
    """
    if not plans:
        return None
    batch, seconds = np.array(plans, float).T
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"plans": len(plans), "batch": float(np.median(batch)), "p50": float(p50), "p95": float(p95)}
