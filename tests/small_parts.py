"""Parts at a size for tests, and a batch for them. Everything is read from the registries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtdiff.conditioning import Conditioning
from mtdiff.data.normalizer import Normalization, Normalizer
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.data.windows import Windows
from mtdiff.registry import CONDITIONING, Part

STATE, ACTION, WIDTH, HORIZON, BATCH = 5, 3, 16, 6, 4
MAP = (4, 5)
TASKS = ("one", "two")
SIZES: dict[str, Any] = {
    "state_dim": STATE,
    "action_dim": ACTION,
    "num_tasks": len(TASKS),
    "width": WIDTH,
}  # of encoders
SIZES["map_shape"] = MAP
MODEL = {"state_dim": STATE, "action_dim": ACTION, "tasks": TASKS, "width": WIDTH, "map_shape": MAP}  # of all together

# Parts are tried small; a part that has no such argument is tried as it is.
SMALL = {
    "width": WIDTH,
    "num_layers": 2,
    "num_heads": 2,
    "inner": 24,
    "base": 8,
    "multipliers": [1, 2],
    "groups": 4,
    "hidden": [12],
    "length": 3,
    "spacing": "contiguous",  # the same for all that read prompts
    "horizon": HORIZON,
}

# Arguments worth trying that are not choices from a list, beside the choices, which are found by themselves.
WORTH_TRYING: dict[str, list[dict[str, Any]]] = {
    "gpt2": [{"actions_per_token": 2}, {"actions_per_token": HORIZON}],
    "surroundings": [{"goal": True}, {"path": False, "goal": True, "reach": 1}],
    "path_prompt": [{"relative": [0, 2]}, {"relative": [0, 2], "tokens": "steps"}],
    "tcn_prompt": [{"hidden": [12, 10], "kernel_size": 2}],
    "temporal_unet": [{"multipliers": [2]}, {"kernel_size": 3, "groups": 1}],
    "trajectory_prompt": [{"pool": 2}],
}


def small(part: Part, **arguments: Any) -> dict[str, Any]:
    """`part` as a recipe would name it, with small sizes."""
    fitting = {}
    for key, value in SMALL.items():
        problems = part.check({key: value})[1] if key in part.arguments else [((key,), "")]
        if not any(path[:1] == (key,) for path, _ in problems):
            fitting[key] = value
    return {"name": part.name, **fitting, **arguments}


def variants(part: Part) -> Iterator[dict[str, Any]]:
    """Small defaults; then every other choice and switch, one at a time."""
    yield small(part)
    for argument in part.arguments.values():
        choices: tuple[Any, ...] = ()
        if get_origin(argument.annotation) is Literal:
            choices = get_args(argument.annotation)
        elif argument.annotation is bool:
            choices = (True, False)
        yield from (small(part, **{argument.name: c}) for c in choices if c != argument.default)
    yield from (small(part, **arguments) for arguments in WORTH_TRYING.get(part.name, []))


def label(spec: Mapping[str, Any]) -> str:
    own = {k: v for k, v in spec.items() if k != "name" and SMALL.get(k) != v}
    return "-".join([spec["name"], *(f"{k}={v}" for k, v in own.items())])


def all_variants(registry: Any) -> list[Any]:
    return [pytest.param(spec, id=label(spec)) for name in registry for spec in variants(registry[name])]


ENCODERS = [small(CONDITIONING[name]) for name in CONDITIONING]
SUBSETS = [(), *((spec,) for spec in ENCODERS), tuple(ENCODERS)]


def scramble(module: nn.Module) -> nn.Module:
    """Move every parameter away from where it starts, so that no zero hides a path."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module


def trajectories(seed: int) -> TrajectoryDataset:
    random = np.random.default_rng(seed)
    lengths = (9, 12, 10, 15)
    return TrajectoryDataset.from_arrays(
        states=[random.normal(size=(n + 1, STATE)).astype(np.float32) for n in lengths],
        actions=[random.uniform(-1, 1, size=(n, ACTION)).astype(np.float32) for n in lengths],
        rewards=[random.normal(size=n).astype(np.float32) for n in lengths],
        tasks=[*TASKS] * 2,
    )


def build_conditioning(*specs: Mapping[str, Any], dropout: float = 0.25) -> Conditioning:
    """Every encoder in a role of its own; all can be withheld."""
    torch.manual_seed(0)
    roles = {f"as_{spec['name']}": {"dropout": dropout, **spec} for spec in specs}
    conditioning = Conditioning(roles=roles, **MODEL).eval()
    scramble(conditioning)
    return conditioning


def draw(conditioning: Conditioning, seed: int = 0, **more: Any) -> dict[str, Tensor]:
    """A batch with just the fields that the encoders ask the windows for, and `more`."""
    data = trajectories(0)
    windows = Windows(
        data,
        Normalizer.fit(data, Normalization(), rewards=True),
        horizon=HORIZON,
        prompts=trajectories(1),
        maps=np.random.default_rng(0).integers(-1, 2, (len(TASKS), *MAP)).astype(np.float32),
        **conditioning.window(),
        **more,
    )
    fields = windows.sample(BATCH // 2, torch.Generator().manual_seed(seed))
    if "return" in fields:  # all different and none zero, whichever windows were drawn
        fields["return"] = torch.linspace(0.2, 0.9, BATCH)[:, None]
    return fields


def assert_no_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
