"""What a recipe must satisfy beyond each value being of its type: every part can be built, and they fit together.

Parts are built for real, on torch's `meta` device, so that the limits a constructor states are the limits a recipe
is held to, and no list of them has to be kept here.
"""

from __future__ import annotations

from typing import Any

from mtdiff.argument_check import show
from mtdiff.errors import MTDiffError
from mtdiff.finetuning import check as check  # its rules
from mtdiff.fitting import Found, Values, noted, on_meta, roles_of, trial_encoders, trial_sizes, unmeasured
from mtdiff.recipe.check import rule
from mtdiff.registry import (
    BACKBONES,
    DATA,
    POLICIES,
    REPRESENTATIONS,
    SCHEDULERS,
    SUITES,
)


@rule
def parts_can_be_built(values: Values) -> Found:
    """Every part accepts its arguments, and the backbone fits the representation and the conditions."""
    from mtdiff.schedulers.noise import over_noise

    faults = list(unmeasured(values))
    if faults:
        yield from faults
        return
    for section, registry in (("suite", SUITES), ("data", DATA), ("scheduler", SCHEDULERS)):
        with noted(faults, section):
            if section in values:
                registry.build(values[section])
    solver = values["sampling"]["scheduler"]
    if (
        solver is not None
        and "scheduler" in values
        and not any(section.startswith("scheduler") for section, _ in faults)
    ):
        with noted(faults, "sampling.scheduler"):
            over_noise(SCHEDULERS.build(solver), SCHEDULERS.build(values["scheduler"]))
    roles = roles_of(trial_encoders(values, faults))
    if "policy" in values:
        with noted(faults, "policy"):
            on_meta(POLICIES, values["policy"], roles=roles, **trial_sizes(values))
        yield from faults
        return
    with noted(faults, "representation"):
        representation = on_meta(REPRESENTATIONS, values["representation"], **trial_sizes(values))
        sizes = {"channels": representation.channels, "horizon": representation.horizon, "roles": roles}
        sizes["pieces"] = representation.pieces
        with noted(faults, "backbone"):
            on_meta(BACKBONES, values["backbone"], **sizes)
    yield from faults


@rule
def pipeline_samples_what_is_diffused(values: Values) -> Found:
    """A planner diffuses actions, a synthesizer transitions, and it is told neither states nor a return."""
    if "representation" not in values:
        return
    kind, spec = values["pipeline"], values["representation"]
    sampled_by = {name: getattr(REPRESENTATIONS[name].target, "pipeline", "planner") for name in REPRESENTATIONS}
    if sampled_by[spec["name"]] != kind:
        fitting = [name for name, pipeline in sampled_by.items() if pipeline == kind]
        yield "representation.name", f"must be one that a {kind} samples ({', '.join(fitting)}), got {spec['name']}"
    if kind == "planner" or any(unmeasured(values)):
        return
    for role, part in trial_encoders(values, []).items():
        if {"history", "return"} & set(part.reads):
            name = values["conditioning"][role]["name"]
            yield f"conditioning.{role}", f"must be null, because a synthesizer is told its task alone, got {name}"


@rule
def a_policy_is_told_what_lasts(values: Values) -> Found:
    """A policy reads states itself."""
    if "policy" not in values or any(unmeasured(values)):
        return
    for role, part in trial_encoders(values, []).items():
        if part.lifetime == "plan":
            name = values["conditioning"][role]["name"]
            yield f"conditioning.{role}", f"must be null, because a policy reads states itself, got {name}"
    horizon = values["policy"].get("horizon", 1)
    if values["sampling"]["execute"] > horizon:
        yield "sampling.execute", f"must be at most policy.horizon={horizon}, got {values['sampling']['execute']}"


@rule
def what_is_written_belongs_to_a_task(values: Values) -> Found:
    """A synthesizer that is not told the task learns a single one."""
    if values["pipeline"] != "synthesizer" or any(unmeasured(values)):
        return
    faults: list[tuple[str, str]] = []
    reads = {field for part in trial_encoders(values, faults).values() for field in part.reads}
    tasks = trial_sizes(values)["num_tasks"]
    if not faults and tasks > 1 and not reads & {"prompt_states", "task"}:
        yield (
            "conditioning",
            f"must tell a synthesizer the task, because it learns {tasks} and what it writes would belong to none of "
            "them. Give conditioning.task an encoder, or name a single task in suite.tasks",
        )


@rule
def roles_can_live_together(values: Values) -> Found:
    """A role names a module of the model, and two roles that show prompts or histories show the same."""
    from torch import nn

    asked: dict[str, tuple[str, Any]] = {}
    for role in values["conditioning"]:
        if not role.isidentifier() or hasattr(nn.ModuleDict(), role):
            yield f"conditioning.{role}", "cannot be the name of a role. Take a word such as 'task'"
    if any(unmeasured(values)):
        return
    for role, part in trial_encoders(values, []).items():
        for key, value in part.window().items():
            first, other = asked.setdefault(key, (role, value))
            if other != value:
                yield (
                    f"conditioning.{role}",
                    f"must have the same {key} as conditioning.{first}, {show(other)}, got {show(value)}",
                )


@rule
def sampling_fits_training(values: Values) -> Found:
    """A plan is not sampled longer, or guided by more, than was trained."""
    if "scheduler" not in values:
        return
    sampling, scheduler = values["sampling"], values["scheduler"]
    timesteps = scheduler.get("num_train_timesteps", sampling["num_inference_steps"])
    if sampling["num_inference_steps"] > timesteps:
        yield (
            "sampling.num_inference_steps",
            f"must be at most scheduler.num_train_timesteps={timesteps}, got {sampling['num_inference_steps']}",
        )
    horizon = values["representation"].get("horizon", sampling["execute"])
    if values["pipeline"] == "planner" and sampling["execute"] > horizon:
        yield "sampling.execute", f"must be at most representation.horizon={horizon}, got {sampling['execute']}"
    withheld = [role for role, part in values["conditioning"].items() if part.get("dropout")]
    if sampling["guidance_scale"] != 1.0 and not withheld:
        roles = ", ".join(values["conditioning"]) or "none"
        yield (
            "sampling.guidance_scale",
            f"must be 1.0 without a condition that is trained with dropout, got {sampling['guidance_scale']}. "
            f"Give one of the conditions ({roles}) a dropout above 0",
        )


@rule
def scheduler_can_sample(values: Values) -> Found:
    """The scheduler that samples can do so in this many timesteps: not every solver can space every number."""
    from mtdiff.compose import sampling_scheduler
    from mtdiff.schedulers.solver import probe

    count, training = values["sampling"]["num_inference_steps"], values.get("scheduler")
    if training is None or any(unmeasured(values)) or count > training["num_train_timesteps"]:
        return
    try:
        scheduler = sampling_scheduler(values["sampling"]["scheduler"], training)
    except (ValueError, MTDiffError):
        return  # said by `parts_can_be_built`
    try:
        probe(scheduler, count)
    except ValueError as error:
        yield "sampling.num_inference_steps", str(error)


@rule
def sampling_asks_for_what_was_trained(values: Values) -> Found:
    """Nothing is asked of a plan that no condition of the model reads."""
    from mtdiff.pipelines.sampling import Sampling

    if any(unmeasured(values)):
        return
    encoders = trial_encoders(values, [])
    reads = {field for part in encoders.values() for field in part.reads}
    if "policy" in values:
        with noted([], "policy"):  # said by `parts_can_be_built`
            reads |= set(on_meta(POLICIES, values["policy"], roles=roles_of(encoders), **trial_sizes(values)).reads)
    sampling, default = values["sampling"], Sampling()
    for key, field, what in (
        ("target_return", "return", "a return"),
        ("prompt_policy", "prompt_states", "prompts"),
    ):
        if sampling[key] != getattr(default, key) and field not in reads:
            yield (
                f"sampling.{key}",
                f"must be {show(getattr(default, key))} without a condition that shows {what}, "
                f"got {show(sampling[key])}",
            )


@rule
def prompts_are_long_enough(values: Values) -> Found:
    """Prompt demonstrations exist, and have the steps that a prompt shows."""
    if any(unmeasured(values)):
        return
    windows = {role: part.window() for role, part in trial_encoders(values, []).items()}
    prompts = {role: window["prompt"] for role, window in windows.items() if "prompt" in window}
    data = values["data"]
    if not prompts or data.get("prompts_per_task") is None:  # not told: what a folder has, or who hands data over
        return
    if data["prompts_per_task"] < 1:
        role = next(iter(prompts))
        yield (
            "data.prompts_per_task",
            f"must be at least 1, because conditioning.{role} shows prompts, got {data['prompts_per_task']}",
        )
    for role, length in prompts.items():
        shortest = data.get("prompt_min_steps", length)
        if length > shortest:
            yield f"conditioning.{role}.length", f"must be at most data.prompt_min_steps={shortest}, got {length}"


@rule
def labels_reach_the_end_of_episodes(values: Values) -> Found:
    """A return that is divided by the steps still to come knows of as many as an episode can have."""
    longest = values["data"].get("steps") or values["suite"].get("max_steps")
    for role, spec in values["conditioning"].items():
        steps = spec.get("label_steps")
        if spec.get("label") == "remaining" and longest and steps and steps < longest:
            yield (
                f"conditioning.{role}.label_steps",
                f"must be at least the steps of an episode, {longest}, got {steps}",
            )
