"""A token for each piece of an entry of x: state, action, reward and next state (MTDiff's released code)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtdiff.conditioning.encoder import mlp


class SplitEmbedding(nn.Module):
    """Entries (B, n, D) to tokens (B, n P, C), the P pieces of an entry one after the other.

    Args:
        pieces: name to width. A state and a next state share their layers.
        sizes: widths of the layers after the first; the last one is C.
    """

    def __init__(self, pieces: Mapping[str, int], sizes: Sequence[int]):
        super().__init__()
        self.widths, self.kinds = list(pieces.values()), [_kind(name) for name in pieces]
        self.layers = nn.ModuleDict({_kind(name): mlp([width, *sizes]) for name, width in pieces.items()})

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.kinds, x.split(self.widths, dim=-1), strict=True)
        return torch.stack([self.layers[kind](part) for kind, part in parts], dim=2).flatten(1, 2)


class SplitHead(nn.Module):
    """Tokens (B, n P, C) to entries (B, n, D).

    Args:
        pieces: as in `SplitEmbedding`.
        sizes: widths of the layers before the last; the first one is C.
    """

    def __init__(self, pieces: Mapping[str, int], sizes: Sequence[int]):
        super().__init__()
        self.kinds = [_kind(name) for name in pieces]
        self.layers = nn.ModuleDict({_kind(name): mlp([*sizes, width]) for name, width in pieces.items()})

    def forward(self, tokens: Tensor) -> Tensor:
        parts = tokens.unflatten(1, (-1, len(self.kinds))).unbind(2)
        return torch.cat([self.layers[kind](part) for kind, part in zip(self.kinds, parts, strict=True)], dim=-1)


def _kind(name: str) -> str:
    return name.removeprefix("next_")
