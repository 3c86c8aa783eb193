"""S4RL (Sinha et al. 2021): states moved to where the critic expects more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mtdiff.augmentations.augmentation import Augmentation, Batch
from mtdiff.errors import at_least
from mtdiff.registry import AUGMENTATIONS

if TYPE_CHECKING:
    from mtdiff.learners import Learner


@AUGMENTATIONS.register("s4rl")
@dataclass(frozen=True, kw_only=True)
class S4RL(Augmentation):
    """Adversarial states: z + step * d Q(z, pi(z)) / d z, with z the learner's standardised state.

    Sinha et al., "S4RL: Surprisingly Simple Self-Supervision for Offline Reinforcement Learning", CoRL 2021. It needs
    the critic as it is now: Q is the first one's, pi the policy's, and both are differentiated. The next state is
    changed likewise, at its own gradient.

    The gradient grows with the returns: ten times the rewards move a state ten times as far. `step` therefore belongs
    to a scale of rewards: with rewards as Meta-World's, up to 10 a step, Q can reach 1000 and the default move states
    by standard deviations. Give the learner a `reward_scale` with which Q is of the order of 1, or take a smaller step.

    Args:
        step: how far along the gradient, at least 0.

    Raises:
        ValueError: `step` is below 0.
    """

    step: float = 0.01

    def __post_init__(self) -> None:
        at_least(0, step=self.step)

    def change(self, learner: Learner, batch: Batch) -> Batch:
        """Return the batch with moved states."""
        both = torch.cat([batch["state"], batch["next_state"]])
        with torch.enable_grad():
            states = both.detach().requires_grad_()
            value = learner.q(states, learner.policy(states))[0].sum()
            (slope,) = torch.autograd.grad(value, states)
        # d/dz is slope * scale; a move of z is a move times scale in physical units.
        state, next_state = (both + self.step * slope * learner.state_scale.square()).chunk(2)
        return {**batch, "state": state, "next_state": next_state}
