"""From a recipe to everything that `mtdiff augment` has to do: data, synthesizers, cells."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtdiff.errors import MTDiffError, RecipeError
from mtdiff.recipe import Recipe, load_recipe
from mtdiff.recipe.finding import find_recipe
from mtdiff.registry import SUITES
from mtdiff.run_data import collect_data, data_folder, load_data
from mtdiff.runs import Run, run_of, train
from mtdiff.studies.augment import ORIGINAL, Augment
from mtdiff.studies.cells import Cell

LEARN = "mtdiff.studies.augment_cells:learn"
MEASURE = "mtdiff.studies.augment_cells:measure"
SYNTHESIZER, RECORDED = "synthesizer", "recorded"
WRITING = (SYNTHESIZER, RECORDED, "duplicate")
"""Augmentations whose learners depend on how much is written."""
_STUDY = ("augment", "augmentations")
_LATER = {"best_episodes": 1.0}  # arguments that were added when cells had been named already, at what they did before


@dataclass(frozen=True, kw_only=True)
class Target:
    """A task of which little is known.

    Attributes:
        task: its name.
        seen: whether the synthesizer of all tasks is trained on its few episodes.
        data: recipe of those and of its prompts.
        reference: recipe of the episodes that nobody learns from.
    """

    task: str
    seen: bool
    data: Recipe
    reference: Recipe


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe asks for, before any of it is done.

    Attributes:
        recipe: as it was given.
        settings: its section `augment`.
        targets: seen ones first.
        augmentations: by label, the original data's first.
        synthesizers: label -> target -> the recipe that is trained.
    """

    recipe: Recipe
    settings: Augment
    targets: list[Target]
    augmentations: dict[str, dict[str, Any]]
    synthesizers: dict[str, dict[str, Recipe]] = field(default_factory=dict)

    def document(self, root: Path) -> dict[str, Any]:
        """JSON-able: what would be collected, trained and measured."""
        from mtdiff.data.storage import MANIFEST

        data = [(f"{t.task}, {kind}", getattr(t, kind)) for t in self.targets for kind in ("data", "reference")]
        trained: dict[str, list[str]] = {recipe.hash(): [] for recipe in self.trainings()}
        for label, by_task in self.synthesizers.items():
            for task, recipe in by_task.items():
                trained[recipe.hash()].append(f"{label} for {task}")
        learners = len(self.targets) * len(self.augmentations) * self.settings.seeds
        return {
            "targets": {target.task: "seen" if target.seen else "unseen" for target in self.targets},
            "augmentations": list(self.augmentations),
            "collect": [{"what": what, "done": (data_folder(one, root) / MANIFEST).is_file()} for what, one in data],
            "train": [{"for": trained[one.hash()], "updates": one.get("training.updates")} for one in self.trainings()],
            "measure": {
                "learners": learners,
                "updates": self.settings.updates,
                "episodes": learners * self.settings.episodes_per_seed,
                "fidelities": len(self.targets) * len(self.augmentations),
            },
        }

    def trainings(self) -> list[Recipe]:
        """Return the recipes of all synthesizers, each once."""
        found = {recipe.hash(): recipe for by_task in self.synthesizers.values() for recipe in by_task.values()}
        return list(found.values())


def make_plan(recipe: Recipe) -> Plan:
    """Work out what a recipe asks for. Nothing is collected or trained.

    Raises:
        RecipeError: it has no section `augment`, is not a synthesizer's, its data are not collected, a target is
            unknown, or a recipe that an augmentation names is wrong.
    """
    for section in _STUDY:
        if section not in recipe.values:
            raise RecipeError(f"{recipe.name}: has no section '{section}:', which says what `mtdiff augment` compares.")
    if recipe.get("pipeline") != "synthesizer":
        raise RecipeError(
            f"{recipe.origin('pipeline')}: pipeline: should be synthesizer, got {recipe.get('pipeline')}."
        )
    if recipe.get("data.name") != "collected":
        got = recipe.get("data.name")
        raise RecipeError(f"{recipe.origin('data.name')}: data: should be collected, got {got}: some tasks get less.")
    settings: Augment = recipe.build("augment")
    everything = recipe.build("suite")
    try:
        names = SUITES.build({**recipe.values["suite"], "tasks": list(settings.targets)}).tasks
    except MTDiffError as error:
        what = str(error).removeprefix("suite.tasks: ")
        raise RecipeError(f"{recipe.origin('augment.targets')}: augment.targets: {what}") from error
    targets = [
        Target(
            task=task,
            seen=task in everything.tasks,
            data=_changed(recipe, tasks=[task], data={"trajectories_per_task": settings.episodes, "fewer": None}),
            reference=_changed(recipe, tasks=[task], data=_reference(recipe, settings)),
        )
        for task in sorted(names, key=lambda task: task not in everything.tasks)
    ]
    augmentations = {ORIGINAL: {"name": "none"}, **recipe.values["augmentations"]}
    plan = Plan(recipe=recipe, settings=settings, targets=targets, augmentations=augmentations)
    few = {target.task: settings.episodes for target in targets if target.seen}
    for label, part in augmentations.items():
        if part["name"] == SYNTHESIZER:
            plan.synthesizers[label] = dict(_synthesizers(plan, label, part, few))
    return plan


def _synthesizers(plan: Plan, label: str, part: Mapping[str, Any], few: dict[str, int]) -> Any:
    """Yield, for every target, the recipe of the synthesizer that writes for it."""
    recipe, base = plan.recipe, plan.recipe
    if part["recipe"] is not None:
        where = recipe.origin(f"augmentations.{label}.recipe")
        try:
            beside = recipe.path.parent if recipe.path else None
            base = load_recipe(find_recipe(part["recipe"], beside=beside))
        except RecipeError as error:
            raise RecipeError(f"{where}: augmentations.{label}.recipe: {error}") from error
        if base.get("pipeline") != "synthesizer":
            raise RecipeError(f"{where}: augmentations.{label}.recipe: should be a synthesizer's, got a planner's.")
    data = recipe.values["data"]
    for target in plan.targets:
        if part["trained_on"] == "target":
            yield target.task, _changed(base, tasks=[target.task], data=target.data.values["data"])
        else:
            fewer = {**(data["fewer"] or {}), **few} or None
            yield target.task, _changed(base, tasks=recipe.get("suite.tasks"), data={**data, "fewer": fewer})


def _reference(recipe: Recipe, settings: Augment) -> dict[str, Any]:
    """Episodes like the target's, with other goals and other faults, and no prompts that anyone would see."""
    count = {"trajectories_per_task": settings.reference_episodes, "prompts_per_task": 1, "fewer": None}
    return {**count, "seed": recipe.get("data.seed") + 1}


def _changed(recipe: Recipe, *, tasks: Any, data: Mapping[str, Any]) -> Recipe:
    values = copy.deepcopy({key: value for key, value in recipe.values.items() if key not in _STUDY})
    values["suite"]["tasks"] = tasks
    values["data"].update(data)
    return replace(load_recipe(values), name=recipe.name)


def prepare(
    plan: Plan, *, root: Path, workers: int | None = None, only: Sequence[str] | None = None
) -> tuple[list[Cell], dict[str, dict[str, Run]]]:
    """Collect the data and train the synthesizers, whatever of them is not there yet, and return the cells.

    Args:
        plan: of the study.
        root: folder of data and runs.
        workers: simulator processes.
        only: labels of augmentations. The synthesizers of others are not trained, and have cells if they are.

    Returns:
        The cells: fidelity first, then the learners, seed by seed, so that every row of the table fills evenly. And
        the runs of the synthesizers: label -> target -> run.

    Raises:
        MTDiffError: see `collect_data` and `train`.
    """
    for target in plan.targets:
        for data in (target.data, target.reference):
            collect_data(data, root=root, workers=workers)
    runs: dict[str, dict[str, Run]] = {}
    for label, by_task in plan.synthesizers.items():
        if only is None or label in only:
            done = {one.hash(): one for one in by_task.values()}  # one may serve all targets
            trained = {digest: train(one, root=root, resume=True, workers=workers) for digest, one in done.items()}
            runs[label] = {task: trained[one.hash()] for task, one in by_task.items()}
        else:
            known = {task: run_of(one, root=root) for task, one in by_task.items()}
            runs[label] = {task: run for task, run in known.items() if run is not None and run.complete}
    there = {
        (target.task, label)
        for target in plan.targets
        for label in plan.augmentations
        if label not in runs or target.task in runs[label]
    }
    pairs = [
        (target, label) for target in plan.targets for label in plan.augmentations if (target.task, label) in there
    ]
    cells = [_fidelity(plan, target, label, runs, root) for target, label in pairs]
    cells += [
        _learner(plan, target, label, runs, root, seed)
        for seed in range(plan.settings.seeds)
        for target, label in pairs
    ]
    return cells, runs


def _learner(plan: Plan, target: Target, label: str, runs: Any, root: Path, seed: int) -> Cell:
    settings = plan.settings
    content, where = _shared(plan, target, label, runs, root)
    if plan.augmentations[label]["name"] in WRITING:
        content["synthetic_per_real"] = settings.synthetic_per_real
    content |= {
        "seed": plan.recipe.get("seed") + seed,
        "goals": plan.recipe.get("evaluation.seed") + seed,
        "episodes": settings.episodes_per_seed,
        "max_steps": settings.max_steps,
    }
    return Cell(
        measure=LEARN, content=content, where=where,
        label={"task": target.task, "augmentation": label, "seed": seed},
    )  # fmt: skip


def _fidelity(plan: Plan, target: Target, label: str, runs: Any, root: Path) -> Cell:
    content, where = _shared(plan, target, label, runs, root)
    content |= {
        "seed": plan.recipe.get("seed"),
        "samples": plan.settings.fidelity_samples,
        "reference": load_data(Path(where["reference"]))[0].fingerprint,
    }
    return Cell(
        measure=MEASURE, content=content, where=where,
        label={"task": target.task, "augmentation": label, "measured": "fidelity"},
    )  # fmt: skip


def _shared(plan: Plan, target: Target, label: str, runs: Any, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both measurements depend on, and where it lies."""
    part, folder = dict(plan.augmentations[label]), data_folder(target.data, root)
    parts = [part for part in load_data(folder) if part is not None]
    suite = {key: value for key, value in plan.recipe.values["suite"].items() if key != "tasks"}
    content = {
        "task": target.task,
        "suite": suite,
        "data": "".join(part.fingerprint for part in parts),
        "learner": plan.recipe.get("augment.learner"),
        "updates": plan.settings.updates,
        "batch": plan.settings.batch,
    }
    where: dict[str, Any] = {
        "data": str(folder),
        "reference": str(data_folder(target.reference, root)),
        "imports": plan.recipe.values.get("imports", []),
    }
    if part["name"] == RECORDED:
        content["reference"] = load_data(Path(where["reference"]))[0].fingerprint
    if part["name"] == SYNTHESIZER:
        run = runs[label][target.task]
        sampling = plan.synthesizers[label][target.task].values["sampling"]
        content["synthesizer"] = run.info["hash"]
        content["sampling"] = {key: value for key, value in sampling.items() if key != "prompts_per_task"}
        part = {"name": SYNTHESIZER}  # the rest says what was trained, and the hash of that is there
        where["pipeline"] = str(run.pipeline)
    part = {key: value for key, value in part.items() if key not in _LATER or value != _LATER[key]}
    return {**content, "augmentation": part}, where
