"""The weights that were fine-tuned for single tasks, beside those that all tasks share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mtdiff.errors import DataError, choices

if TYPE_CHECKING:
    from mtdiff.pipelines.planner import PlannerPipeline

PARTS = ("backbone", "conditioning")
"""The components of which a task has a copy."""


class TaskCopies(ModelMixin, ConfigMixin):
    """A full copy of a planner's backbone and conditioning for each of some tasks, saved as safetensors with it.

    Args:
        tasks: their names.
        shapes: name of every tensor, such as "backbone.head.weight", to its shape.
    """

    @register_to_config
    def __init__(self, *, tasks: list[str], shapes: dict[str, list[int]]):
        super().__init__()
        for name, shape in shapes.items():
            stack = nn.Parameter(torch.zeros(len(tasks), *shape), requires_grad=False)
            self.register_parameter(_stored(name), stack)

    @classmethod
    def of(cls, weights: Mapping[str, Mapping[str, Tensor]]) -> TaskCopies:
        """Stack the weights of tasks, each as `weights_of` returns them.

        Raises:
            DataError: two tasks have other tensors: they are not copies of one network.
        """
        tasks = list(weights)
        shapes = {name: list(value.shape) for name, value in weights[tasks[0]].items()}
        for task in tasks:
            if {name: list(value.shape) for name, value in weights[task].items()} != shapes:
                raise DataError(f"copies: the weights of {task} and of {tasks[0]} are not of the same network")
        copies = cls(tasks=tasks, shapes=shapes)
        for name in shapes:
            copies.get_parameter(_stored(name)).data = torch.stack([weights[task][name] for task in tasks])
        return copies

    def __getitem__(self, task: str) -> dict[str, Tensor]:
        """The weights of a task; they share memory with this.

        Raises:
            DataError: there is no copy for it.
        """
        if task not in self:
            raise DataError(f"copies: {choices('task', task, self)}")
        row = list(self).index(task)
        return {name: self.get_parameter(_stored(name))[row] for name in self.config.shapes}

    def __contains__(self, task: object) -> bool:
        return task in self.config.tasks

    def __iter__(self) -> Iterator[str]:
        return iter(self.config.tasks)

    def __len__(self) -> int:
        return len(self.config.tasks)


def weights_of(pipeline: PlannerPipeline) -> dict[str, Tensor]:
    """The tensors of which a task has a copy, by the name of the component and their own."""
    return {f"{part}.{name}": value for part in PARTS for name, value in getattr(pipeline, part).state_dict().items()}


def _stored(name: str) -> str:
    return name.replace(".", "/")  # a parameter's name has no dots
