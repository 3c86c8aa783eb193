"""TD3+BC: TD3 whose policy must also stay close to the data's actions.

Fujimoto and Gu, "A Minimalist Approach to Offline Reinforcement Learning", NeurIPS 2021; Fujimoto et al., "Addressing
Function Approximation Error in Actor-Critic Methods", ICML 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from mtdiff.errors import at_least
from mtdiff.learners.learner import Learner
from mtdiff.learners.networks import Perceptrons
from mtdiff.registry import LEARNERS


@LEARNERS.register("td3_bc", runtime=("state_dim", "action_dim", "device", "seed"))
@dataclass(kw_only=True, eq=False)
class TD3BC(Learner):
    """TD3 with a term of behaviour cloning: one weight to set, states standardised, nothing else added.

    Both critics learn y = r + discount (1 - terminated) min_i Q'_i(s', pi'(s') + noise), the noise and the action after
    it clipped. Every `policy_delay` updates the policy minimises

        -lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2,   lambda = alpha / mean |Q_1(s, pi(s))|,

    lambda held constant, and the targets take over `tau` of the new weights. alpha 0 is behaviour cloning.

    Args:
        state_dim: O, from the data.
        action_dim: A, from the data.
        device: where networks and batches live.
        seed: of the first weights and of the noise.
        hidden: widths of the hidden layers of every network.
        learning_rate: Adam's, of every network, above 0.
        discount: what a reward is worth one step later, between 0 and 1.
        tau: share of the new weights that the targets take over with every update of the policy, above 0, at most 1.
        standardize: subtract the data's mean state and divide by its standard deviation, per dimension.
        reward_scale: rewards are multiplied by this; the policy's loss does not depend on it.
        alpha: weight of the critic against cloning, at least 0.
        policy_noise: standard deviation of the noise on target actions, which lie in [-1, 1]; at least 0.
        noise_clip: that noise is clipped to plus and minus this, at least 0.
        policy_delay: updates of the critics for one of the policy and the targets, at least 1.
    """

    alpha: float = 2.5
    policy_noise: float = 0.2
    noise_clip: float = 0.5
    policy_delay: int = 2

    def __post_init__(self) -> None:
        at_least(0, alpha=self.alpha, policy_noise=self.policy_noise, noise_clip=self.noise_clip)
        at_least(1, policy_delay=self.policy_delay)
        super().__post_init__()

    def _build(self) -> None:
        state, action, hidden = self.state_dim, self.action_dim, self.hidden
        self._actor = self._network("actor", Perceptrons(members=1, sizes=[state, *hidden, action]))
        self._critic = self._network("critic", Perceptrons(members=2, sizes=[state + action, *hidden, 1]))
        self._actor_target = self._target("actor_target", self._actor)
        self._critic_target = self._target("critic_target", self._critic)
        self._optimizer("actor", self._actor)
        self._optimizer("critic", self._critic)
        self._told: dict[str, Tensor] = {}  # of the last update of the policy

    @property
    def critic(self) -> Perceptrons:
        return self._critic

    def _act(self, states: Tensor) -> Tensor:
        return self._actor(states)[0].tanh()

    def _update(
        self, states: Tensor, actions: Tensor, rewards: Tensor, next_states: Tensor, goes_on: Tensor
    ) -> dict[str, Tensor]:
        target = self._targets(rewards, next_states, goes_on)
        q = self._critic(torch.cat([states, actions], dim=-1)).squeeze(-1)
        critic_loss = (q - target).square().mean(dim=1).sum()
        self._descend("critic", critic_loss)
        if (self.updates + 1) % self.policy_delay == 0:
            self._told = self._improve(states, actions)
            self._average()
        return {"critic_loss": critic_loss, "q": q.mean(), **self._told}

    @torch.no_grad()
    def _targets(self, rewards: Tensor, next_states: Tensor, goes_on: Tensor) -> Tensor:
        """(B,) what both critics learn."""
        actions = self._actor_target(next_states)[0].tanh()
        noise = torch.randn(actions.shape, generator=self.generator, device=self.device) * self.policy_noise
        actions = (actions + noise.clamp(-self.noise_clip, self.noise_clip)).clamp(-1, 1)
        q = self._critic_target(torch.cat([next_states, actions], dim=-1)).squeeze(-1).amin(dim=0)
        return rewards + self.discount * goes_on * q

    def _improve(self, states: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Update the policy."""
        chosen = self._act(states)
        cloning = mse_loss(chosen, actions)
        q = self._critic.first(torch.cat([states, chosen], dim=-1))
        weight = self.alpha / q.detach().abs().mean()
        loss = cloning - weight * q.mean()
        self._descend("actor", loss)
        return {"policy_loss": loss.detach(), "cloning_loss": cloning.detach(), "lambda": weight}
