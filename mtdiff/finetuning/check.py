"""What a recipe with a section `finetune` must satisfy besides: told before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mtdiff.errors import EnvironmentFault, MTDiffError, choices
from mtdiff.recipe.check import rule
from mtdiff.registry import CONDITIONING, SUITES

Found = Iterator[tuple[str, str]]


@rule
def a_planner_is_fine_tuned(values: dict[str, Any]) -> Found:
    """Only what acts can be fine-tuned, and it is told its task by its own copy of the weights alone."""
    if "finetune" not in values:
        return
    if values["pipeline"] != "planner":
        yield "finetune", f"must be left out, because only a planner can be fine-tuned, got a {values['pipeline']}"
        return
    for role, spec in values["conditioning"].items():
        reads = set(getattr(CONDITIONING[spec["name"]].target, "reads", ()))
        if not reads or reads - {"history", "present"}:
            yield (
                f"conditioning.{role}",
                "must be null, because what is fine-tuned sees states alone, and each task has its own copy, "
                f"got {spec['name']}",
            )
    if values["sampling"]["guidance_scale"] != 1.0:
        scale = values["sampling"]["guidance_scale"]
        yield "sampling.guidance_scale", f"must be 1.0, because what is fine-tuned is not guided, got {scale}"


@rule
def steps_of_what_is_fine_tuned_are_gaussian(values: dict[str, Any]) -> Found:
    """The sampling scheduler draws noise, and the timesteps that are learnt are among those that are sampled."""
    from mtdiff.compose import sampling_scheduler
    from mtdiff.finetuning.policy import require_gaussian
    from mtdiff.schedulers.solver import probe

    if "finetune" not in values or values["pipeline"] != "planner":
        return
    sampling, learnt = values["sampling"], values["finetune"]["timesteps"]
    count = sampling["num_inference_steps"]
    if learnt is not None and learnt > count:
        yield "finetune.timesteps", f"must be at most sampling.num_inference_steps={count}, got {learnt}"
    try:
        solver = probe(sampling_scheduler(sampling["scheduler"], values["scheduler"]), count)
    except (ValueError, KeyError, MTDiffError):
        return  # told by the rules of sampling
    name = (sampling["scheduler"] or values["scheduler"])["name"]
    try:
        require_gaussian(solver.stochastic, name)
    except ValueError as error:
        yield "sampling.scheduler", str(error).partition(": ")[2]


@rule
def a_task_to_be_fine_tuned_for_can_be_tried(values: dict[str, Any]) -> Found:
    """There is a simulator that rewards, it knows the tasks, and its episodes are as long as is asked for."""
    if "finetune" not in values or values["pipeline"] != "planner":
        return
    try:
        suite = SUITES.build(values["suite"])
    except (ValueError, MTDiffError):
        return  # told by the rule about parts
    try:
        longest = suite.max_steps
    except EnvironmentFault:
        yield (
            "suite",
            "must have a simulator that rewards what is tried, because fine-tuning learns from rewards, "
            f"got {suite.name}. Take another suite, or leave the section finetune out",
        )
        return
    settings = values["finetune"]
    if settings["max_steps"] and settings["max_steps"] > longest:
        yield "finetune.max_steps", f"must be at most {longest} ({suite.name}), got {settings['max_steps']}"
    for task in settings["tasks"] or ():
        if task not in suite.tasks:
            yield "finetune.tasks", choices("task", task, suite.tasks)
    if settings["reward"] == "success" and not getattr(suite, "has_success", True):
        yield "finetune.reward", f"must be environment, because {suite.name} knows no success, got success"
    each = (settings["max_steps"] or longest) * settings["rollouts_per_goal"]
    if settings["environment_steps"] < each:
        yield (
            "finetune.environment_steps",
            f"must be at least {each}, which the episodes of one goal can take, got {settings['environment_steps']}",
        )
