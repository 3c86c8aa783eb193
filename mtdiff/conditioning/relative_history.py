"""Where the agent came from, not where it is: the last states relative to the present one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtdiff.activations import Activation
from mtdiff.conditioning.history import History
from mtdiff.conditioning.path_prompt import places_of
from mtdiff.registry import CONDITIONING


@CONDITIONING.register("relative_history", runtime=("state_dim", "width"))
class RelativeHistory(History):
    """The last L states, of which some numbers, the place, are relative to the present state and so zero in it.

    States before the episode began are zeros in model space, and stay so.

    Args:
        length: L, states including the present one, at least 1.
        relative: which numbers of a state are shown relative to the present state, counted from 0.
        hidden: widths of the hidden layers of the per-state network.
        activation: of the hidden layers; "mish" is the paper's, "gelu" and "silu" are far cheaper on a CPU.
        input_norm: layer-normalise each state first, as the released code does.
        dropout: probability of withholding it in training, which makes guidance on it possible.
        learnt_null: what stands in for it is learnt, from zero; otherwise it stays zero.
        state_dim: O, from the data.
        width: C, from the backbone.
    """

    def __init__(
        self,
        *,
        length: int = 2,
        relative: tuple[int, ...] = (0, 1),
        hidden: tuple[int, ...] = (512, 1024),
        activation: Activation = "mish",
        input_norm: bool = False,
        dropout: float = 0.0,
        learnt_null: bool = True,
        state_dim: int,
        width: int,
    ):
        super().__init__(
            length=length,
            hidden=hidden,
            activation=activation,
            input_norm=input_norm,
            dropout=dropout,
            learnt_null=learnt_null,
            state_dim=state_dim,
            width=width,
        )
        self.relative = places_of(relative, state_dim)

    def encode(self, fields: Mapping[str, Tensor]) -> Tensor:
        history = fields["history"].clone()
        begun = (history != 0).any(-1, keepdim=True)  # in model space nothing but padding is zero throughout
        places = history[..., self.relative]
        history[..., self.relative] = torch.where(begun, places - places[:, -1:], 0.0)
        return super().encode({**fields, "history": history})
