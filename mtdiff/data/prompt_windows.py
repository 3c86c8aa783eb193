"""Prompts cut from demonstrations, and the tables of rows that they and windows are gathered from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mtdiff.data.normalizer import Normalizer
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError

Spacing = Literal["contiguous", "even"]

_CHUNK = 1 << 18  # rows that are brought to model space at a time: no second copy of all data is made


class PromptWindows:
    """J steps of a demonstration, for any demonstration and any start, gathered by index.

    Args:
        dataset: demonstrations.
        normalizer: maps physical units to model space; None keeps physical units.
        tasks: the order tasks are numbered in.
        length: J.
        spacing: "contiguous" or "even".
        latest_start: last step, counted from 0, at which a contiguous prompt may begin; None for any that leaves
            J steps. Even ones always begin with the demonstration.
        device: where the tensors live.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        normalizer: Normalizer | None,
        tasks: Sequence[str],
        *,
        length: int,
        spacing: Spacing = "contiguous",
        latest_start: int | None = None,
        device: torch.device | str = "cpu",
    ):
        self.length, self.spacing, self._widths = length, spacing, (dataset.states.shape[1], dataset.actions.shape[1])
        names = np.array([dataset.tasks[index] for index in dataset.task_index])
        of_task = [np.flatnonzero(names == task) for task in tasks]
        for task, episodes in zip(tasks, of_task, strict=True):
            shortest = int(dataset.lengths[episodes].min()) if len(episodes) else 0
            if shortest < length:
                raise DataError(
                    f"task {task}: a prompt of {length} steps is asked for, but "
                    + (f"its shortest demonstration has {shortest}" if len(episodes) else "it has no demonstration")
                )
        order = np.concatenate(of_task)
        counts = np.array([len(episodes) for episodes in of_task])
        first, lengths = dataset.offsets[:-1][order], dataset.lengths[order]
        # State and action of a step side by side: a prompt is one stretch.
        places = np.arange(len(dataset.states))
        halves = [table_of(dataset, "states", normalizer, places, device)]
        halves.append(table_of(dataset, "actions", normalizer, places, device))
        steps = torch.cat(halves, dim=1)
        if spacing == "even":  # one prompt per demonstration
            at = first[:, None] + np.arange(length) * (lengths[:, None] - 1) // max(length - 1, 1)
            self._steps = steps[torch.from_numpy(at).to(device)].flatten(1)
            first, starts = np.arange(len(order)), np.ones(len(order), np.int64)
        else:
            self._steps = stretches(steps, length)
            starts = lengths - length + 1
            if latest_start is not None:
                starts = np.minimum(starts, latest_start + 1)
        # Counts are multiplied by what is drawn, so they are kept as what is drawn is.
        self._count = torch.from_numpy(counts.astype(np.float64)).to(device)
        self._base = torch.from_numpy(np.cumsum(counts) - counts).to(device)
        self._first = torch.from_numpy(first).to(device)  # where a demonstration's first prompt is
        self._starts = torch.from_numpy(starts.astype(np.float64)).to(device)  # how many it has

    def gather(self, task: Tensor, demonstration: Tensor, start: Tensor) -> dict[str, Tensor]:
        """Cut prompts: task (B,) numbers; demonstration and start (B,) in [0, 1) choose among what there is."""
        which = (demonstration * self._count.index_select(0, task)).long().add_(self._base.index_select(0, task))
        at = self._first.index_select(0, which)
        if self.spacing == "contiguous":
            at.add_((start * self._starts.index_select(0, which)).long())
        steps = self._steps.index_select(0, at).view(len(at), self.length, -1)
        states, actions = steps.split(self._widths, dim=-1)
        return {"prompt_states": states, "prompt_actions": actions}


def table_of(
    dataset: TrajectoryDataset,
    name: Literal["states", "actions", "rewards"],
    normalizer: Normalizer | None,
    places: np.ndarray,
    device: torch.device | str,
    total: int | None = None,
) -> Tensor:
    """States, actions or rewards (R, C) in the rows `places` (R,) of a table that is zero elsewhere."""
    values: np.ndarray = getattr(dataset, name)
    values = values.reshape(len(values), -1)
    table = torch.zeros(total or int(places[-1]) + 1, values.shape[1], device=device)
    for begin in range(0, len(values), _CHUNK):
        part = torch.from_numpy(values[begin : begin + _CHUNK])
        if normalizer is not None:
            part = getattr(normalizer, name)(part.to(normalizer.state_loc.device))
        table[torch.from_numpy(places[begin : begin + _CHUNK]).to(device)] = part.to(device)
    return table


def stretches(table: Tensor, length: int) -> Tensor:
    """Every `length` consecutive rows of table (R, C), one after the other; (R - length + 1, length * C).

    A view of the same memory. To select from it copies long stretches, which is much faster than as many rows.
    """
    rows, width = table.shape
    return table.as_strided((rows - length + 1, length * width), (width, 1))
