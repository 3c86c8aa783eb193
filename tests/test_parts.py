"""What holds for every part in every registry: a new part is covered by being registered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_parts import (
    ACTION,
    BATCH,
    HORIZON,
    SIZES,
    all_variants,
    assert_no_change,
    build_conditioning,
    draw,
    small,
)

from mtdiff.errors import MTDiffError
from mtdiff.registry import BACKBONES, CONDITIONING, REGISTRIES, REPRESENTATIONS, SCHEDULERS, Part
from mtdiff.representations import Representation


@pytest.mark.parametrize("spec", all_variants(REPRESENTATIONS))
def test_representation_there_and_back(spec: Any, tmp_path: Path) -> None:
    representation = REPRESENTATIONS.build(spec, **SIZES)
    assert isinstance(representation, Representation)
    batch = draw(build_conditioning(small(CONDITIONING["history"])), **representation.window())
    copies = {name: value.clone() for name, value in batch.items()}
    x, weight = representation.encode(batch)
    assert_no_change(copies, batch)
    assert x.shape == weight.shape == (BATCH, representation.horizon, representation.channels)
    assert representation.bounds.shape == (representation.channels, 2)
    assert (representation.bounds[:, 0] < representation.bounds[:, 1]).all()
    representation.bounds.mul_(10)  # random windows pass those of actions
    for name, value in representation.decode(x).items():
        # The least changes of states are taken for none: a twentieth of their spread, which is 1 here, at every step.
        lost = 0.05 * value.shape[1] if name == "states" else 1e-5
        torch.testing.assert_close(value, batch[name][:, : value.shape[1]], rtol=1e-5, atol=lost)
    # Windows of actions are drawn at every step, so some pass the end of their episode, and are told apart.
    assert torch.equal(weight.amax(-1) > 0, batch["mask"])
    assert batch["mask"].all() == bool(representation.window())
    representation.save_pretrained(tmp_path)
    loaded = type(representation).from_pretrained(tmp_path)
    assert torch.equal(loaded.bounds, representation.bounds)
    assert (loaded.horizon, loaded.channels) == (representation.horizon, representation.channels)


# All parts.


@pytest.mark.parametrize("kind", REGISTRIES)
def test_registries_are_not_empty(kind: str) -> None:
    assert len(REGISTRIES[kind]) > 0


@pytest.mark.parametrize(
    "part", [pytest.param(r[name], id=f"{kind}-{name}") for kind, r in REGISTRIES.items() for name in r]
)
def test_every_argument_is_explained(part: Part) -> None:
    assert part.summary
    assert len(part.summary) < 110
    undocumented = [argument.name for argument in part.arguments.values() if not argument.doc]
    assert not undocumented
    assert part.model().model_json_schema()["additionalProperties"] is False
    required = {argument.name for argument in part.arguments.values() if argument.required}
    if part.kind not in ("suite", "data"):  # what is on the user's own disk has no default
        assert not required, "a bare name in a recipe must be enough"


def build(part: Part, arguments: Mapping[str, Any]) -> Any:
    sizes = SIZES | {"channels": ACTION, "horizon": HORIZON, "roles": []}
    sizes.pop("width" if part.kind == "backbone" else "horizon")
    if part.kind == "backbone":
        sizes["horizon"] = HORIZON
    return part.build(arguments, **sizes)


MATHEMATICAL = [r[name] for r in (BACKBONES, CONDITIONING, REPRESENTATIONS, SCHEDULERS) for name in r]


@pytest.mark.parametrize(
    ("part", "name"),
    [
        pytest.param(part, argument.name, id=f"{part.name}-{argument.name}")
        for part in MATHEMATICAL
        for argument in part.arguments.values()
        if argument.annotation in (int, float, int | None, float | None, tuple[int, ...])
        and (part.name, argument.name) != ("edm", "p_mean")  # a logarithm
    ],
)
def test_a_negative_number_is_refused_by_name(part: Part, name: str) -> None:
    """So that a recipe's checker can show the line."""
    value = [-1] if part.arguments[name].annotation == tuple[int, ...] else -1
    with pytest.raises((ValueError, MTDiffError), match=rf"^([\w., ]+, |[\w.]+\.)?{name}[:,].*-1"):
        build(part, {name: value})


@pytest.mark.parametrize(
    ("part", "arguments", "message"),
    [
        (BACKBONES["gpt2"], {"num_heads": 0}, "num_heads: must be at least 1, got 0"),
        (BACKBONES["residual_mlp"], {"width": 15}, "width: must be even for a timestep embedding, got 15"),
        (BACKBONES["residual_mlp"], {"expansion": 0}, "expansion: must be at least 1, got 0"),
        (BACKBONES["residual_mlp"], {"num_layers": 0}, "num_layers: must be at least 1, got 0"),
        (BACKBONES["residual_mlp"], {"dropout": 1.0}, "dropout: must be at least 0 and below 1, got 1.0"),
        (CONDITIONING["history"], {"length": 0}, "length: must be at least 1, got 0"),
        (CONDITIONING["history"], {"dropout": 1.0}, "dropout: must be at least 0 and below 1, got 1.0"),
        (CONDITIONING["history"], {"hidden": [8, 0]}, "hidden: every width must be at least 1, got 8, 0"),
        (
            CONDITIONING["target_return"],
            {"dropout": -0.1},
            "dropout: must be at least 0 and below 1, got -0.1",
        ),
        (BACKBONES["temporal_unet"], {"width": 15}, "width: must be even for a timestep embedding, got 15"),
        (BACKBONES["temporal_unet"], {"kernel_size": 4}, "kernel_size: must be odd, got 4"),
        (BACKBONES["temporal_unet"], {"base": 20}, "base: must be a multiple of groups=8, got 20"),
        (BACKBONES["temporal_unet"], {"multipliers": []}, "multipliers: must be one or more numbers of at least 1, "
            "got none"),
        (BACKBONES["temporal_unet"], {"multipliers": [1, 0]}, "multipliers: must be one or more numbers of at least 1, "
            "got 1, 0"),
        (BACKBONES["temporal_unet"], {"multipliers": [1, 2, 4]}, "multipliers: 3 levels need a horizon that is a "
            "multiple of 4, such as 4 or 8, and the horizon is 6. Change it, or name at most 2 multipliers"),
        (BACKBONES["temporal_unet"], {"multipliers": [1, 1, 1, 1]}, "multipliers: 4 levels need a horizon that is a "
            "multiple of 8, such as 8, and the horizon is 6. Change it, or name at most 2 multipliers"),
        (CONDITIONING["tcn_prompt"], {"length": 0}, "length: must be at least 1, got 0"),
        (CONDITIONING["tcn_prompt"], {"kernel_size": 1}, "kernel_size: must be at least 2, got 1"),
        (CONDITIONING["tcn_prompt"], {"hidden": []}, "hidden: must be one or more widths of at least 1, got none"),
        (CONDITIONING["tcn_prompt"], {"hidden": [8, 0]}, "hidden: must be one or more widths of at least 1, got 8, 0"),
        (CONDITIONING["tcn_prompt"], {"length": 30}, "hidden: 3 levels of kernel_size=3 read 29 steps, which is fewer "
            "than length=30; the first steps of a prompt would be ignored. Add a level"),
        (CONDITIONING["trajectory_prompt"], {"length": 0}, "length: must be at least 1, got 0"),
        (CONDITIONING["trajectory_prompt"], {"latest_start": 3, "spacing": "even"}, "latest_start: must be null where "
            "spacing is 'even', got 3"),
        (REPRESENTATIONS["actions"], {"first_weight": -1.0}, "first_weight: must be a finite number of at least 0, "
            "got -1.0"),
        (
            CONDITIONING["trajectory_prompt"],
            {"length": 4, "pool": 5},
            "pool: must be between 1 and length=4, or null, got 5",
        ),
        (REPRESENTATIONS["actions"], {"horizon": 0}, "horizon: must be at least 1, got 0"),
        (SCHEDULERS["ddpm"], {"num_train_timesteps": 0}, "num_train_timesteps: must be at least 1, got 0"),
        (SCHEDULERS["ddim"], {"eta": 1.01}, "eta: must be between 0 and 1, got 1.01"),
    ],
)  # fmt: skip
def test_out_of_range_arguments(part: Part, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(part, arguments)
