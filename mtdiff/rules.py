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
    for section, registry in (("suite", SUITES), ("data", DATA), ("scheduler", SCHEDULERS)):
        with _collect(faults, section):
            registry.build(values[section])
    roles = [
        Role(name=name, num_tokens=part.num_tokens, lifetime=part.lifetime, added=part.added)
        for name, part in _encoders(values, faults).items()
    ]
    representation = None
    with torch.device("meta"):
        with _collect(faults, "representation"):
            representation = REPRESENTATIONS.build(values["representation"], **_sizes(values))
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
    windows = {role: part.window() for role, part in _encoders(values, []).items()}
    prompts = {role: window["prompt"] for role, window in windows.items() if "prompt" in window}
    data = values["data"]
    if not prompts or "prompts_per_task" not in data:
        return
    if data["prompts_per_task"] < 1:
        role = next(iter(prompts))
        yield (
            "data.prompts_per_task",
            f"at least 1, because conditioning.{role} shows prompts, got {data['prompts_per_task']}",
        )
    for role, length in prompts.items():
        if length > data["prompt_min_steps"]:
            yield (
                f"conditioning.{role}.length",
                f"at most data.prompt_min_steps={data['prompt_min_steps']}, got {length}",
            )


def _sizes(values: Values) -> dict[str, int]:
    """Widths to try parts with. An unknown suite must not hide what else is wrong: then any width serves."""
    try:
        suite = SUITES.build(values["suite"])
        dims = suite.state_dim, suite.action_dim
    except MTDiffError:
        dims = 1, 1
    return {"state_dim": dims[0], "action_dim": dims[1], "width": values["backbone"]["width"]}


def _encoders(values: Values, faults: list[tuple[str, str]]) -> dict[str, Any]:
    """The condition encoders that can be built, by role; what the others say goes into `faults`."""
    import torch

    sizes, parts = _sizes(values), {}
    with torch.device("meta"):
        for role, spec in values["conditioning"].items():
            with _collect(faults, f"conditioning.{role}"):
                parts[role] = CONDITIONING.build(spec, **sizes)
    return parts


@contextmanager
def _collect(faults: list[tuple[str, str]], section: str) -> Iterator[None]:
    """Turn a constructor's complaint, `argument: what is wrong`, into a problem at that argument."""
    try:
        yield
    except (ValueError, MTDiffError) as error:
        text = str(error).removeprefix(f"{section}.")
        match = re.match(r"(\w+): (.*)", text, re.DOTALL)
        faults.append((f"{section}.{match[1]}", match[2]) if match else (section, text))
