"""All conditions of a model, by role: the one component a pipeline carries for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mtdiff.conditioning.encoder import Condition, Encoder, Lifetime, Role
from mtdiff.registry import CONDITIONING


class Conditioning(ModelMixin, ConfigMixin):
    """A mapping from roles to encoders.

    Args:
        roles: role to part, e.g. `{"task": {"name": "trajectory_prompt", "length": 20}}`. May be empty.
        state_dim: O.
        action_dim: A.
        width: C, width of the tokens.
        tasks: names of the tasks by number, for encoders that are told the number.
        map_shape: rows and columns of the tasks' maps, for encoders that are shown them.
        state_loc: what the normaliser subtracts from states (O,), for encoders that need them in physical units.
        state_scale: what it then divides them by (O,).
    """

    @register_to_config
    def __init__(
        self,
        *,
        roles: dict[str, dict[str, Any]],
        state_dim: int,
        action_dim: int,
        width: int,
        tasks: Sequence[str] = (),
        map_shape: Sequence[int] | None = None,
        state_loc: Sequence[float] | None = None,
        state_scale: Sequence[float] | None = None,
    ):
        super().__init__()
        # A saved configuration must be plain JSON.
        self.register_to_config(tasks=list(tasks), map_shape=list(map_shape) if map_shape else None)
        sizes: dict[str, Any] = {"state_dim": state_dim, "action_dim": action_dim, "num_tasks": len(tasks)}
        sizes |= {"width": width, "map_shape": tuple(map_shape) if map_shape else None}
        sizes |= {"state_loc": state_loc, "state_scale": state_scale}
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
        return self._condition({name: self.encoders[name](fields, drop.get(name)) for name in self.encoders})

    def branches(self, fields: Mapping[str, Tensor], *, guided: bool, lifetime: Lifetime | None = None) -> Condition:
        """Encode for sampling: every role as asked, and, when guided, a second branch of B samples after the first.

        The second branch withholds every role that training withheld, and shares the others.

        Args:
            fields: batch fields in model space, (B, ...).
            guided: whether to add the second branch.
            lifetime: only the roles that last so long; all by default.
        """
        tokens = {}
        for name in self.encoders:
            encoder = self.encoder(name)
            if lifetime is None or encoder.lifetime == lifetime:
                told = encoder(fields)
                if guided:
                    every = torch.ones(len(told), dtype=torch.bool, device=told.device)
                    second = encoder(fields, every) if encoder.dropout > 0 else told
                    told = torch.cat([told, second])
                tokens[name] = told
        return self._condition(tokens)

    def _condition(self, tokens: dict[str, Tensor]) -> Condition:
        added = [tokens[name][:, 0] for name in tokens if self.encoder(name).added]
        return Condition(tokens=tokens, added=torch.stack(added).sum(0) if added else None)
