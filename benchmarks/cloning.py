"""Plain behaviour cloning on a planner's own data: what every success rate here should be read beside.

    OMP_NUM_THREADS=1 python benchmarks/cloning.py RUN --json benchmarks/results/cloning_mt10.json

A perceptron with three hidden layers of 256 reads the normalised state and a one-hot label of the task and gives the
next action; mean squared error, Adam, about a minute. It acts in the very episodes that the planner is evaluated in.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from measure import parse, table, write
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot

from mtdiff.data.normalizer import Normalization, Normalizer
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.evaluation import Evaluation, evaluate
from mtdiff.runs import Run

HIDDEN, LAYERS, BATCH, LEARNING_RATE = 256, 3, 256, 1e-3


class Cloner(nn.Module):
    """State and task to action, and an agent for `mtdiff.evaluation.evaluate`.

    Args:
        tasks: names, in the order of their labels.
        normalizer: of the states.
        action_dim: A.
    """

    def __init__(self, tasks: Sequence[str], normalizer: Normalizer, action_dim: int):
        super().__init__()
        self.tasks, self.normalizer = list(tasks), normalizer
        sizes = [len(normalizer.state_loc) + len(self.tasks), *[HIDDEN] * LAYERS]
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(HIDDEN, action_dim))

    def forward(self, states: Tensor, task: Tensor) -> Tensor:
        """Actions (B, A) for physical states (B, O) of the tasks numbered `task` (B,)."""
        return self.layers(torch.cat([self.normalizer.states(states), one_hot(task, len(self.tasks))], dim=1))

    def reset(self, tasks: Sequence[str], seeds: Sequence[int]) -> None:
        self._task = torch.tensor([self.tasks.index(task) for task in tasks])

    @torch.no_grad()
    def act(self, states: np.ndarray, slots: np.ndarray) -> np.ndarray:
        return self(torch.from_numpy(states).float(), self._task[slots]).clamp(-1, 1).numpy()


def train(dataset: TrajectoryDataset, updates: int) -> Cloner:
    """Train on every step of a dataset, all equally often."""
    rows = {name: torch.from_numpy(values) for name, values in dataset.transitions().items()}
    cloner = Cloner(dataset.tasks, Normalizer.fit(dataset, Normalization()), dataset.actions.shape[1])
    optimizer = torch.optim.Adam(cloner.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        at = torch.randint(len(rows["task"]), (BATCH,))
        loss = mse_loss(cloner(rows["state"][at], rows["task"][at]), rows["action"][at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return cloner.eval()


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a planner's run: its data, suite and evaluation are used")
    parser.add_argument("--updates", type=int, default=14_000)
    parser.add_argument("--episodes", type=int, help="per task; by default as in the run's recipe")
    parser.add_argument("--workers", type=int, default=1, help="simulator processes")


def main() -> None:
    options = parse(__doc__.splitlines()[0], more=arguments)
    run = Run(options.run)
    dataset = TrajectoryDataset.load(Path(run.info["data"]["folder"]))
    begun, begun_cpu = time.perf_counter(), time.process_time()
    cloner = train(dataset, options.updates)
    took, took_cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    settings: Evaluation = replace(run.recipe.build("evaluation"), workers=options.workers)
    if options.episodes:
        settings = replace(settings, episodes_per_task=options.episodes)
    result = evaluate(cloner, run.recipe.build("suite"), settings=settings)

    print(f"{sum(p.numel() for p in cloner.parameters()):,} parameters, {options.updates:,} updates of {BATCH} steps")
    print(f"trained in {took:.0f} s ({took_cpu:.0f} CPU s), evaluated in {result.seconds:.0f} s")
    low, high = result.mean_interval
    cells = [
        [task, f"{r.success:.2f} ({r.interval[0]:.2f} to {r.interval[1]:.2f})"] for task, r in result.by_task.items()
    ]
    cells.append([f"mean, {len(result.episodes)} episodes", f"{result.mean_success:.3f} ({low:.2f} to {high:.2f})"])
    print(table(("", "success (95 % interval)"), cells))
    row = {
        "name": "behaviour cloning",
        "parameters": sum(p.numel() for p in cloner.parameters()),
        "data": {"steps": dataset.num_steps, "episodes": len(dataset), "fingerprint": dataset.fingerprint},
        "updates": options.updates,
        "batch": BATCH,
        "seconds": took,
        "cpu_seconds": took_cpu,
        "evaluation_seconds": result.seconds,
        "settings": result.settings,
        "mean_success": result.mean_success,
        "mean_interval": result.mean_interval,
        "tasks": {task: asdict(of) for task, of in result.by_task.items()},
    }
    write(options.json, seed=options.seed, rows=[row])


if __name__ == "__main__":
    main()
