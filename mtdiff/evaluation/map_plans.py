"""Plans drawn over the maps that they are made for: what a planner intends, and where it gets to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import escape

from mtdiff.environments.suite import seed_of
from mtdiff.environments.vector import VectorEnv
from mtdiff.evaluation.agents import Agent
from mtdiff.evaluation.rollouts import checked

if TYPE_CHECKING:
    from mtdiff.environments.suite import Suite

STARTS, SAMPLES = 2, 4  # places that plans begin at, and plans from each
MOST = 24  # maps that are drawn
_TOGETHER = 8  # maps whose environments live at once


@dataclass(frozen=True, kw_only=True)
class Plans:
    """What was planned and done on one map.

    Attributes:
        plans: paths (n, 2) in metres of whole plans, carried out without looking.
        walks: paths of whole episodes.
        success: of every episode.
    """

    plans: list[np.ndarray]
    walks: list[np.ndarray]
    success: list[bool]


def draw_plans(
    agent: Agent,
    opener: Agent,
    suite: Suite,
    *,
    horizon: int,
    seed: int = 0,
    max_steps: int | None = None,
    workers: int | None = None,
) -> dict[str, str]:
    """Return a drawing (SVG) for each of the first 24 maps of a suite.

    From two starts, which no evaluation uses, four plans each.

    Args:
        agent: what is evaluated.
        opener: the same planner, carrying out whole plans.
        suite: has maps: `suite.map(task)`; a state begins with the position.
        horizon: steps of a plan.
        seed: starts and noise follow from it.
        max_steps: of an episode; the suite's by default.
        workers: simulator processes.
    """
    tasks, drawings = list(suite.tasks)[:MOST], {}
    for first in range(0, len(tasks), _TOGETHER):
        part = tasks[first : first + _TOGETHER]
        slots = [(task, start, sample) for task in part for start in range(STARTS) for sample in range(SAMPLES)]
        names = [task for task, _, _ in slots]
        places = [seed_of(seed, "video", task, 1 + start) for task, start, _ in slots]
        noises = [seed_of(seed, "video", task, 1 + start, 1 + sample) for task, start, sample in slots]
        limit = max_steps or suite.max_steps
        with VectorEnv(suite, names, workers=workers) as env:
            plans, _ = _walk(opener, env, names, places, noises, width=suite.action_dim, limit=min(horizon, limit))
            walks, success = _walk(agent, env, names, places, noises, width=suite.action_dim, limit=limit)
        for number, task in enumerate(part):
            mine = slice(number * STARTS * SAMPLES, (number + 1) * STARTS * SAMPLES)
            found = Plans(plans=plans[mine], walks=walks[mine], success=success[mine])
            drawings[task] = drawing(suite, task, found)
    return drawings


def _walk(
    agent: Agent,
    env: VectorEnv,
    tasks: Sequence[str],
    places: Sequence[int],
    noises: Sequence[int],
    *,
    width: int,
    limit: int,
) -> tuple[list[np.ndarray], list[bool]]:
    """Run an episode in every slot up to its first success; return the paths (n, 2) and the successes."""
    states = env.reset(places)
    agent.reset(tasks, noises)
    paths = [[state] for state in states]
    live, success = np.arange(len(tasks)), np.zeros(len(tasks), bool)
    for _ in range(limit):
        out = env.step(checked(agent.act(states, live), live.size, width), live)
        for slot, state in zip(live, out.states, strict=True):
            paths[slot].append(state)
        success[live] |= out.success
        going = ~(out.success | out.terminated | out.truncated)
        live, states = live[going], out.states[going]
        if not live.size:
            break
    return [np.stack(path) for path in paths], success.tolist()


def drawing(suite: Any, task: str, found: Plans) -> str:
    """Return a map with plans on it as an SVG element whose colours follow the page; y is upwards in the map."""
    drawn = suite.map(task)
    rows, columns = drawn.shape
    left, top = columns / 2, rows / 2

    def line(path: np.ndarray, kind: str) -> str:
        kept = path[np.unique(np.append(np.arange(0, len(path), max(1, len(path) // 80)), len(path) - 1))]
        points = " ".join(f"{x + left:.2f},{top - y:.2f}" for x, y in kept[:, :2])
        return f'<polyline class="{kind}" points="{points}"/>'

    cells = "".join(f"M{j} {i}h1v1h-1z" for i, j in drawn.free)
    parts = [f'<rect class="wall" width="{columns}" height="{rows}"/><path class="free" d="{cells}"/>']
    goals = {tuple(walk[0, 4:6]) for walk in found.walks if walk.shape[1] > 4}
    if not goals and drawn.goal is not None:
        goals = {tuple(drawn.centre(drawn.goal))}
    for x, y in sorted(goals):
        parts.append(f'<circle class="goal" cx="{x + left:.2f}" cy="{top - y:.2f}" r=".45"/>')
    parts += [line(walk, "walk" if won else "lost") for walk, won in zip(found.walks, found.success, strict=True)]
    parts += [line(plan, "plan") for plan in found.plans]
    for x, y in sorted({tuple(walk[0, :2]) for walk in found.walks}):
        parts.append(f'<circle class="start" cx="{x + left:.2f}" cy="{top - y:.2f}" r=".13"/>')
    for walk, arrived in zip(found.walks, found.success, strict=True):
        if not arrived:
            x, y = walk[-1, :2]
            parts.append(f'<circle class="end" cx="{x + left:.2f}" cy="{top - y:.2f}" r=".13"/>')
    told = f"{sum(found.success)} of {len(found.success)} succeeded"
    return f'<svg viewBox="0 0 {columns} {rows}" role="img" aria-label="{escape(task)}: {told}">{"".join(parts)}</svg>'
