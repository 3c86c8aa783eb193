"""Conservative Q-learning for many tasks (MTCQL, He et al. 2023, section 5.1; Kumar et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import softplus

from mtdiff.conditioning.encoder import Condition, Role
from mtdiff.errors import at_least
from mtdiff.learners.networks import Perceptrons
from mtdiff.policies.critics import Critics, Heads, ValuePolicy
from mtdiff.registry import POLICIES

_LOG_STD = (-5.0, 2.0)  # between these the logarithmic standard deviation before the tanh is kept


class TanhGaussian(nn.Module):
    """SAC's policy: actions are the tanh of a Gaussian whose mean and standard deviation depend on the state.

    Args:
        sizes: of the input, the hidden layers and the action.
    """

    def __init__(self, sizes: list[int]):
        super().__init__()
        self.layers = Perceptrons(members=1, sizes=[*sizes[:-1], 2 * sizes[-1]])

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithmic standard deviation (B, A), both before the tanh."""
        mean, log_std = self.layers(seen)[0].chunk(2, dim=-1)
        return mean, log_std.clamp(*_LOG_STD)

    def draw(self, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions (B, N, A) made of normal noise (B, N, A), and their logarithmic densities (B, N)."""
        mean, log_std = (value[:, None] for value in self(seen))
        before = mean + log_std.exp() * noise
        normal = -(0.5 * noise.square() + log_std + 0.5 * math.log(2 * math.pi))
        # log (1 - tanh^2 x) = 2 (log 2 - x - softplus(-2 x)), which is exact where tanh rounds to 1
        return before.tanh(), (normal - 2 * (math.log(2) - before - softplus(-2 * before))).sum(dim=-1)


@POLICIES.register("cql", runtime=("state_dim", "action_dim", "num_tasks", "roles"))
class CQLPolicy(ValuePolicy):
    """Conservative Q-learning: critics that judge actions worse which the data lack, and SAC's policy (MTCQL).

    Each critic minimises its squared distance to r + discount (1 - terminated) min_i Q'_i(s', a'), a' the policy's, and

        alpha (log sum_a exp(Q(s, a)) / density(a) - Q(s, a_data)),

    over `actions` uniform ones, as many of the policy in s and as many of the policy in s'. The policy maximises
    min_i Q_i(s, a) - temperature log pi(a | s), the temperature such that its entropy stays at -A.

    A task's rewards are divided by their range, and not shifted. An episode that was only cut off, also by whoever
    recorded it, because it had succeeded, goes on: its last rewards are extended. Gradients of the losses share one
    optimiser: train with `max_grad_norm: 0`.

    Args:
        width: C, width of condition tokens.
        hidden: widths of the hidden layers of the policy.
        critic_hidden: widths of the hidden layers of the critics, of each head.
        heads: of the critics, "per_task" (the paper), a network for each task, or "shared", one that reads the task's
            number.
        length: L, states it looks back on, at least 1.
        discount: what a reward is worth one step later, at least 0 and below 1.
        tau: share of the new weights that the critics' targets take over in every update, above 0, at most 1.
        alpha: weight of the conservative term, at least 0; 0 is SAC.
        actions: of each kind that the conservative term weighs, at least 1.
        cloning: weight of the logarithmic density of the data's actions in what the policy maximises, at least 0; 0 is
            the authors'.
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
        alpha: float = 10.0,
        actions: int = 10,
        cloning: float = 0.0,
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
        at_least(0, alpha=alpha, cloning=cloning)
        at_least(1, actions=actions)
        seen = length * state_dim
        self.action_dim = action_dim
        self.actor = TanhGaussian([seen + width, *hidden, action_dim])
        self.log_temperature = nn.Parameter(torch.zeros(()))
        judges: dict[str, Any] = {"hidden": critic_hidden, "num_tasks": num_tasks, "heads": heads, "estimates": 2}
        self.critic = self._target("critic", Critics(inputs=seen + action_dim, **judges))

    def draw(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        shape = (size, self.config.actions, self.action_dim)
        return {
            "uniform": torch.rand(shape, generator=generator) * 2 - 1,
            "present": torch.randn(shape, generator=generator),
            "next": torch.randn(shape, generator=generator),
        }

    def losses(self, fields: Mapping[str, Tensor], condition: Condition, drawn: Mapping[str, Tensor]) -> Tensor:
        states, actions, next_states, tasks = self._batch(fields)
        seen = self._see(states, condition)
        own, density = self.actor.draw(seen, drawn["present"])
        with torch.no_grad():
            later, later_density = self.actor.draw(self._see(next_states, condition), drawn["next"])
            good = self.critic_target(torch.cat([next_states, later[:, 0]], dim=1), tasks).amin(dim=0)
            target = self._learnt(fields, good)
        # The policy: its first action is the one that is judged.
        value = self.critic(torch.cat([states, own[:, 0]], dim=1), tasks, frozen=True).amin(dim=0)
        entropy_gap = (density[:, 0] - self.action_dim).detach()  # -log pi should be -A on average
        loss = self.log_temperature.exp().detach() * density[:, 0] - value - self.log_temperature.exp() * entropy_gap
        if self.config.cloning:
            loss = loss - self.config.cloning * self._density_of(seen, actions)
        # The critics, with the data's action as the first.
        tried = torch.cat([actions[:, None], drawn["uniform"], own.detach(), later], dim=1)
        count = tried.shape[1]
        both = torch.cat([states[:, None].expand(-1, count, -1), tried], dim=2).flatten(0, 1)
        q = self.critic(both, tasks.repeat(count)).unflatten(1, (-1, count))  # (2, B, 1 + 3 N)
        uniform = torch.full_like(density, -self.action_dim * math.log(2))
        densities = torch.cat([uniform, density.detach(), later_density], dim=1)
        conservative = torch.logsumexp(q[:, :, 1:] - densities, dim=2) - q[:, :, 0]
        errors = (q[:, :, 0] - target).square() + self.config.alpha * conservative
        return loss + errors.sum(dim=0)

    def _density_of(self, seen: Tensor, actions: Tensor) -> Tensor:
        """Logarithmic density (B,) of actions (B, A), those at the border moved inside."""
        mean, log_std = self.actor(seen)
        before = actions.clamp(-0.999, 0.999).atanh()
        normal = -(0.5 * ((before - mean) / log_std.exp()).square() + log_std + 0.5 * math.log(2 * math.pi))
        return (normal - 2 * (math.log(2) - before - softplus(-2 * before))).sum(dim=-1)

    def act(
        self, fields: Mapping[str, Tensor], condition: Condition, generators: Sequence[torch.Generator | None]
    ) -> Tensor:
        return self._model_actions(self.actor(self._see(fields["history"].flatten(1), condition))[0].tanh())
