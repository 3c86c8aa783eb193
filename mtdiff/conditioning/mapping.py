"""All conditions of a model, by role: the one component a pipeline carries for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mtdiff.conditioning.encoder import Condition, Encoder, Role
from mtdiff.registry import CONDITIONING


class Conditioning(ModelMixin, ConfigMixin):
    """A mapping from roles to encoders.

    Args:
        roles: role to part, e.g. `{"task": {"name": "trajectory_prompt", "length": 20}}`. May be empty.
        state_dim: O.
        action_dim: A.
        width: C, width of the tokens.
    """

    @register_to_config
    def __init__(self, *, roles: dict[str, dict[str, Any]], state_dim: int, action_dim: int, width: int):
        super().__init__()
        sizes = {"state_dim": state_dim, "action_dim": action_dim, "width": width}
        self.encoders = nn.ModuleDict({role: CONDITIONING.build(spec, **sizes) for role, spec in roles.items()})
        # A model without tensors cannot be saved by diffusers; this one may have no encoders at all.
        self.register_buffer("present", torch.ones(1))

    def encoder(self, role: str) -> Encoder:
        """The encoder of a role."""
        encoder = self.encoders[role]
        assert isinstance(encoder, Encoder)
        return encoder

    def reading(self, field: str) -> Encoder | None:
        """The encoder that reads a batch field, if there is one."""
        parts = (self.encoder(role) for role in self.encoders)
        return next((part for part in parts if field in part.reads), None)

    @property
    def roles(self) -> list[Role]:
        """What a backbone is built from: every role with its tokens and lifetime."""
        return [
            Role(name=name, num_tokens=part.num_tokens, lifetime=part.lifetime, added=part.added)
            for name, part in ((name, self.encoder(name)) for name in self.encoders)
        ]

    @property
    def droppable(self) -> dict[str, float]:
        """Roles that training withholds, with their probability."""
        return {name: self.encoder(name).dropout for name in self.encoders if self.encoder(name).dropout > 0}

    def window(self) -> dict[str, Any]:
        """Keyword arguments of `mtdiff.data.Windows` for all roles together."""
        merged: dict[str, Any] = {}
        for name in self.encoders:
            for key, value in self.encoder(name).window().items():
                if merged.setdefault(key, value) != value:
                    raise ValueError(f"conditioning.{name}: {key} is {value}, another role has {merged[key]}")
        return merged

    def forward(self, fields: Mapping[str, Tensor], drop: Mapping[str, Tensor] | None = None) -> Condition:
        """Encode every role.

        Args:
            fields: batch fields in model space, batch first.
            drop: per role, a (B,) boolean mask of samples whose condition is replaced by its null token.
        """
        drop = drop or {}
        tokens = {name: self.encoders[name](fields, drop.get(name)) for name in self.encoders}
        added = [tokens[name][:, 0] for name in tokens if self.encoder(name).added]
        return Condition(tokens=tokens, added=torch.stack(added).sum(0) if added else None)
