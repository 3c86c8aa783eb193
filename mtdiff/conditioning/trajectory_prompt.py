"""A short demonstration that tells the model which task it is (MTDiff section 3.1, f_P)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mtdiff.activations import Activation
from mtdiff.conditioning.encoder import Encoder, mlp
from mtdiff.errors import at_least
from mtdiff.registry import CONDITIONING


@CONDITIONING.register("trajectory_prompt", runtime=("state_dim", "action_dim", "width"))
class TrajectoryPrompt(Encoder):
    """J steps of a demonstration, a joint token for the state and action of each.

    Args:
        length: J, steps of the demonstration that are shown, at least 1.
        spacing: "contiguous" steps from a random place of the demonstration (the paper), or "even" spacing
            over all of it.
        latest_start: last step of the demonstration, counted from 0, at which a contiguous prompt may begin; null
            for any that leaves J steps. 149 in the released code.
        normalize: show it in model space; otherwise in physical units, as the released code does.
        pool: gather the J tokens into this many by attention with learnt queries; None keeps all J. A few
            pooled tokens make a plan several times cheaper.
        hidden: widths of the hidden layers of the per-step network.
        activation: of the hidden layers; "mish" is the paper's, "gelu" and "silu" are far cheaper on a CPU.
        input_norm: layer-normalise each step first, as the released code does.
        dropout: probability of withholding it in training, which makes guidance on it possible.
        learnt_null: what stands in for it is learnt, from zero; otherwise it stays zero, as in the released code.
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
        pool: int | None = None,
        hidden: tuple[int, ...] = (512, 1024),
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
        if pool is not None and not 1 <= pool <= length:
            raise ValueError(f"pool: must be between 1 and length={length}, or null, got {pool}")
        if latest_start is not None:
            at_least(0, latest_start=latest_start)
            if spacing == "even":
                raise ValueError(f"latest_start: must be null where spacing is 'even', got {latest_start}")
        self.length, self.spacing, self.pool = length, spacing, pool
        self.latest_start, self.normalize = latest_start, normalize
        self.num_tokens = pool or length
        self.norm = nn.LayerNorm(state_dim + action_dim) if input_norm else nn.Identity()
        self.embed = mlp([state_dim + action_dim, *hidden, width], activation)
        if pool is not None:
            self.queries = nn.Parameter(torch.randn(pool, width) / width**0.5)
            self.keys = nn.Linear(width, width)
            self.values = nn.Linear(width, width)
            self.order = nn.Parameter(torch.zeros(length, width))

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
        steps = self.embed(self.norm(torch.cat([states, actions], dim=-1)))  # (B, J, C)
        if self.pool is None:
            return steps
        steps = steps + self.order
        # Attention of the queries over keys(steps) and values(steps). Both are linear, so they may move to the few
        # queries and the few gathered tokens: a third of the multiplications.
        scores = linear(steps, self.queries @ self.keys.weight, self.queries @ self.keys.bias) / steps.shape[-1] ** 0.5
        return self.values(scores.softmax(dim=1).transpose(1, 2) @ steps)  # (B, pool, C)
