"""A residual network on the flattened x: few and large matrix products, which suit a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mtdiff.activations import Mish
from mtdiff.backbones.backbone import Backbone, Pools, TimestepEmbedding, role_list
from mtdiff.conditioning.encoder import Condition, Role
from mtdiff.errors import at_least, fraction
from mtdiff.registry import BACKBONES


class ResidualBlock(nn.Module):
    """Pre-norm feed-forward block, shifted and scaled by the condition; the identity before training."""

    def __init__(self, width: int, expansion: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        last = nn.Linear(expansion * width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(width, expansion * width), Mish(), nn.Dropout(dropout), last)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)


@BACKBONES.register("residual_mlp", runtime=("channels", "horizon", "roles"))
class ResidualMLPBackbone(Backbone):
    """Residual blocks on the flattened x, modulated by the sum of timestep and conditions.

    Args:
        width: C, width of the blocks and of condition tokens; even.
        num_layers: number of blocks.
        expansion: hidden width of a block as a multiple of `width`.
        dropout: inside the blocks, in training.
        channels: D, from the representation.
        horizon: H, from the representation.
        roles: the conditions, from the conditioning.
    """

    @register_to_config
    def __init__(
        self,
        *,
        width: int = 384,
        num_layers: int = 4,
        expansion: int = 2,
        dropout: float = 0.0,
        channels: int,
        horizon: int,
        roles: Sequence[Role | Mapping[str, Any]],
    ):
        super().__init__()
        at_least(1, width=width, num_layers=num_layers, expansion=expansion)
        fraction(dropout=dropout)
        known = role_list(roles)
        self.register_to_config(roles=[dict(vars(role)) for role in known])
        self.granularity = horizon
        self.timestep = TimestepEmbedding(width, 2 * width)
        self.embed = nn.Linear(horizon * channels, width)
        self.pools = Pools(known, width)
        self.blocks = nn.ModuleList(ResidualBlock(width, expansion, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, horizon * channels)

    def forward(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return self.denoise(x, timestep, self.read(condition))

    def read(self, condition: Condition) -> Tensor | float:
        return self.pools(condition)

    def denoise(self, x: Tensor, timestep: Tensor, known: Tensor | float) -> Tensor:
        told = nn.functional.mish(self.timestep(timestep) + known)  # (B, C)
        hidden = self.embed(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, told)
        return self.head(self.norm(hidden + told)).view_as(x)
