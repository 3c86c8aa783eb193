"""A run: the folder of one trained recipe, and the steps that fill it.

    <root>/data/<suite>-<hash>/        trajectories and prompt demonstrations, shared by every run that needs them
                                       (collected or read; see mtdiff.run_data)
    <root>/runs/<recipe>-<hash>/
        recipe.yaml   run.json         what is trained, on which data, with which versions, how far it is
        checkpoints/  metrics.jsonl  trackers/
        pipeline/                      the trained pipeline, as `save_pretrained` writes it
        best/                          the same with the weights of the lowest held-out loss
        evaluation/<hash>.json  videos/  report.html

The hash covers everything that changes the result of training, the data's content included, so that equal work is
recognised and never repeated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtdiff.compose import compose, windows
from mtdiff.data.returns import best_of_each_task
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import MTDiffError, TrainingFault
from mtdiff.hub import Source
from mtdiff.provenance import code, differences, hardware, report, stored, versions
from mtdiff.recipe import Recipe, load_recipe
from mtdiff.run_data import ROOT, collect_data, data_folder, load_data
from mtdiff.run_folder import Run, save_pipeline
from mtdiff.sharing.repository import PREFIX
from mtdiff.sharing.stored import stored_recipe
from mtdiff.whole import discard, write_text, writing

if TYPE_CHECKING:
    from mtdiff.pipelines.trained import TrainedPipeline

__all__ = ["ROOT", "Run", "collect_data", "data_folder", "hardware", "run_of", "save_pipeline", "train", "versions"]


def train(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    dataset: TrajectoryDataset | None = None,
    prompts: TrajectoryDataset | None = None,
    init: Source | None = None,
    root: Path | str = ROOT,
    resume: bool = False,
    restart: bool = False,
    workers: int | None = None,
) -> Run:
    """Train a recipe: collect or read its data if they are not there, train, save the pipeline.

    A recipe that was trained before is not trained again. One that differs only in `sampling` or `evaluation` gets
    the new defaults into the saved pipeline.

    Args:
        recipe: a recipe, or what `load_recipe` takes: a file, a shipped recipe's name, a mapping; or the one that a
            repository holds, "hub:user/name". Whatever differs from when a run's recipe was trained is said.
        dataset: trajectories to train on in the place of the recipe's section `data`.
        prompts: demonstrations that go with `dataset`.
        init: a run, pipeline or repository whose weights are the first; see `mtdiff.training.warm_start`.
        root: folder of data and runs.
        resume: go on from the newest checkpoint of an interrupted run.
        restart: throw an interrupted or finished run away and begin anew.
        workers: processes for the collection of data.

    Raises:
        TrainingFault: if the run was interrupted before and neither `resume` nor `restart` is given.
        MTDiffError: see `load_recipe`, `collect_data`, `warm_start`, `Trainer.run`.
    """
    from mtdiff.data.sources.source import refuse_other_suites
    from mtdiff.training import Trainer, Training, make_accelerator
    from mtdiff.training.warm_start import describe, warm_start
    from mtdiff.world import on_main

    recipe = _read(recipe, given=dataset is not None)
    settings: Training = recipe.build("training")
    root = Path(root)
    accelerator = make_accelerator(settings)
    folder: Path | None = None
    if dataset is None:
        if prompts is not None:
            raise MTDiffError("train: prompts were handed over without a dataset that they go with")
        folder = data_folder(recipe, root)
        on_main(lambda: collect_data(recipe, root=root, workers=workers))
        dataset, prompts = load_data(folder)
    else:
        refuse_other_suites(dataset, recipe.build("suite"), where="dataset")
        if prompts is not None:
            refuse_other_suites(prompts, recipe.build("suite"), where="prompts")
    fingerprint = _fingerprint(dataset, prompts)
    name = _name(recipe)
    pipeline, scheduler = compose(recipe.values, dataset, prompts)
    begun = warm_start(pipeline, init, dataset) if init is not None else None
    digest = recipe.hash(fingerprint + (f" init {begun['content']}" if begun else ""))
    run = Run(root / "runs" / f"{name}-{digest}")
    info = {
        "name": name,
        "hash": run.folder.name.rpartition("-")[2],
        "complete": False,
        "data": {"folder": str(folder) if folder else None, "fingerprint": fingerprint, **_size(dataset)},
        **({"init": begun} if begun else {}),
        "versions": versions(),
        "code": code(),
        "hardware": hardware(),
        "processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        "device": str(accelerator.device),
    }
    before = stored(recipe)
    if before is not None and recipe.path and recipe.path.parent.resolve() != run.folder.resolve():
        found = differences(before, info, recipe)
        info["reproduces"] = {"name": before["name"], "hash": before["hash"], "differences": found}
        if accelerator.is_main_process:
            print(*report(before, found), sep="\n", file=sys.stderr)
    if begun and accelerator.is_main_process:
        print(*describe(begun), sep="\n", file=sys.stderr)
    if on_main(lambda: _is_done(run, recipe, pipeline, resume=resume, restart=restart)):
        return Run(run.folder, reused=True)

    if accelerator.is_main_process:
        with writing(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
        recipe.save(run.folder / "recipe.yaml")
        write_text(run.folder / "run.json", json.dumps(info, indent=2))
    learn, held_out = _split(dataset, settings.validation, recipe.get("seed"))
    if settings.best_episodes < 1:
        learn = best_of_each_task(learn, settings.best_episodes)
    trainer = Trainer(
        pipeline,
        scheduler,
        windows(pipeline, learn, prompts, accelerator.device),
        windows(pipeline, held_out, prompts, accelerator.device, returns_of=learn) if held_out else None,
        settings,
        seed=recipe.get("seed"),
        folder=run.folder,
        accelerator=accelerator,
    )
    outcome = trainer.run(resume=resume)
    if accelerator.is_main_process:
        pipeline.to("cpu")
        save_pipeline(run, recipe, pipeline)
        if trainer.best.load(trainer.objective.module):
            save_pipeline(run, recipe, pipeline, place=run.best)
        write_text(run.folder / "run.json", json.dumps(info | outcome | {"complete": True}, indent=2))
    accelerator.wait_for_everyone()
    return run


def run_of(recipe: Recipe, *, root: Path | str = ROOT) -> Run | None:
    """Return the run that `train` would fill with a recipe, complete or not; None while its data are not there."""
    from mtdiff.data.storage import MANIFEST

    folder = data_folder(recipe, Path(root))
    if not (folder / MANIFEST).is_file():
        return None
    return Run(Path(root) / "runs" / f"{_name(recipe)}-{recipe.hash(_fingerprint(*load_data(folder)))}")


def _fingerprint(dataset: TrajectoryDataset, prompts: TrajectoryDataset | None) -> str:
    return dataset.fingerprint + (prompts.fingerprint if prompts else "")


def _read(recipe: Recipe | str | Path | Mapping[str, Any], *, given: bool) -> Recipe:
    """The recipe, checked; its data are "given" if a program hands them over."""
    if isinstance(recipe, str) and recipe.startswith(PREFIX):
        recipe = stored_recipe(recipe, ["data=given"] if given else [])
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, ["data=given"] if given else [])
    return replace(recipe, values={**recipe.values, "data": {"name": "given"}}) if given else recipe


def _name(recipe: Recipe) -> str:
    """A recipe's name; that of the run, for the resolved recipe that a run keeps."""
    if recipe.path and recipe.path.name == "recipe.yaml" and (recipe.path.parent / "run.json").is_file():
        return Run(recipe.path.parent).info["name"]
    return recipe.name


def _is_done(run: Run, recipe: Recipe, pipeline: TrainedPipeline, *, resume: bool, restart: bool) -> bool:
    """Whether nothing is left to train; refuses to begin where another training was interrupted."""
    if restart:
        discard(run.folder)
    if run.complete:
        if run.recipe.values != recipe.values:
            _renew(run, recipe, pipeline)
        return True
    if any((run.folder / "checkpoints").glob("checkpoint-*[0-9]")) and not resume:
        raise TrainingFault(
            f"{run.folder} holds an interrupted training of this recipe. "
            "Go on with --resume, or begin anew with --restart"
        )
    return False


def _renew(run: Run, recipe: Recipe, pipeline: TrainedPipeline) -> None:
    """Give a trained pipeline the sampling defaults of a recipe that differs in nothing else."""
    for place in (run.best, run.pipeline):
        if place.is_dir():
            trained = type(pipeline).from_pretrained(place)
            for name in pipeline.networks:
                getattr(pipeline, name).load_state_dict(getattr(trained, name).state_dict())
            save_pipeline(run, recipe, pipeline, place=place)
    recipe.save(run.folder / "recipe.yaml")


def _split(dataset: TrajectoryDataset, share: float, seed: int) -> tuple[TrajectoryDataset, TrajectoryDataset | None]:
    """Hold out a share of every task's episodes, at least one and never all, chosen by seed."""
    if not share:
        return dataset, None
    rng = np.random.default_rng(seed)
    held_out: list[int] = []
    for number, task in enumerate(dataset.tasks):
        mine = np.flatnonzero(dataset.task_index == number)
        if len(mine) < 2:
            raise MTDiffError(
                f"training.validation: task {task} has {len(mine)} episode, too few to hold one out; set it to 0"
            )
        count = min(max(1, round(share * len(mine))), len(mine) - 1)
        held_out += rng.permutation(mine)[:count].tolist()
    rest = np.setdiff1d(np.arange(len(dataset)), held_out)
    return dataset.subset(rest), dataset.subset(sorted(held_out))


def _size(dataset: TrajectoryDataset) -> dict[str, Any]:
    return {"tasks": list(dataset.tasks), "episodes": len(dataset), "steps": int(dataset.num_steps)}
