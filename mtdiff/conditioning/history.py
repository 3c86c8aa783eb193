"""The states the agent has just seen (MTDiff section 3.2, f_H)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mtdiff.activations import Activation
from mtdiff.conditioning.encoder import Encoder, mlp
from mtdiff.errors import at_least
from mtdiff.registry import CONDITIONING


@CONDITIONING.register("history", runtime=("state_dim", "width"))
class History(Encoder):
    """The last L states, one token each; states before the episode began are zeros in model space.

    Args:
        length: L, states including the present one, at least 1.
        hidden: widths of the hidden layers of the per-state network.
        activation: of the hidden layers; "mish" is the paper's, "gelu" and "silu" are far cheaper on a CPU.
        input_norm: layer-normalise each state first, as the released code does.
        dropout: probability of withholding it in training, which makes guidance on it possible.
        learnt_null: what stands in for it is learnt, from zero; otherwise it stays zero, as in the released code.
        state_dim: O, from the data.
        width: C, from the backbone.
    """

    reads = ("history",)
    lifetime = "plan"

    def __init__(
        self,
        *,
        length: int = 2,
        hidden: tuple[int, ...] = (512, 1024),
        activation: Activation = "mish",
        input_norm: bool = True,
        dropout: float = 0.0,
        learnt_null: bool = True,
        state_dim: int,
        width: int,
    ):
        super().__init__(dropout=dropout, width=width, learnt_null=learnt_null)
        at_least(1, length=length)
        self.length = self.num_tokens = length
        self.norm = nn.LayerNorm(state_dim) if input_norm else nn.Identity()
        self.embed = mlp([state_dim, *hidden, width], activation)

    def window(self) -> dict[str, Any]:
        return {"history": self.length}

    def encode(self, fields: Mapping[str, Tensor]) -> Tensor:
        return self.embed(self.norm(fields["history"]))  # (B, L, C)
