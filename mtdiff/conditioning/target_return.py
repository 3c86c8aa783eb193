"""The return the plan should reach (MTDiff section 3.2, f_R): withheld at random, so that it can be guided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from mtdiff.activations import Activation
from mtdiff.conditioning.encoder import Encoder, mlp
from mtdiff.data.returns import ReturnLabel
from mtdiff.registry import CONDITIONING

_FREQUENCIES = 16


@CONDITIONING.register("target_return", runtime=("width",))
class TargetReturn(Encoder):
    """One token for the return, also added to every other token.

    In training it is told a label of the window's step, when planning `sampling.target_return`. The label "episode"
    is the return of the whole episode, scaled per task so that the 5 % quantile is 0 and the 95 % quantile is 1, and
    clipped to [0, 1]: asking for 1.0 asks for the best the data reliably show. The label "remaining" is the released
    code's: the discounted rewards still to come, averaged over the steps still to come,
    R_t = sum over j >= t of discount^(j - t) r_j, divided by (label_steps - t), in the rewards' own units; it asks
    for 9 where rewards go up to 10. No episode may then be longer than `label_steps`.

    Args:
        dropout: probability of withholding the return in training (0.25 in the paper).
        learnt_null: what stands in for it is learnt, from zero; otherwise it stays zero, as in the released code.
        label: "episode" or "remaining", see above.
        discount: of the label "remaining", in [0, 1].
        label_steps: steps that every episode counts as, for the label "remaining"; at least the longest episode's.
        hidden: widths of the hidden layers.
        features: feed the number itself ("scalar", the paper), or sines and cosines of it ("fourier"), which
            a small network tells apart more easily.
        activation: of the hidden layers; "mish" is the paper's, "gelu" and "silu" are far cheaper on a CPU.
        width: C, from the backbone.
    """

    reads = ("return",)
    lifetime = "episode"
    added = True

    def __init__(
        self,
        *,
        dropout: float = 0.25,
        learnt_null: bool = True,
        label: Literal["episode", "remaining"] = "episode",
        discount: float = 0.99,
        label_steps: int = 500,
        hidden: tuple[int, ...] = (256, 512),
        features: Literal["scalar", "fourier"] = "scalar",
        activation: Activation = "mish",
        width: int,
    ):
        super().__init__(dropout=dropout, width=width, learnt_null=learnt_null)
        self.label = ReturnLabel(label=label, discount=discount, steps=label_steps)
        self.features = features
        self.embed = mlp([1 if features == "scalar" else 2 * _FREQUENCIES + 1, *hidden, width], activation)

    def window(self) -> dict[str, Any]:
        return {"returns": self.label}

    def encode(self, fields: Mapping[str, Tensor]) -> Tensor:
        value = fields["return"].reshape(-1, 1)  # (B, 1)
        if self.features == "fourier":
            angles = value * math.pi * torch.arange(1, _FREQUENCIES + 1, device=value.device)
            value = torch.cat([value, angles.sin(), angles.cos()], dim=-1)
        return self.embed(value)[:, None]  # (B, 1, C)
