"""Planning with a causal GPT-2 without computing anything twice, and with the same result.

Under causal attention a token depends on those before it alone, and x comes last. Its first entries therefore
do not depend on later ones, and the keys and values of all other tokens do not depend on x: they are computed for
all S sampling timesteps in one batch instead of one after the other. Those of the prompt, the timestep and the
return stay the same for a whole episode (`KeyValuePrefix`); the history's are new in every plan. What is left for
each timestep is to push the entries of x that will be executed through the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtdiff.backbones.backbone import Prefix
from mtdiff.conditioning.encoder import Condition

if TYPE_CHECKING:
    from mtdiff.backbones.gpt2 import GPT2Backbone

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of every block, each (S, G B, heads, N, C / heads)."""

Packed = list[tuple[Tensor, Tensor]]
"""Weights of every block, as `Block.packed` lays them out."""

# Tokens that go through the network together: enough for large matrix products, few enough to stay in the cache.
_TOGETHER = 4096


@dataclass(frozen=True, kw_only=True)
class KeyValuePrefix(Prefix):
    """Keys and values of the tokens that last an episode, with room for those that follow.

    Attributes:
        layers: of the first sampling timesteps, as many as fit into the memory allowed; maybe none.
        packed: the weights that they were computed with.
    """

    layers: Layers
    packed: Packed

    def rows(self, at: Tensor) -> KeyValuePrefix:
        where = self._of_branches(at)
        layers = [(keys[:, where], values[:, where]) for keys, values in self.layers]
        return replace(self, condition=self.condition.rows(where), batch=len(at), layers=layers)

    def spread(self, batch: int) -> KeyValuePrefix:
        where = self._of_branches(torch.zeros(batch, dtype=torch.long))
        return replace(self, condition=self.condition.rows(where), batch=batch)  # `Decoder` copies the keys

    @property
    def nbytes(self) -> int:
        return self.condition.nbytes + sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    @property
    def known(self) -> int:
        """How many sampling timesteps it covers."""
        return len(self.layers[0][0])


def compute_prefix(
    net: GPT2Backbone,
    condition: Condition,
    timesteps: Sequence[int],
    branches: int,
    *,
    batch: int,
    room: int,
    memory: int | None,
) -> KeyValuePrefix:
    """See `Backbone.prefix`; `room` is counted in tokens."""
    samples, places = branches * batch, net.lead + net.following + room
    known = len(timesteps)
    if memory is not None:
        each = 2 * len(net.blocks) * samples * places * net.config.width * net.positions.dtype.itemsize
        known = min(known, max(0, memory - condition.nbytes) // each)
    layers, packed = _allocate(net, known, samples, places), net.packed()
    _write(net, packed, layers, net.order[: net.leading], condition, timesteps[:known], start=0)
    return KeyValuePrefix(
        condition=condition,
        timesteps=tuple(timesteps),
        branches=branches,
        batch=batch,
        layers=layers,
        packed=packed,
    )


class Decoder:
    """`predict(x, i)` of a causal GPT-2; see `Backbone.prepare`."""

    def __init__(
        self,
        net: GPT2Backbone,
        condition: Condition,
        timesteps: Sequence[int],
        branches: int,
        prefix: KeyValuePrefix | None,
    ):
        self.net, self.timesteps, self.branches = net, timesteps, branches
        self.condition = prefix.condition.join(condition) if prefix else condition
        self.packed: Packed = prefix.packed if prefix else net.packed()
        self.layers: Layers = prefix.layers if prefix else []
        self.span = range(prefix.known if prefix else 0)  # the timesteps that `layers` are of
        self.room: Layers = []  # see `_spread`
        self.start = net.lead + net.following
        told = torch.tensor(timesteps, device=net.positions.device)
        self.embedded = net.timestep(told)  # (S, C)
        _write(
            net,
            self.packed,
            self.layers,
            net.order[net.leading :],
            self.condition,
            timesteps[: len(self.span)],
            start=net.lead,
        )

    def __call__(self, x: Tensor, i: int) -> Tensor:
        net = self.net
        grouped = x.to(net.positions.dtype).unflatten(1, (-1, net.granularity)).flatten(2)  # (B, n, g D)
        batch = len(grouped)
        if i not in self.span:
            self._compute(i, self.branches * batch, self.start + net.count_tokens(x.shape[1]))
        pieces = net.embed(grouped).repeat(self.branches, 1, 1)  # (G B, n, C)
        tokens = net.enter(pieces, self.embedded[i], self.condition.added, self.start)
        at = i - self.span.start
        layers = [(keys[at], values[at]) for keys, values in self.layers]
        if len(layers[0][0]) < len(tokens):
            layers = self._spread(layers, len(tokens), self.start + tokens.shape[1])
        read = _extend(net, self.packed, tokens, layers, self.start, read=True)
        assert read is not None
        return net.leave(read).unflatten(0, (self.branches, batch))

    def _spread(self, layers: Layers, samples: int, places: int) -> Layers:
        """Keys and values that samples share, with room of its own for each; of one timestep at a time."""
        if not self.room:
            self.room = _allocate(self.net, 1, samples, places)
        for room, shared in zip(self.room, layers, strict=True):
            for to, of in zip(room, shared, strict=True):
                to[0].unflatten(0, (len(of), -1))[..., : self.start, :] = of[:, None, :, : self.start]
        return [(keys[0], values[0]) for keys, values in self.room]

    def _compute(self, i: int, samples: int, places: int) -> None:
        """Keys and values of all but x, for call `i` and some after it."""
        many = max(1, _TOGETHER // (samples * max(self.start, 1)))
        self.span = range(i, min(i + many, len(self.timesteps)))
        self.layers = _allocate(self.net, len(self.span), samples, places)
        timesteps = self.timesteps[i : self.span.stop]
        _write(self.net, self.packed, self.layers, self.net.order, self.condition, timesteps, start=0)


def _allocate(net: GPT2Backbone, timesteps: int, samples: int, places: int) -> Layers:
    heads = net.config.num_heads
    shape = (timesteps, samples, heads, places, net.config.width // heads)
    return [(net.positions.new_empty(shape), net.positions.new_empty(shape)) for _ in net.blocks]


def _write(
    net: GPT2Backbone,
    packed: Packed,
    layers: Layers,
    order: Sequence[tuple[str | None, int]],
    condition: Condition,
    timesteps: Sequence[int],
    start: int,
) -> None:
    """Compute the tokens in `order` under each of the timesteps, and keep their keys and values."""
    count = sum(number for _, number in order)
    if not count or not timesteps:
        return
    samples, width = layers[0][0].shape[1], net.config.width
    many = max(1, _TOGETHER // (samples * count))
    for first in range(0, len(timesteps), many):
        span = slice(first, first + many)
        embedded = net.timestep(torch.tensor(timesteps[span], device=net.positions.device))[:, None, None]
        shape = (len(embedded), samples, -1, width)
        pieces = [(embedded if name is None else condition.tokens[name][None]).expand(shape) for name, _ in order]
        tokens = net.enter(torch.cat(pieces, dim=2), embedded, condition.added, start)
        together = [(keys[span].flatten(0, 1), values[span].flatten(0, 1)) for keys, values in layers]
        _extend(net, packed, tokens.flatten(0, 1), together, start, read=False)


def _extend(
    net: GPT2Backbone, packed: Packed, tokens: Tensor, layers: Layers, start: int, *, read: bool
) -> Tensor | None:
    """Push tokens (M, n, C) that follow `start` others through all blocks, noting their keys and values."""
    count = tokens.shape[1]
    mask = None
    if count > 1:
        mask = torch.ones(count, start + count, dtype=torch.bool, device=tokens.device).tril(start)
    blocks = net.stack
    for block, weights, (keys, values) in zip(blocks, packed, layers, strict=True):
        last = block is blocks[-1]
        mixed = block.extend(tokens, keys, values, start, mask, weights, read=read or not last)
        if mixed is None:
            return None
        tokens = mixed
    return tokens
