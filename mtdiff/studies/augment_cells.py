"""The two measurements of `mtdiff augment`: how well a learner acts, and how true what it was given is.

`where` names folders: "data" of the target's few episodes, "reference" of those that nobody learns from, and "pipeline"
of the synthesizer, if there is one; and "imports", the modules of parts of your own.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtdiff.augmentations import Augmentation
from mtdiff.compose import prompt_library, set_sampling
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments.dynamics import dynamics_of
from mtdiff.errors import EnvironmentFault
from mtdiff.evaluation import Evaluation, evaluate
from mtdiff.evaluation.fidelity import fidelity
from mtdiff.hub import load
from mtdiff.learners import Learner, Transitions, train_learner
from mtdiff.registry import AUGMENTATIONS, LEARNERS, SUITES
from mtdiff.run_data import load_data
from mtdiff.world import planning_device

if TYPE_CHECKING:
    from mtdiff.environments.suite import Suite

PROMPTS = 20
"""Prompts of a target that are cut from its demonstrations, at different places."""

WRITTEN_PER_MEASURED = 4
"""Transitions that are written for each one whose fidelity is measured: those are drawn from more pieces."""


@dataclass(frozen=True)
class Given:
    """A target's data and an augmentation of them, ready.

    Attributes:
        suite: with the target as its only task.
        real: what every learner sees: the few episodes, and the prompt demonstrations.
        augmentation: as the cell says.
    """

    suite: Suite
    real: TrajectoryDataset
    augmentation: Augmentation

    def learner(self, content: Mapping[str, Any], seed: int) -> Learner:
        """An untrained learner."""
        sizes = {"state_dim": self.real.states.shape[1], "action_dim": self.real.actions.shape[1]}
        learner: Learner = LEARNERS.build(content["learner"], **sizes, device=planning_device(), seed=seed)
        return learner


def learn(content: Mapping[str, Any], where: Mapping[str, Any]) -> dict[str, Any]:
    """Train a learner and let it act on goals of its own.

    Returns:
        success of every episode, in the order of their numbers, and how many transitions it learnt from.
    """
    given, seed = ready(content, where), content["seed"]
    recorded = given.real.transitions()
    rows = len(recorded["reward"])
    parts: list[tuple[Transitions, float]] = [(recorded, rows)]
    if "synthetic_per_real" in content:
        written = given.augmentation.write(given.real, round(content["synthetic_per_real"] * rows), seed=seed)
        if written is not None:
            parts.append((written, len(written["reward"])))
    learner = given.learner(content, seed)
    train_learner(
        learner,
        parts,
        updates=content["updates"],
        batch=content["batch"],
        seed=seed,
        augment=given.augmentation.change if _changes(given.augmentation) else None,
        log_every=content["updates"],
    )
    settings = Evaluation(
        episodes_per_task=content["episodes"], max_steps=content["max_steps"], seed=content["goals"], workers=1
    )
    found = evaluate(learner.agent(), given.suite, settings=settings, progress=False)
    return {
        "success": [bool(episode.success) for episode in found.episodes],
        "recorded": rows,
        "written": sum(len(part["reward"]) for part, _ in parts[1:]),
    }


def measure(content: Mapping[str, Any], where: Mapping[str, Any]) -> dict[str, Any]:
    """Measure how true the transitions are that a learner would see, against episodes that nobody learns from.

    Returns:
        `Fidelity.to_dict()`; without the simulator's part where it cannot be set to a state.
    """
    given, seed, samples = ready(content, where), content["seed"], content["samples"]
    reference = load_data(Path(str(where["reference"])))[0].transitions()
    seen = shown(given, content, samples=samples, seed=seed)
    try:
        dynamics = dynamics_of(given.suite, content["task"])
    except EnvironmentFault:
        dynamics = None
    try:
        return fidelity(seen, reference, dynamics=dynamics, seed=seed, samples=samples).to_dict()
    finally:
        if dynamics is not None:
            dynamics.close()


def shown(given: Given, content: Mapping[str, Any], *, samples: int, seed: int) -> Transitions:
    """Return what an augmentation makes a learner see besides the recorded transitions, or else those."""
    written = given.augmentation.write(given.real, WRITTEN_PER_MEASURED * samples, seed=seed)
    seen = given.real.transitions() if written is None else written
    if not _changes(given.augmentation):
        return seen
    learner = given.learner(content, seed)
    train_learner(
        learner, seen, updates=content["updates"], batch=content["batch"], seed=seed, log_every=content["updates"],
        augment=given.augmentation.change,
    )  # fmt: skip
    rows = np.random.default_rng(seed).choice(len(seen["reward"]), min(samples, len(seen["reward"])), replace=False)
    batch = {name: torch.as_tensor(values[rows]).to(learner.device) for name, values in seen.items()}
    return {name: value.cpu().numpy() for name, value in given.augmentation.change(learner, batch).items()}


def _changes(augmentation: Augmentation) -> bool:
    return type(augmentation).change is not Augmentation.change


def ready(content: Mapping[str, Any], where: Mapping[str, Any]) -> Given:
    """Load what a cell needs."""
    task = content["task"]
    for module in where["imports"]:
        importlib.import_module(module)
    suite: Suite = SUITES.build({**content["suite"], "tasks": [task]})
    few, prompts = _data(str(where["data"]))
    episodes = [part[number] for part in (few, prompts) if part is not None for number in range(len(part))]
    real = TrajectoryDataset.from_trajectories((replace(one, labels={}) for one in episodes), tasks=[task])
    pipeline = None if where.get("pipeline") is None else _pipeline(str(where["pipeline"]))
    runtime: dict[str, Any] = {"task": task}
    if content["augmentation"]["name"] == "recorded":
        runtime["reference"] = _data(str(where["reference"]))[0]
    if pipeline is not None:
        set_sampling(pipeline, content["sampling"])
        runtime["pipeline"] = pipeline
        if pipeline.conditioning.reading("prompt_states") is not None:
            library = prompt_library(pipeline.conditioning, [task], prompts, PROMPTS, content["seed"])
            runtime["prompts"] = library[task]
    return Given(suite, real, AUGMENTATIONS.build(content["augmentation"], **runtime))


@functools.lru_cache(maxsize=4)
def _data(folder: str) -> tuple[TrajectoryDataset, TrajectoryDataset | None]:
    return load_data(Path(folder))


@functools.lru_cache(maxsize=4)
def _pipeline(folder: str) -> Any:
    return load(folder).to(planning_device())
