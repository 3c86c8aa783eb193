"""A U-Net of convolutions over the horizon (Janner et al. 2022; Ajay et al. 2023; MTDiff appendix A's variant)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mtdiff.activations import ACTIVATIONS, Activation
from mtdiff.backbones.backbone import Backbone, Pools, TimestepEmbedding, role_list
from mtdiff.conditioning.encoder import Condition, Role
from mtdiff.errors import at_least, fraction
from mtdiff.registry import BACKBONES


class ConvolutionBlock(nn.Module):
    """Two convolutions with group norm around the residual; what is told acts between them.

    y = act(norm(conv x)) told as W e + b or as y (1 + scale(e)) + shift(e); out = act(norm(conv y)) + skip x.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        *,
        kernel_size: int,
        groups: int,
        dropout: float,
        activation: str,
        scaled: bool,
    ):
        super().__init__()
        act = ACTIVATIONS[activation]

        def convolve(channels: int) -> nn.Sequential:
            same = nn.Conv1d(channels, outputs, kernel_size, padding=kernel_size // 2)
            return nn.Sequential(same, nn.GroupNorm(groups, outputs), act())

        self.scaled = scaled
        self.first, self.second = convolve(inputs), convolve(outputs)
        self.modulation = nn.Linear(width, (2 if scaled else 1) * outputs)
        self.drop = nn.Dropout(dropout)
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Turn x (B, inputs, L) told (B, C) into (B, outputs, L)."""
        hidden, modulation = self.first(x), self.modulation(told)[:, :, None]
        if self.scaled:
            scale, shift = modulation.chunk(2, dim=1)
            hidden = hidden * (1 + scale) + shift
        else:
            hidden = hidden + modulation
        return self.second(self.drop(hidden)) + self.skip(x)


class Level(nn.ModuleList):
    """Blocks one after the other, all told the same."""

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        for block in self:
            x = block(x, told)
        return x


@BACKBONES.register("temporal_unet", runtime=("channels", "horizon", "roles"))
class TemporalUNetBackbone(Backbone):
    """A one-dimensional U-Net over the horizon, told the sum of timestep and conditions in every block.

    Level l has `base` * `multipliers`[l] channels and the horizon halved l times. The tokens of a role are read
    in their order by one linear layer. Every action is predicted from all of x, so a whole horizon is planned.

    Args:
        width: C, width of condition tokens and of the embedding that the blocks are told; even.
        base: channels of the convolutions at the full horizon; a multiple of `groups`.
        multipliers: channels of each level as a multiple of `base`, from the full horizon to the shortest. The
            horizon is halved between levels, so it must be a multiple of 2 ** (levels - 1).
        kernel_size: of the convolutions in the blocks; odd.
        groups: of the group normalisation.
        modulation: what a block is told is added to its channels ("shift", Janner's and Decision Diffuser's), or
            also scales them ("scale_shift").
        dropout: inside the blocks, in training.
        activation: "mish" is the paper's, "gelu" and "silu" are far cheaper on a CPU.
        channels: D, from the representation.
        horizon: H, from the representation.
        roles: the conditions, from the conditioning.
    """

    @register_to_config
    def __init__(
        self,
        *,
        width: int = 256,
        base: int = 96,
        multipliers: tuple[int, ...] = (1, 2, 4),
        kernel_size: int = 5,
        groups: int = 8,
        modulation: Literal["shift", "scale_shift"] = "shift",
        dropout: float = 0.0,
        activation: Activation = "mish",
        channels: int,
        horizon: int,
        roles: Sequence[Role | Mapping[str, Any]],
    ):
        super().__init__()
        at_least(1, width=width, base=base, kernel_size=kernel_size, groups=groups)
        fraction(dropout=dropout)
        self.timestep = TimestepEmbedding(width, 2 * width)
        _refuse_shapes(base, multipliers, kernel_size, groups, horizon)
        known = role_list(roles)
        # A saved configuration must be plain JSON.
        self.register_to_config(roles=[dict(vars(role)) for role in known], multipliers=list(multipliers))
        self.granularity = horizon
        self.pools = Pools(known, width)

        def block(inputs: int, outputs: int) -> ConvolutionBlock:
            return ConvolutionBlock(
                inputs,
                outputs,
                width,
                kernel_size=kernel_size,
                groups=groups,
                dropout=dropout,
                activation=activation,
                scaled=modulation == "scale_shift",
            )

        sizes = [base * multiplier for multiplier in multipliers]
        before = [channels, *sizes[:-1]]
        self.down = nn.ModuleList(
            Level([block(inputs, size), block(size, size)])
            for inputs, size in zip(before[:-1], sizes[:-1], strict=True)
        )
        self.shorten = nn.ModuleList(nn.Conv1d(size, size, 3, stride=2, padding=1) for size in sizes[:-1])
        self.middle = Level([block(before[-1], sizes[-1]), block(sizes[-1], sizes[-1])])
        upwards = list(pairwise(reversed(sizes)))
        self.lengthen = nn.ModuleList(nn.ConvTranspose1d(a, b, 4, stride=2, padding=1) for a, b in upwards)
        self.up = nn.ModuleList(Level([block(2 * size, size), block(size, size)]) for _, size in upwards)
        self.head = nn.Conv1d(sizes[0], channels, 1)

    def forward(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return self.denoise(x, timestep, self.read(condition))

    def read(self, condition: Condition) -> Tensor | float:
        return self.pools(condition)

    def denoise(self, x: Tensor, timestep: Tensor, known: Tensor | float) -> Tensor:
        told = nn.functional.mish(self.timestep(timestep) + known)  # (B, C)
        hidden, skips = x.transpose(1, 2), []  # (B, D, H)
        for level, shorten in zip(self.down, self.shorten, strict=True):
            hidden = level(hidden, told)
            skips.append(hidden)
            hidden = shorten(hidden)
        hidden = self.middle(hidden, told)
        for level, lengthen in zip(self.up, self.lengthen, strict=True):
            hidden = level(torch.cat([lengthen(hidden), skips.pop()], dim=1), told)
        return self.head(hidden).transpose(1, 2)


def _refuse_shapes(base: int, multipliers: Sequence[int], kernel_size: int, groups: int, horizon: int) -> None:
    """Refuse what the horizon cannot be halved by, and what convolutions and group norms cannot be made of."""
    if not multipliers or min(multipliers) < 1:
        shown = ", ".join(map(str, multipliers)) or "none"
        raise ValueError(f"multipliers: must be one or more numbers of at least 1, got {shown}")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: must be odd, got {kernel_size}")
    if base % groups:
        raise ValueError(f"base: must be a multiple of groups={groups}, got {base}")
    levels, whole = len(multipliers), 2 ** (len(multipliers) - 1)
    if horizon % whole:
        most = (horizon & -horizon).bit_length()  # halvings that leave whole numbers, and the level before them
        below, above = horizon // whole * whole, -(-horizon // whole) * whole
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"multipliers: {levels} levels need a horizon that is a multiple of {whole}, such as {near}, and the "
            f"horizon is {horizon}. Change it, or name at most {most} multiplier{'s' if most > 1 else ''}"
        )
    if base * multipliers[-1] == groups and horizon == whole:
        raise ValueError(
            f"groups: must be fewer than the {groups} channels of the last level, whose horizon is 1, got {groups}"
        )
