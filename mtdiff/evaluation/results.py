"""What an evaluation found: plain numbers, written to and read from JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

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
        scores: what else the suite says of it, see `Suite`.
    """

    task: str
    episode: int
    seed: int
    success: bool
    success_step: int | None
    steps: int
    total_reward: float
    scores: dict[str, float] = field(default_factory=dict)


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
        measure: "success", or "return" where the suite knows no success: then `success` is never true, and no
            episode was cut.
        seconds: wall time of the whole evaluation, starting of the simulators included.
        planning_seconds: of which inside the agent.
        simulating_seconds: of which inside the simulators.
        latency: percentiles of the agent's own planning times, see `latency`; None if it keeps none.
        plans: those times themselves; not written to JSON.
    """

    episodes: list[Episode]
    settings: dict[str, Any]
    suite: dict[str, Any]
    told: dict[str, str] = field(default_factory=dict)
    measure: Literal["success", "return"] = "success"
    seconds: float = 0.0
    planning_seconds: float = 0.0
    simulating_seconds: float = 0.0
    latency: dict[str, float] | None = None
    plans: list[tuple[int, float]] = field(default_factory=list, repr=False, compare=False)

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

    def scores(self, task: str | None = None) -> dict[str, float]:
        """Return the means of what else the suite says of episodes, of one task or over tasks.

        An episode of which something is not said, such as a failed one's path, is left out of that mean.
        """
        if task is None:
            rows = [self.scores(name) for name in self.by_task]
            return {name: float(np.mean([r[name] for r in rows if name in r])) for name in _names(rows)}
        of = [episode.scores for episode in self.episodes if episode.task == task]
        return {name: float(np.mean([scores[name] for scores in of if name in scores])) for name in _names(of)}

    @property
    def whole(self) -> bool:
        """Whether every return is that of a whole episode, not cut at its success."""
        return self.measure == "return" or not self.settings.get("stop_on_success")

    @property
    def mean_return(self) -> float:
        """Mean over tasks of their mean returns; see `whole`."""
        return float(np.mean([row.total_reward for row in self.by_task.values()]))

    def return_interval(self, task: str | None = None) -> Interval | None:
        """Return a bootstrap's 95 % interval of a task's mean return, or of `mean_return`.

        None where there is nothing to see a spread in: fewer than two episodes of a task.
        """
        values: dict[str, list[float]] = {}
        for episode in self.episodes:
            if task in (None, episode.task):
                values.setdefault(episode.task, []).append(episode.total_reward)
        if not values or min(map(len, values.values())) < 2:
            return None
        return stratified_bootstrap(list(values.values()))

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
        """Return everything as JSON's types: the summary first, for readers, then what `from_dict` needs.

        Rates of success are null where the suite knows no success.
        """
        counted = self.measure == "success"
        cut = "" if self.whole else "_until_success"
        return {
            "measure": self.measure,
            "mean_success": self.mean_success if counted else None,
            "mean_interval": list(self.mean_interval) if counted else None,
            "mean_interval_bootstrap": list(self.bootstrap()) if counted else None,
            f"mean_total_reward{cut}": self.mean_return,
            **({"mean_return_interval": _plain(self.return_interval())} if self.whole else {}),
            **({"scores": scores} if (scores := self.scores()) else {}),
            "tasks": self.rows(),
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

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the tasks' rows as JSON's types, with `return_interval` where returns are whole."""
        rows: dict[str, dict[str, Any]] = {}
        for task, row in self.by_task.items():
            rows[task] = {**asdict(row), "interval": list(row.interval)}
            if scores := self.scores(task):
                rows[task]["scores"] = scores
            if self.measure == "return":
                rows[task] |= dict.fromkeys(("successes", "success", "interval"))
            if self.whole:
                rows[task]["return_interval"] = _plain(self.return_interval(task))
        return rows

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
                measure=data.get("measure", "success"),
                seconds=data["seconds"],
                planning_seconds=data["planning_seconds"],
                simulating_seconds=data["simulating_seconds"],
                latency=data["latency"],
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"this is not an evaluation result written by mtdiff: {error}.") from error


def _names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _plain(interval: Interval | None) -> list[float] | None:
    return list(interval) if interval else None


def merged(shares: Sequence[EvaluationResult], tasks: Sequence[str]) -> EvaluationResult:
    """Put the shares of one evaluation together that ran side by side: its time is that of the slowest.

    Args:
        shares: what `evaluate(..., share=(i, n))` returned for every i.
        tasks: their order in the result.
    """
    plans = [plan for share in shares for plan in share.plans]
    episodes = [episode for share in shares for episode in share.episodes]
    return replace(
        shares[0],
        episodes=sorted(episodes, key=lambda e: (list(tasks).index(e.task), e.episode)),
        seconds=max(share.seconds for share in shares),
        planning_seconds=float(np.mean([share.planning_seconds for share in shares])),
        simulating_seconds=float(np.mean([share.simulating_seconds for share in shares])),
        latency=latency(plans),
        plans=plans,
    )


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
