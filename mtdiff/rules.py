"""What a recipe must satisfy beyond each value being of its type: every part can be built, and they fit together.

Parts are built for real, on torch's `meta` device, so that the limits a constructor states are the limits a recipe
is held to, and no list of them has to be kept here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mtdiff.errors import MTDiffError
from mtdiff.recipe.check import rule
from mtdiff.registry import BACKBONES, CONDITIONING, DATA, REPRESENTATIONS, SCHEDULERS, SUITES

Values = dict[str, Any]
Found = Iterator[tuple[str, str]]


@rule
def parts_can_be_built(values: Values) -> Found:
    """Every part accepts its arguments, and the backbone fits the representation and the conditions."""
    import torch

    from mtdiff.conditioning.encoder import Role

    faults: list[tuple[str, str]] = []
    suite = None
    with _collect(faults, "suite"):
        suite = SUITES.build(values["suite"])
    with _collect(faults, "data"):
        DATA.build(values["data"])
    with _collect(faults, "scheduler"):
        SCHEDULERS.build(values["scheduler"])
    # An unknown suite must not hide what else is wrong: any width serves to try the rest.
    state_dim, action_dim = (suite.state_dim, suite.action_dim) if suite is not None else (1, 1)
    sizes = {"state_dim": state_dim, "action_dim": action_dim, "width": values["backbone"]["width"]}
    roles, representation = [], None
    with torch.device("meta"):
        for name, spec in values["conditioning"].items():
            with _collect(faults, f"conditioning.{name}"):
                part = CONDITIONING.build(spec, **sizes)
                roles.append(
                    Role(name=name, num_tokens=part.num_tokens, lifetime=part.lifetime, added=part.added)
                )
        with _collect(faults, "representation"):
            representation = REPRESENTATIONS.build(values["representation"], **sizes)
        if representation is not None:
            with _collect(faults, "backbone"):
                BACKBONES.build(
                    values["backbone"],
                    channels=representation.channels,
                    horizon=representation.horizon,
                    roles=roles,
                )
    yield from faults


@rule
def sampling_fits_training(values: Values) -> Found:
    """A plan is not sampled longer, or guided by more, than was trained."""
    sampling, timesteps = values["sampling"], values["scheduler"]["num_train_timesteps"]
    if sampling["num_inference_steps"] > timesteps:
        yield (
            "sampling.num_inference_steps",
            f"at most scheduler.num_train_timesteps={timesteps}, got {sampling['num_inference_steps']}",
        )
    horizon = values["representation"]["horizon"]
    if sampling["execute"] > horizon:
        yield "sampling.execute", f"at most representation.horizon={horizon}, got {sampling['execute']}"
    withheld = [role for role, part in values["conditioning"].items() if part.get("dropout")]
    if sampling["guidance_scale"] != 1.0 and not withheld:
        roles = ", ".join(values["conditioning"]) or "none"
        yield (
            "sampling.guidance_scale",
            f"only 1.0 without a condition that is trained with dropout, got {sampling['guidance_scale']}. "
            f"Give one of the conditions ({roles}) a dropout above 0",
        )


@rule
def prompts_are_long_enough(values: Values) -> Found:
    """Prompt demonstrations exist, and have the steps that a prompt shows."""
    prompts = {r: p for r, p in values["conditioning"].items() if p["name"] == "trajectory_prompt"}
    data = values["data"]
    if not prompts or "prompts_per_task" not in data:
        return
    if data["prompts_per_task"] < 1:
        role = next(iter(prompts))
        yield (
            "data.prompts_per_task",
            f"at least 1, because conditioning.{role} shows prompts, got {data['prompts_per_task']}",
        )
    for role, part in prompts.items():
        if part["length"] > data["prompt_min_steps"]:
            yield (
                f"conditioning.{role}.length",
                f"at most data.prompt_min_steps={data['prompt_min_steps']}, got {part['length']}",
            )


@contextmanager
def _collect(faults: list[tuple[str, str]], section: str) -> Iterator[None]:
    """Turn a constructor's complaint, `argument: what is wrong`, into a problem at that argument."""
    try:
        yield
    except (ValueError, MTDiffError) as error:
        text = str(error).removeprefix(f"{section}.")
        match = re.match(r"(\w+): (.*)", text, re.DOTALL)
        faults.append((f"{section}.{match[1]}", match[2]) if match else (section, text))
