"""A demonstration as a path, in one token, and if wanted as it lies from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mtdiff.activations import Activation
from mtdiff.conditioning.encoder import Encoder, Lifetime, mlp
from mtdiff.errors import at_least
from mtdiff.registry import CONDITIONING


@CONDITIONING.register("path_prompt", runtime=("state_dim", "action_dim", "width"))
class PathPrompt(Encoder):
    """J steps of a demonstration side by side, read at once: far cheaper than a token for each, if J is large.

    With `relative`, numbers of the shown states, their place, are relative to the present state. The prompt then
    changes from plan to plan, and nothing of it can be kept for an episode.

    Args:
        length: J, steps of the demonstration that are shown, at least 1.
        spacing: "contiguous" steps from a random place of the demonstration, or "even" spacing over all of it.
        latest_start: last step of the demonstration, counted from 0, at which a contiguous prompt may begin; null
            for any that leaves J steps.
        relative: numbers of a state, counted from 0, that are shown relative to the present state; [0, 1] for a place
            in the plane.
        tokens: one token for the "whole" path, or one for each of its "steps".
        hidden: widths of the hidden layers of the network that reads the path or a step.
        activation: of the hidden layers; "mish" is the paper's, "gelu" and "silu" are far cheaper on a CPU.
        dropout: probability of withholding it in training, which makes guidance on it possible.
        learnt_null: what stands in for it is learnt, from zero; otherwise it stays zero.
        state_dim: O, from the data.
        action_dim: A, from the data.
        width: C, from the backbone.
    """

    reads: Sequence[str] = ("prompt_states", "prompt_actions")
    lifetime: Lifetime = "episode"

    def __init__(
        self,
        *,
        length: int = 20,
        spacing: Literal["contiguous", "even"] = "contiguous",
        latest_start: int | None = None,
        relative: tuple[int, ...] = (),
        tokens: Literal["whole", "steps"] = "whole",
        hidden: tuple[int, ...] = (512,),
        activation: Activation = "mish",
        dropout: float = 0.0,
        learnt_null: bool = True,
        state_dim: int,
        action_dim: int,
        width: int,
    ):
        super().__init__(dropout=dropout, width=width, learnt_null=learnt_null)
        at_least(1, length=length)
        if latest_start is not None:
            at_least(0, latest_start=latest_start)
            if spacing == "even":
                raise ValueError(f"latest_start: must be null where spacing is 'even', got {latest_start}")
        self.length, self.spacing, self.latest_start, self.tokens = length, spacing, latest_start, tokens
        self.relative = places_of(relative, state_dim)
        if self.relative:
            self.reads, self.lifetime = (*type(self).reads, "present"), "plan"
        self.num_tokens = length if tokens == "steps" else 1
        size = state_dim + action_dim
        self.embed = mlp([size if tokens == "steps" else length * size, *hidden, width], activation)

    def window(self) -> dict[str, Any]:
        asked = {"prompt": self.length, "prompt_spacing": self.spacing, "prompt_latest_start": self.latest_start}
        return {**asked, "prompt_normalize": True, **({"present": True} if self.relative else {})}

    def encode(self, fields: Mapping[str, Tensor]) -> Tensor:
        states = fields["prompt_states"]
        if states.shape[1] != self.length:
            raise ValueError(f"prompt: must have {self.length} steps, got {states.shape[1]}")
        if self.relative:
            states = states.clone()
            states[..., self.relative] -= fields["present"][:, None, self.relative]
        steps = torch.cat([states, fields["prompt_actions"]], dim=-1)  # (B, J, O + A)
        return self.embed(steps if self.tokens == "steps" else steps.flatten(1)[:, None])  # (B, J or 1, C)


def places_of(relative: tuple[int, ...], state_dim: int) -> list[int]:
    """Return the numbers of a state that are shown relative to the present one.

    Raises:
        ValueError: one that a state does not have.
    """
    if unknown := [number for number in relative if not 0 <= number < state_dim]:
        raise ValueError(f"relative: must be numbers of a state, from 0 to {state_dim - 1}, got {unknown[0]}")
    return list(relative)
