"""How true synthetic transitions are: a synthesizer's beside RAD's and S4RL's, and real ones as the bar.

    OMP_NUM_THREADS=1 python benchmarks/fidelity.py RUN --tasks push-v3 door-open-v3 --json FILE

Every row is `mtdiff.evaluation.fidelity` of as many transitions of one task, in the real simulator set to each state.
S4RL needs a critic: TD3+BC learns one from the task's data first. "real" is one half of the task's episodes, measured
against the other half.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import parse, table, write

import mtdiff
from mtdiff.augmentations import RAD, S4RL, Augmentation, SynthesizerAugmentation
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments.dynamics import dynamics_of
from mtdiff.evaluation.fidelity import fidelity
from mtdiff.learners import TD3BC, train_learner
from mtdiff.runs import Run

Transitions = dict[str, np.ndarray]


def changed(augmentation: Augmentation, real: Transitions, updates: int, seed: int) -> Transitions:
    """All transitions of `real` as a learner sees them; S4RL after `updates` of its critic."""
    learner = TD3BC(state_dim=real["state"].shape[1], action_dim=real["action"].shape[1], seed=seed)
    if isinstance(augmentation, S4RL):
        train_learner(learner, real, updates=updates, seed=seed)
    else:
        learner.begin(real["state"], updates=1)
    batch = {name: torch.from_numpy(real[name]) for name in ("state", "action", "reward", "next_state")}
    return {name: value.numpy() for name, value in augmentation.change(learner, batch).items()}


def cells(name: str, row: dict[str, Any]) -> list[str]:
    """One line of the table."""
    dynamics = row["dynamics"]
    ratio = "" if dynamics is None else f"{dynamics['ratio']:.3f}"
    shares = [f"{row[key]:.2f}" for key in ("distance", "bin_coverage", "marginal", "pairwise", "restored")]
    return [name, ratio, *shares]


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a trained synthesizer's run")
    parser.add_argument("--tasks", nargs="+", required=True, help="of its training")
    parser.add_argument("--samples", type=int, default=1000, help="transitions a row")
    parser.add_argument("--critic-updates", type=int, default=5000, help="of TD3+BC, for S4RL")


def main() -> None:
    options = parse(__doc__.splitlines()[0], more=arguments)
    run = Run(options.run)
    pipeline, data = mtdiff.load(options.run), TrajectoryDataset.load(Path(run.info["data"]["folder"]))
    rows: list[dict[str, Any]] = []
    for task in options.tasks:
        mine = data.of_task(task)
        halves = [mine.subset(np.arange(first, len(mine), 2)).transitions() for first in (0, 1)]
        begun = time.process_time()
        made = SynthesizerAugmentation(pipeline=pipeline).write(mine, options.samples, seed=options.seed)
        seconds = time.process_time() - begun
        sources = {
            "real, the other half": halves[1],
            run.info["name"]: made,
            "RAD": changed(RAD(), halves[1], options.critic_updates, options.seed),
            "S4RL": changed(S4RL(), halves[1], options.critic_updates, options.seed),
        }
        dynamics = dynamics_of(run.recipe.build("suite"), task)
        for name, transitions in sources.items():
            found = fidelity(transitions, halves[0], dynamics=dynamics, seed=options.seed, samples=options.samples)
            rows.append({"task": task, "name": name, **found.to_dict()})
        rows[-3]["transitions_per_cpu_second"] = len(made["reward"]) / seconds
    heads = ["", "dynamics error / copying s", "distance", "coverage", "marginal", "pairwise", "restored"]
    for task in options.tasks:
        mine_rows = [row for row in rows if row["task"] == task]
        floor = mine_rows[0]["dynamics"]["floor"]
        print(f"{task}: {options.samples} transitions, floor of the dynamics error {floor:.3f}")
        print(table(heads, [cells(row["name"], row) for row in mine_rows]), end="\n\n")
    write(options.json, seed=options.seed, rows=rows)


if __name__ == "__main__":
    main()
