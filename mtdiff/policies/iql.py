"""Implicit Q-learning for many tasks (MTIQL, He et al. 2023, section 5.1; Kostrikov, Nair and Levine 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from mtdiff.conditioning.encoder import Condition, Role
from mtdiff.errors import at_least
from mtdiff.learners.iql import advantage_weight, expectile_errors
from mtdiff.learners.learner import positive
from mtdiff.learners.networks import GaussianPolicy
from mtdiff.policies.critics import Critics, Heads, ValuePolicy
from mtdiff.registry import POLICIES


@POLICIES.register("iql", runtime=("state_dim", "action_dim", "num_tasks", "roles"))
class IQLPolicy(ValuePolicy):
    """Implicit Q-learning: clones the actions that turned out better than a state's others, told the task (MTIQL).

    With A = min_i Q'_i(s, a) - V(s), V minimises |expectile - 1[A < 0]| A^2, both critics learn
    r + discount (1 - terminated) V(s'), and the policy maximises min(exp(beta A), max_weight) log pi(a | s). No action
    that the data lack is ever looked at.

    A task's rewards are divided by their range, and not shifted. An episode that was only cut off, also by whoever
    recorded it, because it had succeeded, goes on: its last rewards are extended. Gradients of the three losses differ
    in size by orders and share one optimiser: train with `max_grad_norm: 0`. How far values reach back in a training
    of few updates is `tau` times their number: short trainings need a large `tau` and a smaller `discount`.

    Args:
        width: C, width of condition tokens.
        hidden: widths of the hidden layers of the policy.
        critic_hidden: widths of the hidden layers of V and the critics, of each head.
        heads: of V and the critics, "per_task" (the paper), a network for each task, or "shared", one that reads the
            task's number.
        length: L, states it looks back on, at least 1.
        discount: what a reward is worth one step later, at least 0 and below 1.
        tau: share of the new weights that the critics' targets take over in every update, above 0, at most 1.
        expectile: of the returns of the data's actions that V learns, between 0 and 1; 0.5 is their mean.
        beta: inverse temperature of the advantages, at least 0; 0 is behaviour cloning.
        max_weight: no sample counts for more than this, above 0.
        state_dim: O, from the data.
        action_dim: A, from the data.
        num_tasks: from the data.
        roles: the conditions, from the conditioning.
    """

    @register_to_config
    def __init__(
        self,
        *,
        width: int = 64,
        hidden: tuple[int, ...] = (256, 256, 256),
        critic_hidden: tuple[int, ...] = (256, 256),
        heads: Heads = "per_task",
        length: int = 1,
        discount: float = 0.99,
        tau: float = 0.005,
        expectile: float = 0.7,
        beta: float = 3.0,
        max_weight: float = 100.0,
        state_dim: int,
        action_dim: int,
        num_tasks: int,
        roles: Sequence[Role | Mapping[str, Any]],
    ):
        super().__init__()
        self._remember(
            roles=roles, width=width, length=length, num_tasks=num_tasks, action_dim=action_dim, discount=discount,
            tau=tau, hidden=hidden, critic_hidden=critic_hidden,
        )  # fmt: skip
        if not 0 < expectile < 1:
            raise ValueError(f"expectile: must be above 0 and below 1, got {expectile}")
        at_least(0, beta=beta)
        positive(max_weight=max_weight)
        seen = length * state_dim
        judges: dict[str, Any] = {"hidden": critic_hidden, "num_tasks": num_tasks, "heads": heads}
        self.actor = GaussianPolicy([seen + width, *hidden, action_dim])
        self.value = Critics(inputs=seen, estimates=1, **judges)
        self.critic = self._target("critic", Critics(inputs=seen + action_dim, estimates=2, **judges))

    def losses(self, fields: Mapping[str, Tensor], condition: Condition, drawn: Mapping[str, Tensor]) -> Tensor:
        states, actions, next_states, tasks = self._batch(fields)
        both = torch.cat([states, actions], dim=1)
        with torch.no_grad():
            good = self.critic_target(both, tasks).amin(dim=0)
            target = self._learnt(fields, self.value(next_states, tasks)[0])
        advantage = good - self.value(states, tasks)[0]
        errors = (self.critic(both, tasks) - target).square().sum(dim=0)
        weight = advantage_weight(advantage.detach(), self.config.beta, self.config.max_weight)
        cloning = -weight * self.actor.log_prob(self._see(states, condition), actions)
        return expectile_errors(advantage, self.config.expectile) + errors + cloning

    def act(
        self, fields: Mapping[str, Tensor], condition: Condition, generators: Sequence[torch.Generator | None]
    ) -> Tensor:
        return self._model_actions(self.actor(self._see(fields["history"].flatten(1), condition)))
