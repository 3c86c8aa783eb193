"""Behaviour cloning: the action that the data show in a state (MTBC, He et al. 2023, section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from mtdiff.activations import Activation
from mtdiff.backbones.backbone import Pools, role_list
from mtdiff.conditioning.encoder import Condition, Role, mlp
from mtdiff.errors import at_least
from mtdiff.policies.policy import Policy
from mtdiff.registry import POLICIES


@POLICIES.register("cloning", runtime=("state_dim", "action_dim", "roles"))
class CloningPolicy(Policy):
    """A perceptron from states and conditions to the next actions, by mean squared error.

    Told the task's number it is MTBC; told a return as well, return-conditioned cloning; with
    `training.best_episodes` 0.1, cloning of the best tenth.

    Args:
        width: C, width of condition tokens.
        hidden: widths of the hidden layers, at least one.
        activation: of the hidden layers.
        length: L, states it looks back on, at least 1.
        horizon: H, actions it gives at once, at least 1; `sampling.execute` of them are carried out.
        state_dim: O, from the data.
        action_dim: A, from the data.
        roles: the conditions, from the conditioning.
    """

    @register_to_config
    def __init__(
        self,
        *,
        width: int = 64,
        hidden: tuple[int, ...] = (256, 256, 256),
        activation: Activation = "gelu",
        length: int = 1,
        horizon: int = 1,
        state_dim: int,
        action_dim: int,
        roles: Sequence[Role | Mapping[str, Any]],
    ):
        super().__init__()
        at_least(1, length=length, horizon=horizon, width=width)
        if not hidden:
            raise ValueError("hidden: must have at least one layer, got none")
        self.register_to_config(roles=[vars(role) for role in role_list(roles)])
        self.length, self.horizon, self.action_dim = length, horizon, action_dim
        self.pools = Pools(role_list(roles), width)
        self.layers = mlp([length * state_dim + width, *hidden, horizon * action_dim], activation)

    def forward(self, history: Tensor, condition: Condition) -> Tensor:
        """Actions (B, H, A) in model space for states (B, L, O)."""
        told = self.pools(condition)
        if not isinstance(told, Tensor):
            told = history.new_zeros(len(history), self.config.width)
        return self.layers(torch.cat([history.flatten(1), told], dim=1)).unflatten(1, (self.horizon, self.action_dim))

    def losses(self, fields: Mapping[str, Tensor], condition: Condition, drawn: Mapping[str, Tensor]) -> Tensor:
        errors = (self(fields["history"], condition) - fields["actions"]).square().mean(dim=2)
        return (errors * fields["mask"]).mean(dim=1)

    def act(
        self, fields: Mapping[str, Tensor], condition: Condition, generators: Sequence[torch.Generator | None]
    ) -> Tensor:
        return self(fields["history"], condition)
