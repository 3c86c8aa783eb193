"""Rivals of synthetic data that need no model: batches whose states are changed while a learner learns.

Each is what `train_learner(..., augment=...)` calls with the learner and a batch in physical units. What they draw
comes from the learner's generator, so that training resumes exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtdiff.errors import at_least
from mtdiff.learners.learner import Learner

Batch = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class RAD:
    """Random amplitude scaling: a state and its next state are multiplied by one number z, drawn for every transition.

    Laskin et al., "Reinforcement Learning with Augmented Data", NeurIPS 2020. States are scaled in physical units,
    around zero.

    Args:
        low: least z, above 0.
        high: largest z, at least `low`.

    Raises:
        ValueError: an argument is out of range.
    """

    low: float = 0.8
    high: float = 1.2

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(f"low, high: need 0 < low <= high, got {self.low}, {self.high}")

    def __call__(self, learner: Learner, batch: Mapping[str, Tensor]) -> Batch:
        """Return the batch with scaled states."""
        count, device = len(batch["state"]), batch["state"].device
        z = torch.rand(count, 1, generator=learner.generator, device=device) * (self.high - self.low) + self.low
        return {**batch, "state": batch["state"] * z, "next_state": batch["next_state"] * z}


@dataclass(frozen=True, kw_only=True)
class S4RL:
    """Adversarial states: s + step * d Q(s, pi(s)) / d s, in the units of the learner's standardised states.

    Sinha et al., "S4RL: Surprisingly Simple Self-Supervision for Offline Reinforcement Learning", CoRL 2021. It needs
    the critic as it is now: Q is the first one's, pi the policy's, and both are differentiated. The next state is
    changed likewise, at its own gradient.

    Args:
        step: how far along the gradient, at least 0.

    Raises:
        ValueError: `step` is below 0.
    """

    step: float = 0.01

    def __post_init__(self) -> None:
        at_least(0, step=self.step)

    def __call__(self, learner: Learner, batch: Mapping[str, Tensor]) -> Batch:
        """Return the batch with moved states."""
        both = torch.cat([batch["state"], batch["next_state"]])
        with torch.enable_grad():
            states = both.detach().requires_grad_()
            value = learner.q(states, learner.policy(states))[0].sum()
            (slope,) = torch.autograd.grad(value, states)
        # d/ds in standardised units is slope * scale; a move there is a move times scale in physical units.
        state, next_state = (both + self.step * slope * learner.state_scale.square()).chunk(2)
        return {**batch, "state": state, "next_state": next_state}
