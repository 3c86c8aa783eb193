"""Evaluation at scale: environment steps per second, and where the time goes, with one and two simulator processes.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py --json benchmarks/results/evaluation.json

The ten tasks of Meta-World's MT10, all episodes side by side and planned for in one batch; random weights, and every
episode runs to its limit of steps, so that all runs do equal work. Times are of the clock, since simulators are
processes of their own: only a quiet machine gives numbers that mean something.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import numpy as np
from measure import parse, show, spread, table, write
from windows import numbers

from mtdiff.compose import compose
from mtdiff.environments.processes import available_cores
from mtdiff.evaluation import Evaluation, evaluate
from mtdiff.pipelines import PlannerAgent
from mtdiff.recipe import load_recipe

# By name: a recipe, and the steps of an episode.
NETWORKS = {"planner_mt10": ("metaworld/planner_mt10", 100), "paper": ("presets/default", 40)}
WORKERS = (1, 2)


def build(recipe: str, seed: int) -> tuple[PlannerAgent, Any]:
    """An agent with random weights, and MT10."""
    loaded = load_recipe(recipe, [f"seed={seed}", "suite.tasks=mt10"])
    suite = loaded.build("suite")
    data, prompts = numbers(len(suite.tasks), 2, 60, seed), numbers(len(suite.tasks), 10, 40, seed + 1)
    data.tasks = prompts.tasks = list(suite.tasks)
    pipeline, _ = compose(loaded.values, data, prompts)
    return PlannerAgent(pipeline), suite


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--episodes", type=int, default=10, help="per task")


def main() -> None:
    options = parse(__doc__.splitlines()[0], rounds=3, more=arguments)
    rows: list[dict[str, Any]] = []
    for network, (recipe, steps) in NETWORKS.items():
        agent, suite = build(recipe, options.seed)
        found: dict[int, list[dict[str, float]]] = {workers: [] for workers in WORKERS}
        for _ in range(options.rounds):
            for workers in WORKERS:
                settings = Evaluation(
                    episodes_per_task=options.episodes,
                    max_steps=steps,
                    stop_on_success=False,
                    slots=len(suite.tasks) * options.episodes,
                    workers=workers,
                )
                known = len(agent.plan_seconds), len(agent.prefix_seconds)
                result = evaluate(agent, suite, settings=settings, progress=False)
                plans, prefixes = agent.plan_seconds[known[0] :], agent.prefix_seconds[known[1] :]
                done, running = (
                    sum(e.steps for e in result.episodes),
                    result.planning_seconds + result.simulating_seconds,
                )
                found[workers].append(
                    {
                        "steps_per_second": done / running,
                        "planning_share": result.planning_seconds / running,
                        "planning_seconds": result.planning_seconds,
                        "simulating_seconds": result.simulating_seconds,
                        "starting_seconds": result.seconds - running,
                        "seconds_per_plan": float(np.median([seconds for _, seconds in plans])),
                        "prefix_seconds": sum(seconds for _, seconds in prefixes),
                    }
                )
        for workers, runs in found.items():
            sampling = agent.pipeline.config
            row = {"network": network, "workers": workers, "cores": available_cores(), "rounds": options.rounds}
            row |= {"environments": len(result.episodes), "steps_per_episode": steps, "execute": sampling.execute}
            row |= {"num_inference_steps": sampling.num_inference_steps, "prefix_bytes": agent.prefix_bytes}
            rows.append(row | {name: spread([run[name] for run in runs]) for name in runs[0]})
    cells = [
        (
            f"{row['network']}, {row['workers']} simulator process{'es' if row['workers'] > 1 else ''}",
            show(row["steps_per_second"], digits=0),
            show(row["planning_share"], scale=100, digits=0),
            show(row["seconds_per_plan"], scale=1000, digits=0),
            show(row["prefix_seconds"]),
            f"{row['prefix_bytes'] / 1e6:.0f}",
        )
        for row in rows
    ]
    print(f"{rows[0]['environments']} environments of 10 tasks, {options.rounds} rounds, {available_cores()} cores")
    print(table(("", "steps per second", "% planning", "ms per plan", "prefix, s", "prefix, MB"), cells))
    write(options.json, seed=options.seed, rows=rows)


if __name__ == "__main__":
    main()
