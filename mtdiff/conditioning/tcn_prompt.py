"""A demonstration as one token, read by dilated causal convolutions (Bai et al. 2018; MTDiff's U-Net variant)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mtdiff.activations import ACTIVATIONS, Activation
from mtdiff.conditioning.encoder import Encoder
from mtdiff.errors import at_least
from mtdiff.registry import CONDITIONING


class CausalBlock(nn.Module):
    """act(x + act(conv(act(conv(x))))), where step t of the result reads only steps up to t."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, dilation: int, activation: str):
        super().__init__()
        self.before = (kernel_size - 1) * dilation
        self.first = nn.Conv1d(inputs, outputs, kernel_size, dilation=dilation)
        self.second = nn.Conv1d(outputs, outputs, kernel_size, dilation=dilation)
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Turn x (B, inputs, J) into (B, outputs, J)."""
        hidden = self.act(self.first(pad(x, (self.before, 0))))
        hidden = self.act(self.second(pad(hidden, (self.before, 0))))
        return self.act(hidden + self.skip(x))


@CONDITIONING.register("tcn_prompt", runtime=("state_dim", "action_dim", "width"))
class TCNPrompt(Encoder):
    """J steps of a demonstration, read by a temporal convolutional network into a single token.

    Level l is a residual block of two causal convolutions whose taps lie 2**l steps apart, so the last step,
    which becomes the token, has read `reach` = 1 + 2 (kernel_size - 1) (2**levels - 1) steps. Bai et al. use
    weight normalisation and dropout inside the blocks; here neither is, and the input may be normalised.

    Args:
        length: J, steps of the demonstration that are shown, at least 1.
        spacing: "contiguous" steps from a random place of the demonstration (the paper), or "even" spacing
            over all of it.
        latest_start: last step of the demonstration, counted from 0, at which a contiguous prompt may begin; null
            for any that leaves J steps.
        normalize: show it in model space; otherwise in physical units.
        hidden: channels of each level.
        kernel_size: taps of each convolution, at least 2.
        activation: of the convolutions; "mish" is the paper's, "gelu" and "silu" are far cheaper on a CPU.
        input_norm: layer-normalise each step first, as the released code does for its prompts.
        dropout: probability of withholding it in training, which makes guidance on it possible.
        learnt_null: what stands in for it is learnt, from zero; otherwise it stays zero.
        state_dim: O, from the data.
        action_dim: A, from the data.
        width: C, from the backbone.
    """

    reads = ("prompt_states", "prompt_actions")
    lifetime = "episode"

    def __init__(
        self,
        *,
        length: int = 20,
        spacing: Literal["contiguous", "even"] = "contiguous",
        latest_start: int | None = None,
        normalize: bool = True,
        hidden: tuple[int, ...] = (128, 128, 128),
        kernel_size: int = 3,
        activation: Activation = "mish",
        input_norm: bool = True,
        dropout: float = 0.0,
        learnt_null: bool = True,
        state_dim: int,
        action_dim: int,
        width: int,
    ):
        super().__init__(dropout=dropout, width=width, learnt_null=learnt_null)
        at_least(1, length=length)
        at_least(2, kernel_size=kernel_size)
        if not hidden or min(hidden) < 1:
            shown = ", ".join(map(str, hidden)) or "none"
            raise ValueError(f"hidden: must be one or more widths of at least 1, got {shown}")
        if latest_start is not None:
            at_least(0, latest_start=latest_start)
            if spacing == "even":
                raise ValueError(f"latest_start: must be null where spacing is 'even', got {latest_start}")
        self.length, self.spacing = length, spacing
        self.latest_start, self.normalize = latest_start, normalize
        self.reach = 1 + 2 * (kernel_size - 1) * (2 ** len(hidden) - 1)
        if self.reach < length:
            raise ValueError(
                f"hidden: {len(hidden)} levels of kernel_size={kernel_size} read {self.reach} steps, which is fewer "
                f"than length={length}; the first steps of a prompt would be ignored. Add a level"
            )
        self.norm = nn.LayerNorm(state_dim + action_dim) if input_norm else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                CausalBlock(inputs, outputs, kernel_size, 2**level, activation)
                for level, (inputs, outputs) in enumerate(pairwise([state_dim + action_dim, *hidden]))
            )
        )
        self.out = nn.Linear(hidden[-1], width)

    def window(self) -> dict[str, Any]:
        return {
            "prompt": self.length,
            "prompt_spacing": self.spacing,
            "prompt_latest_start": self.latest_start,
            "prompt_normalize": self.normalize,
        }

    def encode(self, fields: Mapping[str, Tensor]) -> Tensor:
        states, actions = fields["prompt_states"], fields["prompt_actions"]
        if states.shape[1] != self.length:
            raise ValueError(f"prompt: must have {self.length} steps, got {states.shape[1]}")
        steps = self.norm(torch.cat([states, actions], dim=-1))  # (B, J, O + A)
        return self.out(self.blocks(steps.transpose(1, 2))[:, None, :, -1])  # (B, 1, C)
