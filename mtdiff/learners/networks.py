"""Small perceptrons, several of equal shape computed as one, and weights that lie side by side.

B batch, E members, D inputs, F outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["GaussianPolicy", "Perceptrons", "flatten"]

_LOG_STD = (-5.0, 2.0)  # between these the policy's logarithmic standard deviation is kept


class Perceptrons(nn.Module):
    """E perceptrons with ReLU between their layers, of one shape and the same inputs: a batched product a layer.

    Args:
        members: E.
        sizes: of the input, of the hidden layers and of the output.
    """

    def __init__(self, *, members: int, sizes: Sequence[int]):
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            bound = inputs**-0.5  # what nn.Linear draws from
            self.weights.append(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Return what every member says, (E, B, F), of inputs (B, D)."""
        return _layers(x.expand(len(self.weights[0]), *x.shape), list(self.weights), list(self.biases))

    def each(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Return what every member says, (E, B, F), of inputs of its own (E, B, D).

        With `frozen` gradients reach the inputs and not the weights.
        """
        weights, biases = list(self.weights), list(self.biases)
        if frozen:
            weights, biases = ([value.detach() for value in values] for values in (weights, biases))
        return _layers(x, weights, biases)

    def first(self, x: Tensor) -> Tensor:
        """Return what the first member says, (B, F): gradients reach the inputs and not the weights."""
        weights, biases = ([value[:1].detach() for value in values] for values in (self.weights, self.biases))
        return _layers(x[None], weights, biases)[0]


def _layers(hidden: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        hidden = torch.baddbmm(bias, hidden, weight).relu_()
    if weights[-1].shape[2] == 1:  # matrix products are slow at a single column
        return (hidden * weights[-1].mT).sum(2, keepdim=True) + biases[-1]
    return torch.baddbmm(biases[-1], hidden, weights[-1])


class GaussianPolicy(nn.Module):
    """A Gaussian over actions: the mean in [-1, 1] by tanh, one standard deviation per dimension, for every state.

    Args:
        sizes: of the input, the hidden layers and the action.
    """

    def __init__(self, sizes: list[int]):
        super().__init__()
        self.mean = Perceptrons(members=1, sizes=sizes)
        self.log_std = nn.Parameter(torch.zeros(sizes[-1]))

    def forward(self, states: Tensor) -> Tensor:
        """Return the mean (B, A)."""
        return self.mean(states)[0].tanh()

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the logarithmic density (B,) of actions (B, A)."""
        log_std = self.log_std.clamp(*_LOG_STD)
        away = (actions - self(states)) * (-log_std).exp()
        return -(0.5 * away.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def flatten(network: nn.Module) -> Tensor:
    """Move a network's weights, and their gradients, side by side into one parameter (its size,), and return that.

    An optimiser and a moving average then have one tensor to go through. The network computes as before; gradients
    are to be set to zero and never to None.
    """
    weights = list(network.parameters())
    flat = nn.Parameter(torch.cat([weight.detach().flatten() for weight in weights]))
    flat.grad = torch.zeros_like(flat)
    sizes = [weight.numel() for weight in weights]
    for weight, values, slopes in zip(weights, flat.data.split(sizes), flat.grad.split(sizes), strict=True):
        weight.data = values.view_as(weight)
        weight.grad = slopes.view_as(weight) if weight.requires_grad else None
    return flat
