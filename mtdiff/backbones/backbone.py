"""What every denoising network offers, whatever it is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor, nn

from mtdiff.activations import Mish
from mtdiff.conditioning.encoder import Condition, Role
from mtdiff.diffusion import Predict


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What a backbone computes once for all the plans of an episode.

    Here that is no more than the encoded conditions; a backbone that can keep more derives from this.

    Attributes:
        condition: the conditions that last an episode, of G * B samples, the branches one after the other.
        timesteps: the sampling timesteps it was made for.
        branches: guidance branches G.
        batch: B.
    """

    condition: Condition
    timesteps: tuple[int, ...]
    branches: int
    batch: int

    def rows(self, at: Tensor) -> Prefix:
        """A copy for the samples at the places `at` (b,), each in 0 .. B - 1; repeating and leaving out is fine."""
        return replace(self, condition=self.condition.rows(self._of_branches(at)), batch=len(at))

    def spread(self, batch: int) -> Prefix:
        """One sample's for `batch` samples that are told the same; only where no condition is new in every plan."""
        return self.rows(torch.zeros(batch, dtype=torch.long))

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.condition.nbytes

    def _of_branches(self, at: Tensor) -> Tensor:
        return torch.cat([at + branch * self.batch for branch in range(self.branches)])


class Backbone(ModelMixin, ConfigMixin):
    """A network that predicts from a noisy x, a timestep and conditions.

    A subclass takes keyword arguments only. `width` (C, the width of condition tokens), `channels` (D),
    `horizon` (H) and `roles` are common to all: `width` is named in the recipe, the other three come from the
    data and the other parts and are declared as runtime arguments at registration. So is `pieces`, for those that
    treat the pieces of an entry of x apart: name to width, as the representation has them.

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

    def read(self, condition: Condition) -> Any:
        """What `denoise` needs to know of the conditions, which a plan computes once for all its timesteps."""
        return condition

    def denoise(self, x: Tensor, timestep: Tensor, known: Any) -> Tensor:
        """What `forward` does, from what `read` returned."""
        return self(x, timestep, known)

    def prefix(
        self,
        condition: Condition,
        timesteps: Sequence[int],
        branches: int = 1,
        *,
        batch: int,
        room: int | None = None,
        memory: int | None = None,
    ) -> Prefix:
        """Compute what all the plans of an episode share, to be handed to `prepare`.

        Args:
            condition: the conditions that last an episode, of `branches` * `batch` samples.
            timesteps: as in `prepare`.
            branches: as in `prepare`.
            batch: B.
            room: longest x that will be planned with it; the horizon by default.
            memory: most bytes it may take; what does not fit is computed anew in every plan.
        """
        return Prefix(condition=condition, timesteps=tuple(timesteps), branches=branches, batch=batch)

    def prepare(
        self, condition: Condition, timesteps: Sequence[int], branches: int = 1, prefix: Prefix | None = None
    ) -> Predict:
        """Return `predict(x, i)` for a list of sampling timesteps known in advance.

        A backbone that can compute something for all timesteps at once overrides this; the result must equal
        this plain version's.

        Args:
            condition: conditions of `branches` * B samples, the branches one after the other; with a prefix,
                only those that are new in every plan.
            timesteps: what `forward` is told at call i.
            branches: guidance branches G that share one x.
            prefix: what `prefix` returned for the same timesteps and branches. One plan at a time may use it.
        """
        if prefix is not None:
            condition = prefix.condition.join(condition)
        known, dtype = self.read(condition), self.dtype

        def predict(x: Tensor, i: int) -> Tensor:
            shared = x.repeat(branches, 1, 1) if branches > 1 else x
            shared = shared.to(dtype)
            timestep = torch.full((len(shared),), timesteps[i], device=x.device, dtype=torch.long)
            return self.denoise(shared, timestep, known).unflatten(0, (branches, len(x)))

        return predict


def role_list(roles: Sequence[Role | Mapping[str, Any]]) -> list[Role]:
    """Roles as objects: a saved configuration holds them as mappings."""
    return [role if isinstance(role, Role) else Role(**role) for role in roles]


class Pools(nn.ModuleDict):
    """All conditions as one vector: the tokens of each role through a linear layer, summed, and what is `added`.

    Tokens are read in their order, not averaged: the history's order carries the velocity.
    """

    def __init__(self, roles: Sequence[Role], width: int):
        super().__init__({role.name: nn.Linear(role.num_tokens * width, width) for role in roles})

    def forward(self, condition: Condition) -> Tensor | float:
        """Return (B, C), or 0 where there is no condition."""
        told: Tensor | float = 0.0 if condition.added is None else condition.added
        for name, pool in self.items():
            told = told + pool(condition.tokens[name].flatten(1))
        return told


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
        self.layers = nn.Sequential(nn.Linear(width, hidden), Mish(), nn.Linear(hidden, width))

    def forward(self, timestep: Tensor) -> Tensor:
        """Embed `timestep` (B,) to (B, C)."""
        steps = torch.arange(self.pairs, device=timestep.device, dtype=torch.float32)
        frequencies = torch.exp(-math.log(10_000.0) * steps / max(self.pairs - 1, 1))
        angles = timestep.float()[:, None] * frequencies
        features = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return self.layers(features.to(next(self.layers.parameters()).dtype))
