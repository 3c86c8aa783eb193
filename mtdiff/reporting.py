"""Evaluate what was trained, keep what was found, and write the report page."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff.compose import set_sampling
from mtdiff.errors import EnvironmentFault, MTDiffError, choices
from mtdiff.evaluation import (
    Evaluation,
    Report,
    ScriptedAgent,
    Video,
    latency,
    record_all,
    swap,
    why_no_video,
    write_report,
)
from mtdiff.findings import Findings
from mtdiff.hub import Source, fetch, load, name_of, trusted
from mtdiff.prompting import show_prompts
from mtdiff.recipe import Recipe, load_recipe
from mtdiff.reporting_maps import copied_paths, drawn_plans, prepare
from mtdiff.runs import ROOT, Run, hardware, versions
from mtdiff.sharding import evaluate_together as evaluate
from mtdiff.world import on_main, planning_device

if TYPE_CHECKING:
    from mtdiff.environments.suite import Suite
    from mtdiff.pipelines.trained import TrainedPipeline

ALLOWED = ("suite", "sampling", "evaluation")
"""Sections that may differ from the ones a pipeline was trained with."""

_LATENCY_PLANS = 50
_FILMS = 50  # of as many tasks at most


def evaluate_trained(
    source: Source,
    overrides: Sequence[str] = (),
    *,
    root: Path = ROOT,
    again: bool = False,
    progress: bool = True,
    prompts: Mapping[str, Sequence[str | Path]] | None = None,
    demonstrate: bool = False,
    page: bool = True,
) -> tuple[Findings, Path]:
    """Evaluate a run or a saved pipeline and write its report page.

    The same evaluation of the same weights is not done twice.

    Args:
        source: a run's folder, a saved pipeline's, or a repository.
        overrides: changes of `suite.*`, `sampling.*` and `evaluation.*`, as on the command line.
        root: a pipeline that is not in a run has its findings in `<root>/evaluations`.
        again: evaluate even if the same evaluation was done before.
        progress: show bars on stderr.
        prompts: task to files of `mtdiff prompt make`, shown in the place of the planner's own prompts.
        demonstrate: let the suite's scripted experts record prompts for tasks that the planner has none for.
        page: write the report page.

    Returns:
        What was found, and the path of `report.html`.

    Raises:
        MTDiffError: if there is no pipeline, an override is of another section, a task has no prompt, or the suite
            has other states and actions than the pipeline was trained on.
        EnvironmentFault: the suite has no simulator, or it failed.
    """
    from mtdiff.pipelines import AGENTS

    folder = fetch(source)
    run = Run(folder.parent) if (folder.parent / "run.json").is_file() else None
    _refuse_other_sections(overrides)
    kept = folder / "recipe.yaml"
    # Before the pipeline, whose parts it may have to import.
    recipe = load_recipe(kept, overrides) if kept.is_file() else None
    pipeline = load(folder, trust_remote_code=trusted(source))
    kind = getattr(pipeline, "kind", "planner")
    if kind not in AGENTS:
        raise MTDiffError(
            f"{source}: is a {kind}, which writes data and does not act; only a planner or a policy can be evaluated"
        )
    pipeline = pipeline.to(planning_device())
    recipe = recipe or _recipe_of(pipeline, folder, overrides)
    set_sampling(pipeline, _changes(recipe))
    settings: Evaluation = recipe.build("evaluation")
    home = run.folder if run else root / "evaluations" / name_of(source, folder)
    shown = show_prompts(pipeline, prompts or {})
    place = home / "evaluation" / recipe.section_hash(*ALLOWED, fingerprint=_content(folder) + shown)

    agent: Any = AGENTS[kind](pipeline)
    findings = on_main(lambda: None if again else Findings.load(place))
    if findings is None:
        suite: Suite = recipe.build("suite")
        _refuse_other_sizes(pipeline, suite)
        for task in prompts or {}:
            if task not in suite.tasks:
                raise MTDiffError(f"prompt: {choices('task', task, suite.tasks)} Add it to suite.tasks=[...]")
        prepare(pipeline, suite, recipe, demonstrate=demonstrate)
        unknown = [task for task in suite.tasks if task not in pipeline.prompts]
        if pipeline.conditioning.reading("prompt_states") and unknown:
            raise MTDiffError(
                f"suite.tasks: this {kind} has no prompt for {', '.join(unknown)}; it has {', '.join(pipeline.prompts)}"
            )
        numbered = pipeline.conditioning.config.tasks if pipeline.conditioning.reading("task") else suite.tasks
        if unknown := [task for task in suite.tasks if task not in numbered]:
            raise MTDiffError(
                f"suite.tasks: this {kind} is told the task by its number and was not trained on "
                f"{', '.join(unknown)}; it knows {', '.join(numbered)}"
            )
        findings = _measure(pipeline, agent, suite, settings, place, progress=progress)
        on_main(findings.save)
    if not page:
        return findings, home / "report.html"
    prompted = pipeline.conditioning.reading("prompt_states") is not None
    mapped = pipeline.conditioning.reading("map") is not None
    told_by = "prompt" if prompted else "map" if mapped else "label" if agent.prompted else ""
    known = run is not None or kept.is_file()
    report = _report(findings, recipe, run, source, told_by=told_by, data=recipe.values["data"] if known else {})
    trained = pipeline.conditioning.config.tasks
    report = replace(report, unseen=[task for task in findings.drawings if task not in trained])
    return findings, on_main(lambda: write_report(home / "report.html", report))


def _measure(
    pipeline: TrainedPipeline, agent: Any, suite: Suite, settings: Evaluation, place: Path, *, progress: bool
) -> Findings:
    result = evaluate(agent, suite, settings=settings, progress=progress)
    swapped = demonstrator = None
    if settings.swapped_prompt and len(suite.tasks) > 1 and agent.prompted:
        told = swap(suite.tasks)
        swapped = evaluate(agent, suite, settings=settings, told=told, progress=progress, label="swapped prompts")
    if settings.demonstrator and getattr(suite, "has_demonstrator", True):
        expert = ScriptedAgent(suite)
        demonstrator = evaluate(expert, suite, settings=settings, progress=progress, label="scripted experts")
    others = copied_paths(pipeline, suite, settings, progress=progress) if settings.demonstrator else {}
    drawings = drawn_plans(agent, pipeline, suite, settings) if settings.videos else {}
    videos: dict[str, Video] = {}
    reason: str | None = "not asked for (evaluation.videos: false)"
    if settings.videos:
        reason = on_main(lambda: why_no_video(getattr(suite, "draws_with", "mujoco")))
    if reason is None:
        try:
            videos = on_main(lambda: record_all(agent, suite, suite.tasks[:_FILMS], seed=settings.seed))
        except EnvironmentFault as fault:  # what was measured is worth more than a film of it
            reason = re.sub(r"^slot \d+ \(.*?\): ", "", str(fault).partition("\n")[0])
    alone = on_main(lambda: plan_latency(agent, suite))
    return Findings(
        folder=place,
        result=result,
        swapped=swapped,
        demonstrator=demonstrator,
        latency={"one environment": alone, "during the evaluation": result.latency},
        versions=versions() | suite.versions(),
        hardware=hardware(),
        no_video_reason=reason,
        videos=videos,
        others=dict(others),
        drawings=drawings,
        sampling=pipeline.sampling,
    )


def plan_latency(agent: Any, suite: Suite, plans: int = _LATENCY_PLANS) -> dict[str, float] | None:
    """Time plans for a single environment: percentiles in seconds, after three that are not counted."""
    import numpy as np

    before = len(agent.plan_seconds)
    for count in range(plans + 3):
        agent.reset([suite.tasks[0]], [count])
        agent.act(np.zeros((1, suite.state_dim), dtype=np.float32), np.zeros(1, dtype=np.int64))
    return latency(agent.plan_seconds[before + 3 :])


def _refuse_other_sections(overrides: Sequence[str]) -> None:
    for override in overrides:
        section = override.partition("=")[0].partition(".")[0]
        if section not in ALLOWED:
            raise MTDiffError(
                f"command line: {override}: an evaluation can change {', '.join(ALLOWED)}, got {section}. "
                "Anything else needs training"
            )


def _refuse_other_sizes(pipeline: TrainedPipeline, suite: Suite) -> None:
    trained = pipeline.normalizer.config.state_dim, pipeline.normalizer.config.action_dim
    if (suite.state_dim, suite.action_dim) != trained:
        raise MTDiffError(
            f"suite: this {pipeline.kind} was trained on states of {trained[0]} numbers and actions of {trained[1]}, "
            f"and '{suite.name}' has {suite.state_dim} and {suite.action_dim}"
        )


def _recipe_of(pipeline: TrainedPipeline, folder: Path, overrides: Sequence[str]) -> Recipe:
    """A recipe that knows no more than the suite the pipeline was trained for."""
    if pipeline.config.suite is None and not any(override.startswith("suite") for override in overrides):
        raise MTDiffError(f"{folder}: does not say for which suite it was trained; add suite.tasks=...")
    return load_recipe({"suite": pipeline.config.suite or {}}, overrides)


def _changes(recipe: Recipe) -> dict[str, Any]:
    """The sampling arguments that were given on the command line; all others are the pipeline's own."""
    given = {
        key.split(".")[1]
        for key, _ in recipe.items()
        if key.startswith("sampling.") and recipe.origin(key) == "command line"
    }
    return {key: recipe.values["sampling"][key] for key in given}


def _content(folder: Path) -> str:
    """Digest of everything that makes a pipeline sample as it does."""
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.json")]):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _report(
    findings: Findings, recipe: Recipe, run: Run | None, source: Source, *, told_by: str, data: Mapping[str, Any]
) -> Report:
    """The page; `data` is the recipe's section of what the pipeline was trained on, empty if nobody knows."""
    from mtdiff.data.trajectories import TrajectoryDataset

    result, table = findings.result, []
    episodes, tasks = result.settings["episodes_per_task"], len(result.by_task)
    summary = f"{tasks} tasks, {episodes} episodes each" if tasks > 1 else f"{episodes} episodes of one task"
    origin = data.get("name")
    if run:
        size = run.info["data"]
        kept = Path(size["folder"]) if size["folder"] else None  # none if a program handed the data over
        if kept and kept.is_dir():
            dataset = TrajectoryDataset.load(kept)
            unknown = {"success"} if result.measure == "return" else set()
            table = [{key: row[key] for key in row if key not in unknown} for row in dataset.summary()]
            origin = dataset.metadata.get("data", {}).get("name", origin)
        summary += (
            f". Trained for {run.info['updates']:,} updates in {run.info['seconds'] / 60:.1f} min on "
            f"{size['episodes']} {'scripted ' if origin == 'collected' else ''}episodes ({size['steps']:,} steps)"
        )
    name = run.info["name"] if run else findings.folder.parents[1].name
    verb = "finetune" if run and "finetuned" in run.info else "train"
    return Report(
        title=f"{name}: {recipe.get('pipeline')} on {recipe.get('suite.name')}",
        summary=summary + ".",
        told_by=told_by,
        random_goals=findings.random_goals,
        result=result,
        swapped=findings.swapped,
        others={**({"scripted expert": findings.demonstrator} if findings.demonstrator else {}), **findings.others},
        drawings=findings.drawings,
        metrics=run.metrics if run else (),
        videos=findings.videos,
        no_video_reason=findings.no_video_reason,
        latency=findings.latency,
        data=table,
        recipe=recipe.to_yaml(),
        environment={"hardware": findings.hardware, **findings.versions},
        commands=[f"mtdiff evaluate {source}"] + ([f"mtdiff {verb} {run.folder}/recipe.yaml"] if run else []),
        notes=findings.notes(origin, told_by),
    )


def to_document(findings: Findings, report: Path) -> dict[str, Any]:
    """What `mtdiff evaluate --json` prints. `measure` says whether success or return is what was found."""
    result = findings.result.to_dict()
    document: dict[str, Any] = {
        "measure": findings.result.measure,
        "mean_success": result["mean_success"],
        "mean_interval": result["mean_interval"],
        "mean_return": findings.result.mean_return if findings.result.whole else None,
        "mean_return_interval": result.get("mean_return_interval"),
        "tasks": result["tasks"],
    }
    if scores := findings.result.scores():
        document["scores"] = scores
    if findings.others:
        document["others"] = {label: other.mean_success for label, other in findings.others.items()}
    for label, other in (("swapped", findings.swapped), ("demonstrator", findings.demonstrator)):
        counted = other is not None and other.measure == "success"
        document[f"{label}_mean_success"] = other.mean_success if other and counted else None
        document[f"{label}_mean_return"] = other.mean_return if other and other.whole else None
    return {
        **document,
        "latency": findings.latency,
        "settings": findings.result.settings,
        "hardware": findings.hardware,
        "versions": findings.versions,
        "report": str(report),
        "findings": str(findings.folder / "findings.json"),
        "no_video_reason": findings.no_video_reason,
    }
