"""Evaluate what was trained, keep what was found, and write the report page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff.compose import set_sampling
from mtdiff.errors import MTDiffError
from mtdiff.evaluation import (
    Evaluation,
    EvaluationResult,
    Report,
    ScriptedAgent,
    Video,
    evaluate,
    latency,
    record_all,
    swap,
    why_no_video,
    write_report,
)
from mtdiff.hub import load, pipeline_folder
from mtdiff.recipe import Recipe, load_recipe, write_text
from mtdiff.runs import ROOT, Run, hardware, versions

if TYPE_CHECKING:
    from mtdiff.environments.suite import Suite
    from mtdiff.pipelines.planner import PlannerPipeline

ALLOWED = ("suite", "sampling", "evaluation")
"""Sections that may differ from the ones a pipeline was trained with."""

_LATENCY_PLANS = 50


@dataclass(kw_only=True)
class Findings:
    """Everything an evaluation of a pipeline found. Written to and read from `folder`.

    Attributes:
        folder: where it is kept.
        result: success with each task's own prompt.
        swapped: success with the next task's prompt, if it was asked for.
        demonstrator: success of the scripted experts on the same episodes, if it was asked for.
        latency: percentiles of one plan for one environment, and of the plans of the evaluation.
        videos: films by task.
        no_video_reason: why there are none.
        versions: of the packages it was measured with.
        hardware: that it was measured on.
    """

    folder: Path
    result: EvaluationResult
    swapped: EvaluationResult | None
    demonstrator: EvaluationResult | None
    latency: dict[str, dict[str, float] | None]
    versions: dict[str, str]
    hardware: str
    no_video_reason: str | None = None
    videos: dict[str, Video] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; films are named, not contained."""
        return {
            "result": self.result.to_dict(),
            "swapped": self.swapped.to_dict() if self.swapped else None,
            "demonstrator": self.demonstrator.to_dict() if self.demonstrator else None,
            "latency": self.latency,
            "versions": self.versions,
            "hardware": self.hardware,
            "no_video_reason": self.no_video_reason,
            "videos": {task: {"success": v.success, "steps": v.steps} for task, v in self.videos.items()},
        }

    def save(self) -> None:
        """Write the films, then the numbers: a folder with numbers is complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for task, video in self.videos.items():
            (self.folder / f"{task}.mp4").write_bytes(video.mp4)
        write_text(self.folder / "findings.json", json.dumps(self.to_dict(), indent=1))

    @classmethod
    def load(cls, folder: Path) -> Findings | None:
        """Read it again, or None if the folder holds nothing complete."""
        path = folder / "findings.json"
        if not path.is_file():
            return None
        found = json.loads(path.read_text())
        films = {task: folder / f"{task}.mp4" for task in found["videos"]}
        if not all(film.is_file() for film in films.values()):
            return None
        results = {
            name: EvaluationResult.from_dict(found[name]) if found[name] else None
            for name in ("result", "swapped", "demonstrator")
        }
        assert results["result"] is not None
        return cls(
            folder=folder,
            result=results["result"],
            swapped=results["swapped"],
            demonstrator=results["demonstrator"],
            latency=found["latency"],
            versions=found["versions"],
            hardware=found["hardware"],
            no_video_reason=found["no_video_reason"],
            videos={task: Video(mp4=films[task].read_bytes(), **found["videos"][task]) for task in films},
        )


def evaluate_trained(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    root: Path = ROOT,
    again: bool = False,
    progress: bool = True,
) -> tuple[Findings, Path]:
    """Evaluate a run or a saved pipeline and write its report page.

    The same evaluation of the same weights is not done twice.

    Args:
        source: a run's folder or a saved pipeline's.
        overrides: changes of `suite.*`, `sampling.*` and `evaluation.*`, as on the command line.
        root: a pipeline that is not in a run has its findings in `<root>/evaluations`.
        again: evaluate even if the same evaluation was done before.
        progress: show bars on stderr.

    Returns:
        What was found, and the path of `report.html`.

    Raises:
        MTDiffError: if there is no pipeline, an override is of another section, or a task has no prompt.
    """
    from mtdiff.pipelines.agent import PlannerAgent

    folder = pipeline_folder(source)
    if folder is None:
        raise MTDiffError(f"{source}: no such run or pipeline folder")
    run = Run(folder.parent) if (folder.parent / "run.json").is_file() else None
    _refuse_other_sections(overrides)
    kept = folder / "recipe.yaml"
    # Before the pipeline, whose parts it may have to import.
    recipe = load_recipe(kept, overrides) if kept.is_file() else None
    pipeline = load(folder)
    recipe = recipe or _recipe_of(pipeline, folder, overrides)
    set_sampling(pipeline, _changes(recipe))
    settings: Evaluation = recipe.build("evaluation")
    home = run.folder if run else root / "evaluations" / folder.name
    place = home / "evaluation" / recipe.section_hash(*ALLOWED, fingerprint=_content(folder))

    findings = None if again else Findings.load(place)
    if findings is None:
        suite: Suite = recipe.build("suite")
        unknown = [task for task in suite.tasks if task not in pipeline.prompts]
        if pipeline.conditioning.reading("prompt_states") and unknown:
            raise MTDiffError(
                f"suite.tasks: this planner has no prompt for {', '.join(unknown)}; "
                f"it has {', '.join(pipeline.prompts)}"
            )
        agent = PlannerAgent(pipeline)
        findings = _measure(pipeline, agent, suite, settings, place, progress=progress)
        findings.save()
    report = write_report(home / "report.html", _report(findings, recipe, run, source))
    return findings, report


def _measure(
    pipeline: PlannerPipeline, agent: Any, suite: Suite, settings: Evaluation, place: Path, *, progress: bool
) -> Findings:
    result = evaluate(agent, suite, settings=settings, progress=progress)
    swapped = demonstrator = None
    if settings.swapped_prompt and len(suite.tasks) > 1 and agent.prompted:
        told = swap(suite.tasks)
        swapped = evaluate(agent, suite, settings=settings, told=told, progress=progress, label="swapped prompts")
    if settings.demonstrator:
        expert = ScriptedAgent(suite)
        demonstrator = evaluate(expert, suite, settings=settings, progress=progress, label="scripted experts")
    reason = "not asked for (evaluation.videos: false)" if not settings.videos else why_no_video()
    return Findings(
        folder=place,
        result=result,
        swapped=swapped,
        demonstrator=demonstrator,
        latency={"one environment": plan_latency(agent, suite), "during the evaluation": result.latency},
        versions=versions() | suite.versions(),
        hardware=hardware(),
        no_video_reason=reason,
        videos=record_all(agent, suite, seed=settings.seed) if reason is None else {},
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


def _recipe_of(pipeline: PlannerPipeline, folder: Path, overrides: Sequence[str]) -> Recipe:
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


def _report(findings: Findings, recipe: Recipe, run: Run | None, source: str | Path) -> Report:
    from mtdiff.data.trajectories import TrajectoryDataset

    tasks = findings.result.by_task
    data: list[dict[str, Any]] = []
    summary = f"{len(tasks)} tasks, {findings.result.settings['episodes_per_task']} episodes each"
    if run:
        kept = Path(run.info["data"]["folder"])
        data = TrajectoryDataset.load(kept).summary() if kept.is_dir() else []
        size = run.info["data"]
        summary += (
            f". Trained for {run.info['updates']:,} updates in {run.info['seconds'] / 60:.1f} min on "
            f"{size['episodes']} scripted episodes ({size['steps']:,} steps)"
        )
    name = run.info["name"] if run else findings.folder.parents[1].name
    others = {"scripted expert": findings.demonstrator} if findings.demonstrator else {}
    return Report(
        title=f"{name}: {recipe.get('pipeline')} on {recipe.get('suite.name')}",
        summary=summary + ".",
        result=findings.result,
        swapped=findings.swapped,
        others=others,
        metrics=run.metrics if run else (),
        videos=findings.videos,
        no_video_reason=findings.no_video_reason,
        latency=findings.latency,
        data=data,
        recipe=recipe.to_yaml(),
        environment={"hardware": findings.hardware, **findings.versions},
        commands=[f"mtdiff evaluate {source}"] + ([f"mtdiff train {run.folder}/recipe.yaml"] if run else []),
        notes=[
            "Every evaluation episode has a random goal that is in neither the training data nor the prompts.",
            "Swapped prompt: the same episodes while the planner is shown the next task's demonstration. "
            "Where success stays high, the state alone gives the task away.",
            "The data come from scripted experts, not from an agent's replay buffer: "
            "the numbers do not compare with the paper's.",
        ],
    )


def to_document(findings: Findings, report: Path) -> dict[str, Any]:
    """What `mtdiff evaluate --json` prints."""
    tasks = {task: asdict(row) for task, row in findings.result.by_task.items()}
    return {
        "mean_success": findings.result.mean_success,
        "mean_interval": findings.result.mean_interval,
        "tasks": tasks,
        "swapped_mean_success": findings.swapped.mean_success if findings.swapped else None,
        "demonstrator_mean_success": findings.demonstrator.mean_success if findings.demonstrator else None,
        "latency": findings.latency,
        "settings": findings.result.settings,
        "hardware": findings.hardware,
        "versions": findings.versions,
        "report": str(report),
        "findings": str(findings.folder / "findings.json"),
        "no_video_reason": findings.no_video_reason,
    }
