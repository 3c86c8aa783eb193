"""What a caller knows in physical units, checked and turned into the batch fields that encoders read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mtdiff.conditioning.encoder import Encoder, Lifetime
from mtdiff.errors import DataError, choices
from mtdiff.pipelines.maps import read_map
from mtdiff.pipelines.prompts import Prompt

if TYPE_CHECKING:
    from mtdiff.pipelines.trained import TrainedPipeline

PromptLike = str | Prompt | Mapping[str, Any] | Sequence["str | Prompt | Mapping[str, Any]"]


def read_fields(
    pipe: TrainedPipeline,
    given: Mapping[str, Any],
    *,
    lifetimes: tuple[Lifetime, ...] = ("episode", "plan"),
    batch: int = 1,
    counted: str = "generator",
) -> tuple[dict[str, Tensor], int]:
    """Check the conditions that the encoders read, bring them to model space and to one batch size.

    Args:
        pipe: whose encoders.
        given: `prompt`, `task`, `map`, `history`, `target_return` as in a pipeline's `__call__`, or None.
        lifetimes: only for the encoders that last so long.
        batch: a batch size that is known already.
        counted: what it is known from: "generator", "batch" or "prefix".

    Returns:
        The fields, each (B, ...), and B.

    Raises:
        DataError: if a condition that is read is missing or of the wrong shape, or batch sizes differ.
    """
    encoders = [pipe.conditioning.encoder(role) for role in pipe.conditioning.encoders]
    reading = {name: part for part in encoders if part.lifetime in lifetimes for name in part.reads}
    fields: dict[str, Tensor] = {}
    for argument, (names, read) in _READERS.items():
        encoder = next((reading[name] for name in names if name in reading), None)
        if encoder is not None:
            value = given.get(argument)
            if value is None and argument == "target_return":
                value = pipe.config.target_return
            if value is None:
                raise DataError(
                    f"{argument}: this {pipe.kind} was trained with it, so {pipe.makes} needs it; got nothing"
                )
            fields |= read(pipe, encoder, value)
    # The present state is the history's last: nobody handed it over.
    sizes = {name: len(value) for name, value in fields.items() if name != "present"}
    largest = max([batch, *sizes.values()])
    if any(size not in (1, largest) for size in sizes.values()) or (counted == "prefix" and batch != largest):
        counts = sizes | ({counted: batch} if batch > 1 or counted == "prefix" else {})
        raise DataError(f"batch sizes must be equal or 1, got {counts}")
    dtype = next(pipe.network.parameters()).dtype  # diffusers' own `dtype` takes as long as a small network
    return {
        name: (value.to(dtype) if value.is_floating_point() else value).expand(largest, *value.shape[1:])
        for name, value in fields.items()
    }, largest


def as_list(value: Any) -> list[Any]:
    """A list of conditions, or a single one as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _read_prompt(pipe: TrainedPipeline, encoder: Encoder, prompt: Any) -> dict[str, Tensor]:
    prompts = [read_prompt(pipe, one, encoder.length) for one in as_list(prompt)]
    if not prompts:
        raise DataError("prompt: the list of prompts is empty")
    states = torch.stack([one.states for one in prompts]).to(pipe.normalizer.where)
    actions = torch.stack([one.actions for one in prompts]).to(pipe.normalizer.where)
    if getattr(encoder, "normalize", True):
        states, actions = pipe.normalizer.states(states), pipe.normalizer.actions(actions)
    return {"prompt_states": states, "prompt_actions": actions}


def read_prompt(pipe: TrainedPipeline, prompt: Any, length: int | None = None) -> Prompt:
    """Make a prompt of what a caller gave, as wide as the pipeline's states and actions, and `length` steps long.

    Raises:
        DataError: it is no prompt, or has another shape.
    """
    if isinstance(prompt, str):
        prompt = pipe.prompts[prompt][0]
    elif isinstance(prompt, Mapping):
        missing = {"states", "actions"} - set(prompt)
        if missing:
            raise DataError(f"prompt: needs 'states' and 'actions', got {', '.join(map(str, prompt)) or 'nothing'}")
        prompt = Prompt(states=prompt["states"], actions=prompt["actions"])
    elif not isinstance(prompt, Prompt):
        raise DataError(
            f"prompt: must be a task name, a Prompt or a mapping with states and actions, got {type(prompt).__name__}"
        )
    length = len(prompt.states) if length is None else length
    expected = ((length, len(pipe.normalizer.state_loc)), (length, len(pipe.normalizer.action_loc)))
    got = (tuple(prompt.states.shape), tuple(prompt.actions.shape))
    if got != expected:
        raise DataError(
            f"prompt: states and actions must have shapes {expected[0]} and {expected[1]}, got {got[0]} and {got[1]}"
        )
    return prompt


def _read_task(pipe: TrainedPipeline, encoder: Encoder, task: Any) -> dict[str, Tensor]:
    known = list(pipe.conditioning.config.tasks)
    for name in as_list(task):
        if name not in known:
            raise DataError(f"task: {choices('task', name, known)}")
    return {"task": torch.tensor([known.index(name) for name in as_list(task)], device=pipe.normalizer.where)}


def _read_return(pipe: TrainedPipeline, encoder: Encoder, target: Any) -> dict[str, Tensor]:
    value = torch.as_tensor(target, dtype=torch.float32, device=pipe.normalizer.where).reshape(-1, 1)
    if not value.isfinite().all():
        raise DataError("target_return: contains NaN or infinity")
    return {"return": value}


def _read_history(pipe: TrainedPipeline, encoder: Encoder, history: Any) -> dict[str, Tensor]:
    return read_history(pipe, encoder.length, history)


def read_history(pipe: TrainedPipeline, length: int, history: Any) -> dict[str, Tensor]:
    """Bring the last `length` states to model space: history (B, L, O), zeros before the episode, present (B, O).

    Raises:
        DataError: states of the wrong shape, or not finite.
    """
    states = torch.as_tensor(history, dtype=torch.float32, device=pipe.normalizer.where)
    states = states[None] if states.ndim == 2 else states
    width = len(pipe.normalizer.state_loc)
    if states.ndim != 3 or states.shape[1] < 1 or states.shape[2] != width:
        raise DataError(
            f"history: must have shape (n, {width}) or (B, n, {width}) with n >= 1, got {tuple(states.shape)}"
        )
    if not states.isfinite().all():
        raise DataError("history: contains NaN or infinity")
    states = pipe.normalizer.states(states[:, -length:])
    padding = states.new_zeros(len(states), length - states.shape[1], width)
    return {"history": torch.cat([padding, states], dim=1), "present": states[:, -1]}


def _read_map(pipe: TrainedPipeline, encoder: Encoder, drawn: Any) -> dict[str, Tensor]:
    return {"map": torch.stack([read_map(pipe, one) for one in as_list(drawn)]).to(pipe.normalizer.where)}


_READERS = {
    "prompt": (("prompt_states", "prompt_actions"), _read_prompt),
    "task": (("task",), _read_task),
    "map": (("map",), _read_map),
    "history": (("history", "present"), _read_history),
    "target_return": (("return",), _read_return),
}
"""Argument of a call: the fields that it becomes, and how."""
