"""IQL: no action that the data lack is ever looked at.

Kostrikov, Nair and Levine, "Offline Reinforcement Learning with Implicit Q-Learning", ICLR 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mtdiff.errors import at_least
from mtdiff.learners.learner import Learner, positive
from mtdiff.learners.networks import GaussianPolicy, Perceptrons
from mtdiff.registry import LEARNERS


@LEARNERS.register("iql", runtime=("state_dim", "action_dim", "device", "seed"))
@dataclass(kw_only=True, eq=False)
class IQL(Learner):
    """Implicit Q-learning: an expectile in the place of a maximum over actions, then weighted cloning.

    With A = min_i Q'_i(s, a) - V(s), of the weights before the update, V minimises mean |expectile - 1[A < 0]| A^2,
    both critics learn r + discount (1 - terminated) V(s'), and the policy maximises

        mean min(exp(beta A), max_weight) log pi(a | s).

    The three losses share no weights, so one pass back through their sum serves all. The authors' code updates V
    before the others read it, and does not standardise states.

    Args:
        state_dim: O, from the data.
        action_dim: A, from the data.
        device: where networks and batches live.
        seed: of the first weights.
        hidden: widths of the hidden layers of every network.
        learning_rate: Adam's, of every network, above 0.
        discount: what a reward is worth one step later, between 0 and 1.
        tau: share of the new weights that the critics' targets take over in every update, above 0, at most 1.
        standardize: subtract the data's mean state and divide by its standard deviation, per dimension.
        reward_scale: rewards are multiplied by this; `beta` acts on the product, see `return_scale`.
        expectile: of the returns of the data's actions that V learns, between 0 and 1; 0.5 is their mean.
        beta: inverse temperature of the advantages, at least 0; 0 is behaviour cloning.
        max_weight: no sample counts for more than this, above 0.
        cosine: let the policy's learning rate fall to 0 along a cosine over all updates.
    """

    expectile: float = 0.7
    beta: float = 3.0
    max_weight: float = 100.0
    cosine: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile: must be above 0 and below 1, got {self.expectile}")
        at_least(0, beta=self.beta)
        positive(max_weight=self.max_weight)
        super().__post_init__()

    def _build(self) -> None:
        both = [self.state_dim + self.action_dim, *self.hidden]
        self._actor = self._network("actor", GaussianPolicy([self.state_dim, *self.hidden, self.action_dim]))
        self._value = self._network("value", Perceptrons(members=1, sizes=[self.state_dim, *self.hidden, 1]))
        self._critic = self._network("critic", Perceptrons(members=2, sizes=[*both, 1]))
        self._critic_target = self._target("critic_target", self._critic)
        self._optimizer("all", self._actor, self._value, self._critic)

    @property
    def critic(self) -> Perceptrons:
        return self._critic

    def v(self, states: Tensor) -> Tensor:
        """Return the value (B,) of states (B, O) in physical units."""
        return self._value(self.standard(states))[0].squeeze(-1)

    def _act(self, states: Tensor) -> Tensor:
        return self._actor(states)

    def _update(
        self, states: Tensor, actions: Tensor, rewards: Tensor, next_states: Tensor, goes_on: Tensor
    ) -> dict[str, Tensor]:
        both = torch.cat([states, actions], dim=-1)
        with torch.no_grad():
            good = self._critic_target(both).squeeze(-1).amin(dim=0)
            target = rewards + self.discount * goes_on * self._value(next_states)[0].squeeze(-1)
        value = self._value(states)[0].squeeze(-1)
        advantage = good - value
        value_loss = expectile_loss(advantage, self.expectile)
        q = self._critic(both).squeeze(-1)
        critic_loss = (q - target).square().mean(dim=1).sum()
        weight = advantage_weight(advantage.detach(), self.beta, self.max_weight)
        policy_loss = -(weight * self._actor.log_prob(states, actions)).mean()
        self.optimizers["all"].param_groups[0]["lr"] = self.learning_rate * self._left()
        self._descend("all", value_loss + critic_loss + policy_loss)
        self._average()
        losses = {"value_loss": value_loss, "critic_loss": critic_loss, "policy_loss": policy_loss}
        return {**losses, "q": q.mean(), "v": value.mean(), "weight": weight.mean()}

    def _left(self) -> float:
        """Return the share of the learning rate that the policy still has."""
        if not self.cosine or not self.planned:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(self.updates / self.planned, 1.0)))


def expectile_loss(differences: Tensor, expectile: float) -> Tensor:
    """Return mean |expectile - 1[u < 0]| u^2, which the expectile of a sample minimises, u (B,) its distance to it."""
    return expectile_errors(differences, expectile).mean()


def expectile_errors(differences: Tensor, expectile: float) -> Tensor:
    """Return |expectile - 1[u < 0]| u^2 (B,), the parts that `expectile_loss` is the mean of."""
    return differences.square() * torch.where(differences < 0, 1 - expectile, expectile)


def advantage_weight(advantages: Tensor, beta: float, most: float) -> Tensor:
    """Return min(exp(beta A), most) of advantages (B,)."""
    return (beta * advantages).clamp(max=math.log(most)).exp()
