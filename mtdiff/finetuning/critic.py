"""What the states are worth: for advantages of lower variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtdiff.conditioning.encoder import mlp


class Critic(nn.Module):
    """Value of a history, in units of the reward per step: the sum of discounted rewards times (1 - discount).

    Args:
        size: L O, numbers of a history.
        seed: of the first weights.
        hidden: widths of the hidden layers.
    """

    def __init__(self, size: int, *, seed: int, hidden: tuple[int, ...] = (256, 256)):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = mlp([size, *hidden, 1], "silu")

    def forward(self, history: Tensor) -> Tensor:
        """Values (B,) of histories (B, L, O) in model space."""
        return self.layers(history.flatten(1))[:, 0]
