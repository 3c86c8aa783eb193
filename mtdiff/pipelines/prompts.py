"""Demonstrations that tell a planner its task, and the library of them inside a saved pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from mtdiff.data.exact import ExactModel
from mtdiff.errors import DataError, choices
from mtdiff.whole import beside, writing


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """J steps of one demonstration, in physical units.

    Attributes:
        states: (J, O).
        actions: (J, A), inside [-1, 1].
    """

    states: Tensor
    actions: Tensor

    def __post_init__(self) -> None:
        for name, value in (("states", self.states), ("actions", self.actions)):
            array = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value).float()
            if array.ndim != 2:
                raise DataError(f"prompt {name}: must have shape (J, width), got {tuple(array.shape)}")
            if not array.isfinite().all():
                raise DataError(f"prompt {name}: contains NaN or infinity")
            object.__setattr__(self, name, array)
        if (largest := float(self.actions.abs().max()) if self.actions.numel() else 0.0) > 1.0:
            raise DataError(f"prompt actions: must be in [-1, 1], got {largest:.4g}")
        if len(self.states) != len(self.actions):
            raise DataError(
                "prompt: states and actions must have equally many steps, "
                f"got {len(self.states)} and {len(self.actions)}"
            )

    def save(self, path: str | Path, *, task: str = "") -> None:
        """Write it as safetensors: tensors `states` and `actions`, whole or not at all.

        Args:
            path: the file; its folder is made if need be.
            task: the task's name, kept in the file for people.

        Raises:
            StorageFault: the file cannot be written.
        """
        from safetensors.torch import save as serialize

        path = Path(path).expanduser()
        tensors = {"states": self.states.cpu().contiguous(), "actions": self.actions.cpu().contiguous()}
        content = serialize(tensors, metadata={"format": "mtdiff prompt 1", "task": task})
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as partial:
            partial.write_bytes(content)

    @classmethod
    def load(cls, path: str | Path) -> Prompt:
        """Read what `save` wrote.

        Raises:
            DataError: there is no such file, it is damaged, or it holds something else.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(path).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: there is no such prompt file")
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: cannot be read as safetensors ({error})") from error
        if set(tensors) != {"states", "actions"}:
            raise DataError(f"{path}: a prompt has the tensors states and actions, got {', '.join(sorted(tensors))}")
        try:
            return cls(states=tensors["states"], actions=tensors["actions"])
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


class PromptLibrary(ExactModel):
    """Prompts by task, saved as safetensors with the pipeline: `pipe.prompts["reach-v3"]`.

    Args:
        shapes: task to (number of prompts, J, O, A).
    """

    @register_to_config
    def __init__(self, *, shapes: dict[str, list[int]] | None = None):
        super().__init__()
        # A model without tensors cannot be saved by diffusers; a model told by other means has no prompts.
        self.register_buffer("present", torch.ones(1))
        for number, (count, length, state_dim, action_dim) in enumerate((shapes or {}).values()):
            self.register_buffer(f"states_{number}", torch.zeros(count, length, state_dim))
            self.register_buffer(f"actions_{number}", torch.zeros(count, length, action_dim))
        self._numbers = {task: number for number, task in enumerate(shapes or {})}

    @classmethod
    def from_prompts(cls, prompts: Mapping[str, list[Prompt]]) -> PromptLibrary:
        """Build a library from prompts of equal length per task."""
        shapes: dict[str, Any] = {}
        for task in sorted(prompts):
            first = prompts[task][0]
            shapes[task] = [len(prompts[task]), *first.states.shape, first.actions.shape[1]]
        library = cls(shapes=shapes)
        for task in shapes:
            number = library._numbers[task]
            getattr(library, f"states_{number}").copy_(torch.stack([p.states for p in prompts[task]]))
            getattr(library, f"actions_{number}").copy_(torch.stack([p.actions for p in prompts[task]]))
        return library

    def with_prompts(self, prompts: Mapping[str, list[Prompt]]) -> PromptLibrary:
        """Return a library with these prompts too, in the place of those of the same tasks.

        To give a pipeline prompts of its own: `pipe.prompts = pipe.prompts.with_prompts({"push-v3": [prompt]})`.
        """
        mine = {task: self[task] for task in self if task not in prompts}
        return type(self).from_prompts({**mine, **prompts}).to(self.present.device)

    def __getitem__(self, task: str) -> list[Prompt]:
        """All prompts of a task.

        Raises:
            DataError: if there is none for it, naming those there are.
        """
        if task not in self._numbers:
            raise DataError(f"prompts: {choices('task', task, self._numbers)}")
        number = self._numbers[task]
        states, actions = getattr(self, f"states_{number}"), getattr(self, f"actions_{number}")
        return [Prompt(states=s, actions=a) for s, a in zip(states, actions, strict=True)]

    def __contains__(self, task: object) -> bool:
        return task in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)
