"""The contract of backbones, for each in the registry with no condition, each condition alone, and all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_parts import (
    ACTION,
    BATCH,
    ENCODERS,
    HORIZON,
    SUBSETS,
    WIDTH,
    all_variants,
    assert_no_change,
    build_conditioning,
    draw,
    scramble,
)
from torch import Tensor

from mtdiff.backbones import Backbone
from mtdiff.conditioning import Conditioning
from mtdiff.diffusion import Denoiser
from mtdiff.registry import BACKBONES

every_backbone = pytest.mark.parametrize("backbone_spec", all_variants(BACKBONES))
every_subset = pytest.mark.parametrize(
    "encoders", [pytest.param(s, id="+".join(e["name"] for e in s) or "none") for s in SUBSETS]
)


def build_backbone(spec: Mapping[str, Any], conditioning: Conditioning, **arguments: Any) -> Backbone:
    torch.manual_seed(0)
    backbone = BACKBONES.build({**spec, **arguments}, channels=ACTION, horizon=HORIZON, roles=conditioning.roles)
    scramble(backbone)
    return backbone.eval()


def noisy(seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, HORIZON, ACTION, generator=generator), torch.tensor([0, 3, 57, 199])


def half_dropped(conditioning: Conditioning) -> dict[str, Tensor]:
    """For every role, withheld from some samples and told to the others."""
    masks = itertools.cycle(([True, False, False, True], [False, True, False, True]))
    return {role.name: torch.tensor(mask) for role, mask in zip(conditioning.roles, masks, strict=False)}


@every_subset
@every_backbone
def test_every_pair_composes_and_learns(backbone_spec: Any, encoders: Any) -> None:
    conditioning = build_conditioning(*encoders)
    denoiser = Denoiser(build_backbone(backbone_spec, conditioning), conditioning)
    fields, drop = draw(conditioning), half_dropped(conditioning)
    x, timestep = noisy()
    given = {**fields, **{f"drop {k}": v for k, v in drop.items()}, "x": x, "timestep": timestep}
    copies = {name: value.clone() for name, value in given.items()}
    out = denoiser(x, timestep, fields, drop)
    assert out.shape == x.shape
    assert out.isfinite().all()
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(4))).sum().backward()
    assert_no_change(copies, given)
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias may have none by design: softmax does not feel one that all keys share.
        assert parameter.ndim < 2 or parameter.grad.any(), name


@every_backbone
def test_saved_and_loaded_backbone_gives_equal_bits(backbone_spec: Any, tmp_path: Path) -> None:
    conditioning = build_conditioning(*ENCODERS)
    backbone = build_backbone(backbone_spec, conditioning)
    conditioning.save_pretrained(tmp_path / "conditioning")
    backbone.save_pretrained(tmp_path / "backbone")
    assert not list(tmp_path.rglob("*.bin"))
    for folder in ("conditioning", "backbone"):
        assert isinstance(json.loads((tmp_path / folder / "config.json").read_text()), dict)
    loaded_conditioning = Conditioning.from_pretrained(tmp_path / "conditioning")
    loaded = type(backbone).from_pretrained(tmp_path / "backbone")
    assert loaded_conditioning.roles == conditioning.roles
    assert loaded_conditioning.window() == conditioning.window()
    for name, value in backbone.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    fields, (x, timestep) = draw(conditioning), noisy()
    with torch.no_grad():
        before = backbone(x, timestep, conditioning(fields, half_dropped(conditioning)))
        after = loaded(x, timestep, loaded_conditioning(fields, half_dropped(conditioning)))
    assert torch.equal(before, after)
    # A second generation is the same once more: the configuration is complete.
    loaded.save_pretrained(tmp_path / "again")
    assert (
        json.loads((tmp_path / "again" / "config.json").read_text()).items()
        >= {
            k: v
            for k, v in json.loads((tmp_path / "backbone" / "config.json").read_text()).items()
            if not k.startswith("_")
        }.items()
    )


@every_backbone
def test_evaluation_is_deterministic_and_dropout_is_not(backbone_spec: Any) -> None:
    conditioning = build_conditioning(*ENCODERS)
    part = BACKBONES[backbone_spec["name"]]
    dropout = {"dropout": 0.5} if "dropout" in part.arguments else {}
    backbone = build_backbone(backbone_spec, conditioning, **dropout)
    (x, timestep), condition = noisy(), conditioning(draw(conditioning))
    with torch.no_grad():
        assert torch.equal(backbone(x, timestep, condition), backbone(x, timestep, condition))
        backbone.train()
        if dropout:
            assert not torch.equal(backbone(x, timestep, condition), backbone(x, timestep, condition))


@every_backbone
def test_samples_of_a_batch_do_not_meet(backbone_spec: Any) -> None:
    conditioning = build_conditioning(*ENCODERS)
    backbone = build_backbone(backbone_spec, conditioning)
    fields, (x, timestep) = draw(conditioning), noisy()
    with torch.no_grad():
        together = backbone(x, timestep, conditioning(fields))
        alone = [
            backbone(x[b : b + 1], timestep[b : b + 1], conditioning({k: v[b : b + 1] for k, v in fields.items()}))
            for b in range(BATCH)
        ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


@every_backbone
def test_x_the_timestep_and_every_condition_matter(backbone_spec: Any) -> None:
    conditioning = build_conditioning(*ENCODERS)
    backbone = build_backbone(backbone_spec, conditioning)
    fields, (x, timestep) = draw(conditioning), noisy()
    with torch.no_grad():
        before = backbone(x, timestep, conditioning(fields))
        others = {"x": backbone(noisy(9)[0], timestep, conditioning(fields))}
        others["timestep"] = backbone(x, timestep.flip(0), conditioning(fields))
        for role in conditioning.roles:
            withheld = {role.name: torch.ones(BATCH, dtype=torch.bool)}
            others[role.name] = backbone(x, timestep, conditioning(fields, withheld))
    for name, after in others.items():
        assert ((after - before).abs().amax((1, 2)) > 1e-5).all(), name


@torch.no_grad()
@every_subset
@every_backbone
def test_causal_backbones_plan_prefixes(backbone_spec: Any, encoders: Any) -> None:
    conditioning = build_conditioning(*encoders)
    backbone = build_backbone(backbone_spec, conditioning)
    (x, timestep), condition = noisy(), conditioning(draw(conditioning))
    whole, grain = backbone(x, timestep, condition), backbone.granularity
    assert HORIZON % grain == 0
    if not backbone.causal:  # such a backbone reads all of x: the end reaches the beginning
        changed = torch.cat([x[:, :-1], x[:, -1:] + 1], dim=1)
        assert ((backbone(changed, timestep, condition) - whole)[:, 0].abs().amax(-1) > 0).all()
        return
    for length in range(grain, HORIZON + 1, grain):
        prefix = backbone(x[:, :length], timestep, condition)
        torch.testing.assert_close(prefix, whole[:, :length], rtol=1e-4, atol=1e-5)
        changed = torch.cat([x[:, :length], x[:, length:] + 1], dim=1)
        after = backbone(changed, timestep, condition)
        assert torch.equal(after[:, :length], whole[:, :length])
        assert length == HORIZON or not torch.equal(after[:, length:], whole[:, length:])


@torch.no_grad()
@pytest.mark.parametrize("branches", [1, 2])
@every_subset
@every_backbone
def test_prepared_equals_plain(backbone_spec: Any, encoders: Any, branches: int) -> None:
    conditioning = build_conditioning(*encoders)
    backbone = build_backbone(backbone_spec, conditioning)
    once = draw(conditioning)
    fields = {name: torch.cat([value] * branches) for name, value in once.items()}
    second = torch.arange(branches * BATCH) >= BATCH
    drop = dict.fromkeys(conditioning.droppable, second) if branches == 2 else None
    timesteps = (199, 57, 0)
    predict = backbone.prepare(conditioning(fields, drop), timesteps, branches)
    for i, timestep in enumerate(timesteps):
        x = noisy(i)[0]
        got = predict(x, i)
        assert got.shape == (branches, *x.shape)
        at = torch.full((BATCH,), timestep)
        torch.testing.assert_close(got[0], backbone(x, at, conditioning(once)), rtol=1e-4, atol=1e-5)
        if branches == 2:
            none = conditioning(once, dict.fromkeys(conditioning.droppable, torch.ones(BATCH, dtype=torch.bool)))
            torch.testing.assert_close(got[1], backbone(x, at, none), rtol=1e-4, atol=1e-5)


@every_backbone
def test_a_backbone_has_what_a_recipe_and_a_pipeline_rely_on(backbone_spec: Any) -> None:
    part = BACKBONES[backbone_spec["name"]]
    assert "width" in part.arguments
    assert set(part.runtime) <= {"channels", "horizon", "roles", "pieces"}
    backbone = build_backbone(backbone_spec, build_conditioning())
    assert isinstance(backbone, Backbone)
    assert backbone.config.width == WIDTH
    with torch.device("meta"):  # how a recipe is checked
        BACKBONES.build(backbone_spec, channels=ACTION, horizon=HORIZON, roles=build_conditioning().roles)
