"""What an evaluation adds where tasks are maps: prompts of maps that are new, copied paths, drawings of plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mtdiff.evaluation.copy_path import CopyPathAgent
from mtdiff.evaluation.map_plans import draw_plans
from mtdiff.prompting import demonstrate as record_prompts
from mtdiff.sharding import evaluate_together
from mtdiff.world import on_main

if TYPE_CHECKING:
    from mtdiff.environments.suite import Suite
    from mtdiff.evaluation import Evaluation, EvaluationResult
    from mtdiff.pipelines.planner import PlannerPipeline
    from mtdiff.recipe import Recipe


def prepare(pipeline: PlannerPipeline, suite: Suite, recipe: Recipe, *, demonstrate: bool) -> None:
    """Let a planner know the suite's maps, and record the prompts that it lacks if it shall.

    Raises:
        DataError: a prompt cannot be one of its task's map, or none can be recorded.
        EnvironmentFault: the suite has no scripted experts, or its simulator failed.
    """
    pipeline.register_to_config(suite=dict(recipe.values["suite"]))
    if demonstrate:
        record_prompts(pipeline, suite, recipe.build("data"), count=recipe.get("sampling.prompts_per_task"))
    refuse: Any = getattr(suite, "refuse_prompt", None)
    known = [task for task in suite.tasks if task in pipeline.prompts] if refuse else []
    for task in known:
        for prompt in pipeline.prompts[task]:
            refuse(task, prompt.states.cpu().numpy())


def copied_paths(
    pipeline: PlannerPipeline, suite: Suite, settings: Evaluation, *, progress: bool
) -> Mapping[str, EvaluationResult]:
    """Run the agent that copies the prompt's path on the same episodes; nothing where no path can be copied."""
    if not hasattr(suite, "follower") or any(task not in pipeline.prompts for task in suite.tasks):
        return {}
    shown = {task: [prompt.states.cpu().numpy() for prompt in pipeline.prompts[task]] for task in suite.tasks}
    copier = CopyPathAgent(suite, shown)
    result = evaluate_together(copier, suite, settings=settings, progress=progress, label="copied paths")
    return {"copied path": result}


def drawn_plans(agent: Any, pipeline: PlannerPipeline, suite: Suite, settings: Evaluation) -> dict[str, str]:
    """Draw plans on the suite's maps; nothing where it has none."""
    from mtdiff.pipelines.agent import PlannerAgent

    if not hasattr(suite, "map") or pipeline.kind != "planner":
        return {}
    horizon = pipeline.representation.horizon
    opener = PlannerAgent(pipeline, execute=horizon)
    limits = {"max_steps": settings.max_steps, "workers": settings.workers}
    return on_main(lambda: draw_plans(agent, opener, suite, horizon=horizon, seed=settings.seed, **limits))
