"""Run an agent through many episodes of a suite's tasks, all of them in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from mtdiff.environments.suite import seed_of
from mtdiff.environments.vector import VectorEnv
from mtdiff.errors import MTDiffError, choices
from mtdiff.evaluation.agents import Agent
from mtdiff.evaluation.results import Episode, EvaluationResult, latency
from mtdiff.evaluation.settings import Evaluation

if TYPE_CHECKING:
    from mtdiff.environments.suite import Suite


def evaluate(
    agent: Agent,
    suite: Suite,
    *,
    tasks: Sequence[str] | None = None,
    settings: Evaluation | None = None,
    told: Mapping[str, str] | None = None,
    progress: bool = True,
    label: str = "evaluate",
    share: tuple[int, int] = (0, 1),
) -> EvaluationResult:
    """Run `settings.episodes_per_task` episodes of every task and return what happened.

    Goals and the agent's random numbers follow from `settings.seed`, the task and the number of the episode,
    so an episode does not depend on which others run beside it, on the number of workers or on what was
    evaluated before. A slot whose episode has ended leaves the batch.

    Args:
        agent: what acts; it is reset with the task names and one seed per episode.
        suite: where the tasks live.
        tasks: names among `suite.tasks`; all of them by default.
        settings: how many episodes, how long; `Evaluation()` by default.
        told: the task whose prompt the agent is given, where it is not the task itself; see `swap`.
        progress: show a bar on stderr.
        label: what the bar says.
        share: (i, n) runs only every n-th episode, beginning with the i-th; `merged` puts n shares together.

    Raises:
        MTDiffError: unknown task, more steps than the suite allows, actions of a wrong shape or not finite.
        EnvironmentFault: a simulator failed.
    """
    settings = settings or Evaluation()
    tasks = list(suite.tasks if tasks is None else tasks)
    told = dict(told or {})
    for name in [*tasks, *told]:
        if name not in suite.tasks:
            raise MTDiffError(choices("task", name, suite.tasks))
    limit = settings.max_steps or suite.max_steps
    if limit > suite.max_steps:
        raise MTDiffError(f"evaluation.max_steps: should be at most {suite.max_steps} ({suite.name}), got {limit}.")

    started = time.perf_counter()
    numbers: dict[str, list[int]] = {}
    for task, number in [(task, n) for task in tasks for n in range(settings.episodes_per_task)][share[0] :: share[1]]:
        numbers.setdefault(task, []).append(number)
    most = max(map(len, numbers.values()), default=0)
    per_round = min(most, max(1, settings.slots // max(1, len(numbers))))
    slot_tasks = [task for task in numbers for _ in range(per_round)]
    clock, stop = _Clock(counts=getattr(suite, "has_success", True)), settings.stop_on_success
    found: list[Episode] = []
    total = sum(map(len, numbers.values()))
    with (
        # miniters 0: the rate is kept fresh also while no episode ends.
        tqdm(total=total, desc=label, unit="ep", disable=not progress, mininterval=0.5, miniters=0) as bar,
        # A share may be empty, and then there is nothing to simulate.
        VectorEnv(suite, slot_tasks or tasks[:1], workers=settings.workers if numbers else 1) as env,
    ):
        for first in range(0, most, max(1, per_round)):
            batch = _Batch.of(numbers, per_round, first, settings)
            batch.judge = getattr(suite, "scores", None)
            _run(agent, env, batch, told, clock, bar, width=suite.action_dim, limit=limit, stop=stop)
            found += batch.records()
    found.sort(key=lambda e: (tasks.index(e.task), e.episode))
    return EvaluationResult(
        episodes=found,
        settings=asdict(settings),
        suite=dict(suite.describe()),
        told=told,
        measure="success" if clock.counts else "return",
        seconds=time.perf_counter() - started,
        planning_seconds=clock.planning,
        simulating_seconds=clock.simulating,
        latency=latency(clock.plans),
        plans=clock.plans,
    )


def swap(tasks: Sequence[str]) -> dict[str, str]:
    """Give each task the next one's prompt, the last one the first's: `evaluate(..., told=swap(tasks))`.

    Raises:
        MTDiffError: fewer than two tasks.
    """
    if len(tasks) < 2:
        raise MTDiffError(f"swapping prompts needs at least two tasks, got {len(tasks)}.")
    return dict(zip(tasks, [*tasks[1:], tasks[0]], strict=True))


def checked(actions: np.ndarray, rows: int, width: int) -> np.ndarray:
    """Return an agent's actions as a float32 array (rows, width).

    Raises:
        MTDiffError: another shape, or a number that is not finite.
    """
    actions = np.asarray(actions, np.float32)
    if actions.shape != (rows, width):
        raise MTDiffError(f"the agent returned actions of shape {actions.shape}, should be {(rows, width)}.")
    if not np.isfinite(actions).all():
        raise MTDiffError("the agent returned actions that are not finite.")
    return actions


@dataclass
class _Clock:
    """Where the time went, and how far the work is."""

    counts: bool = True  # successes: whether the suite knows any
    planning: float = 0.0
    simulating: float = 0.0
    steps: int = 0
    successes: int = 0
    plans: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class _Batch:
    """Episodes that run side by side: entry i is the agent's slot i, the environment's slot `slots[i]`."""

    tasks: list[str]
    numbers: list[int]
    seeds: list[int]
    slots: np.ndarray
    judge: Callable[[str, np.ndarray, int | None], dict[str, float]] | None = None  # the suite's own scores

    @classmethod
    def of(cls, numbers: Mapping[str, Sequence[int]], per_round: int, first: int, settings: Evaluation) -> _Batch:
        """Return the entries first ... first + per_round - 1 of every task's numbers, as many as there are."""
        entries = [
            (task, number, i * per_round + n)
            for i, (task, own) in enumerate(numbers.items())
            for n, number in enumerate(own[first : first + per_round])
        ]
        return cls(
            tasks=[task for task, _, _ in entries],
            numbers=[number for _, number, _ in entries],
            seeds=[seed_of(settings.seed, "evaluation", task, number) for task, number, _ in entries],
            slots=np.array([slot for _, _, slot in entries]),
        )

    def __post_init__(self) -> None:
        self.steps = np.zeros(len(self.tasks), int)
        self.success_step = np.zeros(len(self.tasks), int)  # 0: not yet
        self.total_reward = np.zeros(len(self.tasks))
        self.seen: list[list[np.ndarray]] = [[] for _ in self.tasks]  # states, where they are judged

    def see(self, slots: np.ndarray, states: np.ndarray) -> None:
        """Remember the states of entries, if the suite judges them."""
        if self.judge is not None:
            for slot, state in zip(slots, states, strict=True):
                self.seen[slot].append(state)

    def _scores(self, i: int) -> dict[str, float]:
        if self.judge is None:
            return {}
        return dict(self.judge(self.tasks[i], np.stack(self.seen[i]), int(self.success_step[i]) or None))

    def records(self) -> list[Episode]:
        return [
            Episode(
                task=task,
                episode=self.numbers[i],
                seed=self.seeds[i],
                success=bool(self.success_step[i]),
                success_step=int(self.success_step[i]) or None,
                steps=int(self.steps[i]),
                total_reward=float(self.total_reward[i]),
                scores=self._scores(i),
            )
            for i, task in enumerate(self.tasks)
        ]


def _run(
    agent: Agent,
    env: VectorEnv,
    batch: _Batch,
    told: Mapping[str, str],
    clock: _Clock,
    bar: tqdm,
    *,
    width: int,
    limit: int,
    stop: bool,
) -> None:
    """Run a batch of episodes to their ends."""
    tick = time.perf_counter()
    states = env.reset(batch.seeds, slots=batch.slots)
    tock = time.perf_counter()
    agent.reset([told.get(task, task) for task in batch.tasks], batch.seeds)
    clock.simulating += tock - tick
    clock.planning += time.perf_counter() - tock
    known = len(getattr(agent, "plan_seconds", ()))  # after reset, which may have emptied the list
    observe = getattr(agent, "observe", None)
    live = np.arange(len(batch.tasks))
    batch.see(live, states)
    while live.size:
        tick = time.perf_counter()
        actions = checked(agent.act(states, live), live.size, width)
        tock = time.perf_counter()
        out = env.step(actions, batch.slots[live])
        clock.planning += tock - tick
        clock.simulating += time.perf_counter() - tock

        if observe is not None:
            observe(out.rewards, live)
        clock.steps += live.size
        batch.steps[live] += 1
        batch.total_reward[live] += out.rewards
        batch.see(live, out.states)
        first = live[np.asarray(out.success, bool) & (batch.success_step[live] == 0)]
        batch.success_step[first] = batch.steps[first]
        ended = out.terminated | out.truncated | (batch.steps[live] >= limit)
        if stop:
            ended |= batch.success_step[live] > 0
        _show(bar, batch, live[ended], clock)
        live, states = live[~ended], out.states[~ended]
    clock.plans += getattr(agent, "plan_seconds", [])[known:]


def _show(bar: tqdm, batch: _Batch, ended: np.ndarray, clock: _Clock) -> None:
    clock.successes += int((batch.success_step[ended] > 0).sum())
    rate = clock.steps / max(clock.planning + clock.simulating, 1e-9)
    succeeded = f"{clock.successes} succeeded, " if clock.counts else ""
    bar.set_postfix_str(f"{succeeded}{rate:.0f} steps/s", refresh=False)
    bar.update(len(ended))
