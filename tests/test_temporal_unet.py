"""The U-Net and the prompt encoder of the paper's U-Net variant, beside the contract of every backbone and encoder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mtdiff.backbones import TemporalUNetBackbone
from mtdiff.backbones.temporal_unet import ConvolutionBlock
from mtdiff.compose import compose
from mtdiff.conditioning import TCNPrompt
from mtdiff.conditioning.encoder import Condition, Role
from mtdiff.pipelines import PlannerPipeline

ROLES = [
    Role(name="task", num_tokens=20, lifetime="episode"),
    Role(name="history", num_tokens=1, lifetime="plan"),
    Role(name="return", num_tokens=1, lifetime="episode", added=True),
]


def unet(horizon: int, roles: Any = (), **arguments: Any) -> TemporalUNetBackbone:
    torch.manual_seed(0)
    small = {"width": 8, "base": 8, "groups": 4, "multipliers": (1, 2)} | arguments
    return TemporalUNetBackbone(channels=3, horizon=horizon, roles=roles, **small).eval()


def call(backbone: TemporalUNetBackbone, batch: int = 2) -> Tensor:
    x = torch.randn(batch, backbone.config.horizon, 3, generator=torch.Generator().manual_seed(1)).to(backbone.dtype)
    with torch.no_grad():
        return backbone(x, torch.arange(batch), Condition(tokens={}))


def test_the_default_is_as_large_as_the_papers_transformer() -> None:
    """For a planner of 32 actions of four numbers, with default conditions; gpt2 has 7.0 million."""
    with torch.device("meta"):
        backbone = TemporalUNetBackbone(channels=4, horizon=32, roles=ROLES)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 7_421_700


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One entry at a time, zeros beyond the ends."""
    (outputs, _, taps), length = weight.shape, x.shape[-1]
    out = bias[:, None].repeat(1, length)
    for o in range(outputs):
        for t in range(length):
            for k in range(taps):
                at = t + k - taps // 2
                if 0 <= at < length:
                    out[o, t] += weight[o, :, k] @ x[:, at]
    return out


def standardise(x: Tensor, groups: int) -> Tensor:
    parts = [(part - part.mean()) / (part.var(correction=0) + 1e-5).sqrt() for part in x.chunk(groups)]
    return torch.cat(parts)


@torch.no_grad()
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("outputs", [4, 6])
def test_a_block_is_what_its_equation_says(scaled: bool, outputs: int) -> None:
    torch.manual_seed(0)
    block = ConvolutionBlock(
        4, outputs, 5, kernel_size=3, groups=2, dropout=0.0, activation="mish", scaled=scaled
    ).eval()
    x, told = torch.randn(1, 4, 6), torch.randn(1, 5)
    (first, _, act), second = block.first, block.second[0]
    inner = act(standardise(convolve(x[0], first.weight, first.bias), 2))
    told_to = block.modulation.weight @ told[0] + block.modulation.bias
    scale = 1 + told_to[:outputs, None] if scaled else 1
    inner = inner * scale + told_to[-outputs:, None]
    expected = act(standardise(convolve(inner, second.weight, second.bias), 2))
    expected = expected + (x[0] if outputs == 4 else convolve(x[0], block.skip.weight, block.skip.bias))
    torch.testing.assert_close(block(x, told)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("horizon", "multipliers", "sizes"),
    [
        (8, (1, 2, 4), [(8, 8), (16, 4), (32, 2), (32, 2), (16, 4), (8, 8)]),
        (6, (2, 1), [(16, 6), (8, 3), (8, 3), (16, 6)]),
        (5, (3,), [(24, 5), (24, 5)]),
    ],
)
def test_levels_halve_the_horizon_and_come_back(
    horizon: int, multipliers: tuple[int, ...], sizes: list[tuple[int, int]]
) -> None:
    backbone, seen = unet(horizon, multipliers=multipliers), []
    blocks = [pair[1] for pair in backbone.down] + list(backbone.middle) + [pair[1] for pair in backbone.up]
    for block in blocks:
        block.register_forward_hook(lambda _module, _inputs, out: seen.append(tuple(out.shape[1:])))
    assert call(backbone).shape == (2, horizon, 3)
    assert seen == sizes


def test_skips_carry_what_the_shortest_level_does_not() -> None:
    backbone = unet(8)
    with torch.no_grad():
        for block in backbone.middle:
            for parameter in block.parameters():
                parameter.zero_()
        for parameter in backbone.lengthen.parameters():
            parameter.zero_()
        x = torch.randn(2, 8, 3)
        once = backbone(x, torch.tensor([1, 1]), Condition(tokens={}))
        other = backbone(x.flip(1), torch.tensor([1, 1]), Condition(tokens={}))
    assert (once - other).abs().max() > 1e-3


def test_bfloat16_is_close_to_full_precision(tmp_path: Path) -> None:
    backbone = unet(8, groups=8)
    full = call(backbone)
    backbone.save_pretrained(tmp_path)
    half = TemporalUNetBackbone.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    got = call(half)
    assert got.dtype == torch.bfloat16
    assert got.isfinite().all()
    # Two or three digits, through eleven normalised layers.
    assert (got.float() - full).abs().max() < 0.05 * full.abs().max() + 0.05


@pytest.mark.parametrize(
    ("horizon", "arguments", "message"),
    [
        (8, {"multipliers": (1,) * 5}, "multipliers: 5 levels need a horizon that is a multiple of 16, such as 16, "
            "and the horizon is 8. Change it, or name at most 4 multipliers"),
        (7, {}, "multipliers: 2 levels need a horizon that is a multiple of 2, such as 6 or 8, and the horizon is 7. "
            "Change it, or name at most 1 multiplier"),
        (2, {"multipliers": (2, 1), "groups": 8}, "groups: must be fewer than the 8 channels of the last level, "
            "whose horizon is 1, got 8"),
        (8, {"base": 6}, "base: must be a multiple of groups=4, got 6"),
    ],
)  # fmt: skip
def test_what_a_unet_cannot_be_made_of(horizon: int, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        unet(horizon, **arguments)


def test_one_number_per_group_would_be_no_number() -> None:
    """What is refused above is a group of one number, always 0 after the norm; a level more of channels is fine."""
    assert call(unet(2, groups=4), batch=1).isfinite().all()


def test_a_planner_with_a_unet_and_a_tcn_survives_saving(
    values: dict[str, Any], dataset: Any, prompts: Any, tmp_path: Path
) -> None:
    values["backbone"] = {"name": "temporal_unet", "width": 16, "base": 8, "groups": 4}
    values["conditioning"]["task"] = {"name": "tcn_prompt", "length": 4, "hidden": (8, 8)}
    planner = compose(values, dataset, prompts)[0]
    planner.save_pretrained(tmp_path)
    loaded = PlannerPipeline.from_pretrained(tmp_path)
    plans = [
        pipe("reach-v3", torch.zeros(1, 5), num_actions=count, generator=torch.Generator().manual_seed(0)).actions
        for pipe in (planner, loaded)
        for count in (8, 3)
    ]
    assert torch.equal(plans[0], plans[2])
    assert plans[1].shape == (1, 3, 2)
    assert torch.equal(plans[0][:, :3], plans[1])  # it is not causal: a shorter plan is the longer one, cut
    half = PlannerPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half("reach-v3", torch.zeros(1, 5)).actions.isfinite().all()


# The prompt encoder.


def tcn(**arguments: Any) -> TCNPrompt:
    torch.manual_seed(0)
    return TCNPrompt(**{"state_dim": 3, "action_dim": 2, "width": 6, "hidden": (8, 8), "length": 9} | arguments).eval()


def told(encoder: TCNPrompt, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"prompt_states": 3, "prompt_actions": 2}
    return {name: torch.randn(2, encoder.length, size, generator=generator) for name, size in shapes.items()}


@torch.no_grad()
def test_the_token_is_the_last_step_of_dilated_causal_convolutions() -> None:
    encoder = tcn()
    fields = told(encoder)
    steps = torch.nn.functional.layer_norm(torch.cat([*fields.values()], dim=-1)[0], (5,))
    rows = list(steps)

    def causal(rows: list[Tensor], convolution: Any, dilation: int) -> list[Tensor]:
        out = []
        for t in range(len(rows)):
            total = convolution.bias.clone()
            for k in range(3):
                at = t - (2 - k) * dilation
                if at >= 0:
                    total += convolution.weight[:, :, k] @ rows[at]
            out.append(total)
        return out

    act = torch.nn.functional.mish
    for level, block in enumerate(encoder.blocks):
        inner = [act(row) for row in causal(rows, block.first, 2**level)]
        inner = [act(row) for row in causal(inner, block.second, 2**level)]
        skips = rows if level else [block.skip.weight[:, :, 0] @ row + block.skip.bias for row in rows]
        rows = [act(a + b) for a, b in zip(inner, skips, strict=True)]
    expected = encoder.out.weight @ rows[-1] + encoder.out.bias
    tokens = encoder(fields)
    assert tokens.shape == (2, 1, 6)
    torch.testing.assert_close(tokens[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_first_step_reaches_the_token_and_no_further_step_would() -> None:
    encoder = tcn(length=13)
    assert encoder.reach == 13 == 1 + 2 * 2 * (2**2 - 1)
    fields = told(encoder)
    fields["prompt_states"].requires_grad_()
    encoder(fields).sum().backward()
    felt = fields["prompt_states"].grad.abs().amax((0, 2))
    assert (felt > 0).all()
    with pytest.raises(ValueError, match=r"^hidden: 2 levels of kernel_size=3 read 13 steps, which is fewer than "):
        tcn(length=14)


def test_the_order_of_a_prompt_matters() -> None:
    encoder = tcn()
    fields = told(encoder)
    with torch.no_grad():
        there, back = encoder(fields), encoder({name: value.flip(1) for name, value in fields.items()})
    assert float((there - back).abs().max()) > 1e-3


def test_a_prompt_of_another_length() -> None:
    with pytest.raises(ValueError, match=r"^prompt: must have 9 steps, got 5$"):
        tcn()(told(tcn(length=5)))
