"""What every denoising network offers, whatever it is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor, nn

from mtdiff.conditioning.encoder import Condition, Role
from mtdiff.diffusion import Predict


class Backbone(ModelMixin, ConfigMixin):
    """A network that predicts from a noisy x, a timestep and conditions.

    A subclass takes keyword arguments only. `width` (C, the width of condition tokens), `channels` (D),
    `horizon` (H) and `roles` are common to all: `width` is named in the recipe, the other three come from the
    data and the other parts and are declared as runtime arguments at registration.

    Attributes:
        causal: whether an entry of x is predicted from the entries before it alone, so that x may be any
            prefix of the horizon, with the same result for that prefix.
        granularity: x's length must be a multiple of this.
    """

    causal: bool = False
    granularity: int = 1

    def forward(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """Predict for x (B, H, D) at `timestep` (B,); returns (B, H, D). A causal one takes shorter x too."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x, timestep, condition)")

    def prepare(self, condition: Condition, timesteps: Sequence[int], branches: int = 1) -> Predict:
        """Return `predict(x, i)` for a list of sampling timesteps known in advance.

        A backbone that can compute something for all timesteps at once overrides this; the result must equal
        this plain version's.

        Args:
            condition: conditions of `branches` * B samples, the branches one after the other.
            timesteps: what `forward` is told at call i.
            branches: guidance branches G that share one x.
        """

        def predict(x: Tensor, i: int) -> Tensor:
            shared = x.repeat(branches, 1, 1) if branches > 1 else x
            shared = shared.to(self.dtype)
            timestep = torch.full((len(shared),), timesteps[i], device=x.device, dtype=torch.long)
            return self(shared, timestep, condition).unflatten(0, (branches, len(x)))

        return predict


def role_list(roles: Sequence[Role | Mapping[str, Any]]) -> list[Role]:
    """Roles as objects: a saved configuration holds them as mappings."""
    return [role if isinstance(role, Role) else Role(**role) for role in roles]


class TimestepEmbedding(nn.Module):
    """Sines and cosines of the integer timestep, then two linear layers (MTDiff fig. 3, f_T).

    Args:
        width: C of the result, even.
        hidden: width between the two layers.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        if width % 2:
            raise ValueError(f"width: must be even for a timestep embedding, got {width}")
        self.pairs = width // 2
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.Mish(), nn.Linear(hidden, width))

    def forward(self, timestep: Tensor) -> Tensor:
        """Embed `timestep` (B,) to (B, C)."""
        steps = torch.arange(self.pairs, device=timestep.device, dtype=torch.float32)
        frequencies = torch.exp(-math.log(10_000.0) * steps / max(self.pairs - 1, 1))
        angles = timestep.float()[:, None] * frequencies
        features = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return self.layers(features.to(next(self.layers.parameters()).dtype))
