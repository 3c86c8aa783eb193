"""What an encoder of a condition is, and what a backbone receives of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtdiff.activations import ACTIVATIONS, Activation
from mtdiff.errors import at_least, fraction

Lifetime = Literal["episode", "plan"]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """The encoded conditions of a batch.

    Attributes:
        tokens: role to tokens of shape (B, J, C).
        added: sum of the embeddings that are also added to every token, (B, C), or None.
    """

    tokens: Mapping[str, Tensor]
    added: Tensor | None = None

    def join(self, other: Condition) -> Condition:
        """The conditions of the same batch under two sets of roles."""
        added = [part for part in (self.added, other.added) if part is not None]
        return Condition(tokens={**self.tokens, **other.tokens}, added=sum(added[1:], added[0]) if added else None)

    def rows(self, at: Tensor) -> Condition:
        """The samples at the places `at`."""
        return Condition(
            tokens={name: tokens[at] for name, tokens in self.tokens.items()},
            added=None if self.added is None else self.added[at],
        )

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(part.nbytes for part in (*self.tokens.values(), self.added) if part is not None)


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a backbone must know of a condition before it sees one.

    Attributes:
        name: the role's name in the recipe: "task", "history", "return" ...
        num_tokens: J, tokens it contributes.
        lifetime: "episode" when it stays the same for a whole episode, "plan" when every plan has a new one.
        added: whether its embedding is also added to every token (MTDiff's return).
    """

    name: str
    num_tokens: int
    lifetime: Lifetime
    added: bool = False


class Encoder(nn.Module):
    """Turns fields of a batch into tokens. It never sees x, the timestep or another encoder.

    A subclass sets the class attributes, calls `super().__init__(dropout=..., width=...)`, sets `num_tokens`
    and writes `encode`. With `learnt_null=False` zeros stand in for a withheld condition, as in the released code.

    Attributes:
        reads: names of the batch fields that `encode` needs.
        lifetime: see `Role`.
        added: see `Role`.
        num_tokens: tokens per sample.
        length: how many steps of its field it reads, for fields that are sequences.
    """

    reads: Sequence[str] = ()
    lifetime: Lifetime = "episode"
    added: bool = False
    num_tokens: int = 1
    length: int = 1

    null: Tensor | None

    def __init__(self, *, dropout: float, width: int, learnt_null: bool = True):
        super().__init__()
        fraction(dropout=dropout)
        at_least(1, width=width)
        self.dropout = dropout
        # What stands in for a withheld condition; it starts at zero, MTDiff's own choice, and is learnt.
        null = torch.zeros(width) if dropout > 0 else None
        if learnt_null:
            self.null = None if null is None else nn.Parameter(null)
        else:
            self.register_buffer("null", null, persistent=False)

    def window(self) -> dict[str, Any]:
        """Keyword arguments of `mtdiff.data.Windows` that make it produce the fields in `reads`."""
        return {}

    def encode(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Return tokens of shape (B, num_tokens, C)."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(fields)")

    def forward(self, fields: Mapping[str, Tensor], drop: Tensor | None = None) -> Tensor:
        """Encode, and put the null token where `drop` (B,) is true.

        Raises:
            ValueError: if a field is missing, or a condition that is never withheld in training is dropped.
        """
        missing = [name for name in self.reads if name not in fields]
        if missing:
            raise ValueError(
                f"{type(self).__name__} needs {', '.join(missing)}; got {', '.join(sorted(fields)) or 'nothing'}"
            )
        tokens = self.encode(fields)
        if drop is None:
            return tokens
        if self.null is None:
            raise ValueError(
                f"{type(self).__name__} cannot be withheld: it was trained with dropout 0. "
                "Give it a dropout above 0, or sample with guidance_scale=1.0"
            )
        return torch.where(drop[:, None, None], self.null.to(tokens.dtype), tokens)


def mlp(sizes: Sequence[int], activation: Activation = "mish") -> nn.Sequential:
    """Linear layers of the given sizes with an activation between them (the paper's is Mish)."""
    if min(sizes) < 1:
        raise ValueError(f"hidden: every width must be at least 1, got {', '.join(map(str, sizes[1:-1]))}")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
