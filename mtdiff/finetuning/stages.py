"""Both stages: a pre-trained run, a fine-tuned copy of it per task, and one pipeline of all.

    <root>/runs/<recipe>-<hash>/                 stage one, an ordinary run
    <root>/finetuned/<task>-<hash>/              a copy: finetune.json, metrics.jsonl, checkpoints/, weights.safetensors
    <root>/runs/<recipe>_finetuned-<hash>/       the pipeline with its copies, a run as any other

A copy's hash covers all that decides it: the weights it begins with, suite, sampling, settings and task. So each is
trained once, whichever pipeline it becomes part of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff.compose import set_sampling
from mtdiff.compose import windows as windows_of
from mtdiff.errors import MTDiffError, RecipeError, TrainingFault
from mtdiff.finetuning.settings import FineTuning
from mtdiff.hub import load, pipeline_folder
from mtdiff.recipe import Recipe, load_recipe
from mtdiff.run_data import ROOT, load_data
from mtdiff.runs import Run, hardware, save_pipeline, train, versions
from mtdiff.whole import beside, discard, write_text, writing

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff.environments.suite import Suite
    from mtdiff.pipelines.planner import PlannerPipeline

SCHEMA = 1
ALLOWED = ("suite", "sampling", "evaluation", "finetune")
"""Sections in which the fine-tuning of a run may differ from what was pre-trained."""

DONE, WEIGHTS = "finetune.json", "weights.safetensors"
_TRAINED = ("backbone", "conditioning", "normalizer", "representation")


def finetune(
    source: str | Path | Recipe,
    overrides: Sequence[str] = (),
    *,
    root: Path | str = ROOT,
    resume: bool = False,
    restart: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Pre-train a recipe if that was not done, fine-tune a copy for each task, and save them as one pipeline.

    Args:
        source: a recipe, its file or name; or the folder of a run or a saved pipeline, which is then not pre-trained.
        overrides: `key=value`, as on the command line; for a run only in its sections `ALLOWED`.
        root: folder of data and runs.
        resume: go on with what was interrupted, in either stage.
        restart: throw away what was fine-tuned for these tasks with these settings; not what was pre-trained.
        workers: simulator processes.
        progress: show bars on stderr.

    Returns:
        `run`, `pipeline`, `pretrained` (folders) and `tasks`: by task what `finetune.json` says, and whether it was
        `reused`.

    Raises:
        RecipeError: see `mtdiff.finetuning.check`.
        TrainingFault: it was interrupted before and neither `resume` nor `restart` is given.
        MTDiffError: see `mtdiff.runs.train`.
    """
    root = Path(root)
    recipe, folder = _base(source, list(overrides), root=root, resume=resume, workers=workers)
    settings: FineTuning = recipe.build("finetune")
    pipeline = load(folder)
    if pipeline.kind != "planner":
        raise MTDiffError(f"{source}: is a {pipeline.kind}; only a planner can be fine-tuned")
    if pipeline.copies is not None:
        raise MTDiffError(f"{source}: is fine-tuned already. Give the run that it came from, or its recipe")
    set_sampling(pipeline, _changes(recipe))
    suite: Suite = recipe.build("suite")
    content = {"schema": SCHEMA, "weights": digest_of(folder), **_how(pipeline, suite, settings)}
    done, weights = {}, {}
    for task in settings.tasks or suite.tasks:
        place = root / "finetuned" / f"{task}-{_digest({**content, 'task': task})}"
        done[task] = _copy(
            pipeline, suite, task, settings, place, folder,
            content=content, resume=resume, restart=restart, workers=workers, progress=progress,
        )  # fmt: skip
        weights[task] = read_weights(place)
    run = _save(pipeline, recipe, folder, weights, done, root)
    return {"run": str(run.folder), "pipeline": str(run.pipeline), "pretrained": str(folder), "tasks": done}


def read_weights(place: Path) -> dict[str, Tensor]:
    """The weights of a finished copy."""
    from safetensors.torch import load_file

    return load_file(place / WEIGHTS)


def _base(
    source: str | Path | Recipe, overrides: list[str], *, root: Path, resume: bool, workers: int | None
) -> tuple[Recipe, Path]:
    """The recipe, and the folder of the pre-trained pipeline."""
    known = None
    if isinstance(source, Recipe):
        recipe = first_stage = source
    elif Path(source).expanduser().is_dir():
        known = pipeline_folder(source)
        assert known is not None
        if not (known / "recipe.yaml").is_file():
            raise MTDiffError(f"{source}: has no recipe.yaml, so nobody knows how it was trained")
        for override in overrides:
            section = override.partition("=")[0].partition(".")[0]
            if section not in ALLOWED:
                raise MTDiffError(
                    f"command line: {override}: the fine-tuning of a run can change {', '.join(ALLOWED)}, got "
                    f"{section}. Anything else needs pre-training"
                )
        first = [] if "finetune" in load_recipe(known / "recipe.yaml").values else ["finetune={}"]
        if any(override.startswith("suite.tasks") for override in overrides):
            first.append("finetune.tasks=null")  # those of the run's recipe may not be among these
        recipe = load_recipe(known / "recipe.yaml", [*first, *overrides])
    else:
        recipe = load_recipe(source, overrides)
        # What is said of copies here and now is no part of what they are copies of.
        first_stage = load_recipe(source, [one for one in overrides if not one.startswith("finetune")])
    if "finetune" not in recipe.values:
        raise RecipeError(f"{recipe.name}: has no section finetune. Add it, or finetune.environment_steps=100000 here")
    if known is None:
        known = train(first_stage, root=root, resume=resume, workers=workers).pipeline
    return recipe, known


def _changes(recipe: Recipe) -> dict[str, Any]:
    """Sampling arguments of the command line; all others are the pipeline's own."""
    keys = [key for key, _ in recipe.items() if key.startswith("sampling.") and recipe.origin(key) == "command line"]
    names = dict.fromkeys(key.split(".")[1] for key in keys)
    return {name: recipe.values["sampling"][name] for name in names if name != "prompts_per_task"}


def _how(pipeline: PlannerPipeline, suite: Suite, settings: FineTuning) -> dict[str, Any]:
    """All that decides the copies of a pre-trained pipeline, besides their tasks."""
    told = asdict(replace(settings, tasks=None, checkpoint_every=1))
    sampled = {key: value for key, value in pipeline.scheduler.config.items() if key != "_diffusers_version"}
    return {
        "suite": {key: value for key, value in suite.describe().items() if key != "tasks"},
        "sampling": {**pipeline.sampling, "config": json.loads(json.dumps(sampled, default=str))},
        "finetune": {key: value for key, value in told.items() if key not in ("tasks", "checkpoint_every")},
    }


def _copy(
    pipeline: PlannerPipeline,
    suite: Suite,
    task: str,
    settings: FineTuning,
    place: Path,
    base: Path,
    *,
    content: Mapping[str, Any],
    resume: bool,
    restart: bool,
    workers: int | None,
    progress: bool,
) -> dict[str, Any]:
    """Fine-tune for one task, unless that was done; what `finetune.json` says."""
    from safetensors.torch import save

    from mtdiff.environments.vector import VectorEnv
    from mtdiff.finetuning.tuner import Tuner

    if restart:
        discard(place)
    if (place / DONE).is_file() and (place / WEIGHTS).is_file():
        return {**json.loads((place / DONE).read_text(encoding="utf-8")), "reused": True}
    if any((place / "checkpoints").glob("checkpoint-*[0-9]")) and not resume:
        raise TrainingFault(
            f"{place} holds an interrupted fine-tuning. Go on with --resume, or begin anew with --restart"
        )
    limit = settings.max_steps or suite.max_steps
    slots = [task] * (settings.goals * settings.rollouts_per_goal)
    with VectorEnv(suite, slots, workers=workers) as environments:
        tuner = Tuner(
            pipeline, environments, task, settings,
            limit=limit, folder=place, progress=progress, windows=_pretraining(pipeline, settings, base),
        )  # fmt: skip
        outcome = tuner.run(resume=resume)
        weights = tuner.weights()
    pipeline.to("cpu")
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    with beside(place / WEIGHTS) as partial:
        partial.write_bytes(save(weights, metadata={"format": "pt", "task": task}))
    document = {
        "task": task,
        **outcome,
        "folder": str(place),
        "content": dict(content),
        "versions": versions() | suite.versions(),
        "hardware": hardware(),
    }
    write_text(place / DONE, json.dumps(document, indent=1) + "\n")
    discard(place / "checkpoints")
    return {**document, "reused": False}


def _pretraining(pipeline: PlannerPipeline, settings: FineTuning, base: Path) -> Any:
    """Windows of the data of stage one, where the regulariser reads them."""
    if settings.regularizer != "pretraining":
        return None
    run = Run(base.parent)
    folder = run.info["data"]["folder"] if (run.folder / "run.json").is_file() else None
    if folder is None or not Path(folder).is_dir():
        raise MTDiffError(f"finetune.regularizer: pretraining needs the data of stage one, which are not at {folder}")
    return windows_of(pipeline, *load_data(Path(folder)))


def _save(
    pipeline: PlannerPipeline,
    recipe: Recipe,
    base: Path,
    weights: Mapping[str, Mapping[str, Tensor]],
    done: Mapping[str, Mapping[str, Any]],
    root: Path,
) -> Run:
    """Put the copies into the pipeline, and save that as a run."""
    from mtdiff.pipelines.copies import TaskCopies

    before = Run(base.parent) if (base.parent / "run.json").is_file() else None
    info = dict(before.info) if before else {"data": {"folder": None}, "updates": 0, "seconds": 0.0}
    name = f"{info.get('name', recipe.name)}_finetuned"
    digest = _digest({task: [one["folder"].rpartition("-")[2]] for task, one in done.items()})
    run = Run(root / "runs" / f"{name}-{digest}")
    pipeline.register_modules(copies=TaskCopies.of(weights))
    pipeline.register_to_config(suite=dict(recipe.values["suite"]))
    with writing(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
    save_pipeline(run, recipe, pipeline)
    recipe.save(run.folder / "recipe.yaml")
    rows = before.metrics if before else []
    write_text(run.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    told = {task: {k: one[k] for k in ("environment_steps", "episodes", "updates", "seconds", "success", "folder")}
            for task, one in done.items()}  # fmt: skip
    info |= {
        "name": name,
        "hash": digest,
        "complete": True,
        "versions": versions(),
        "hardware": hardware(),
        "finetuned": {"pretrained": str(base), "tasks": told},
    }
    write_text(run.folder / "run.json", json.dumps(info, indent=2))
    return run


def digest_of(folder: Path) -> str:
    """Digest of the weights and numbers that fine-tuning begins with."""
    digest = hashlib.sha256()
    for path in sorted(path for part in _TRAINED for path in (folder / part).glob("*.safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
