"""Batches of windows and prompts, gathered by index from flat tensors, equally from every task.

Everything is one gather per field, on whichever device the data lie; no Python loop over samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mtdiff.data.normalizer import Normalizer
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError

RETURN_QUANTILES = (0.05, 0.95)


class Windows:
    """Draws training batches from a dataset.

    Args:
        dataset: trajectories of one or more tasks.
        normalizer: maps physical units to model space; applied once, to everything.
        horizon: H, steps ahead of the window's step, itself included.
        history: L, states up to and including the window's step.
        prompt: J, steps of the prompt; None for no prompt.
        prompt_spacing: "contiguous" or "even".
        prompts: demonstrations the prompts are cut from; needed when `prompt` is given.
        returns: whether to label windows with the scaled return of their episode.
        returns_of: the dataset whose returns set that scale; `dataset` itself by default. Episodes that are held
            out must be labelled as the ones that are learnt from.
        device: where the tensors live and the batches are made.

    Raises:
        DataError: if a task has no demonstration, or one shorter than the prompt.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        normalizer: Normalizer,
        *,
        horizon: int,
        history: int = 1,
        prompt: int | None = None,
        prompt_spacing: Literal["contiguous", "even"] = "contiguous",
        prompts: TrajectoryDataset | None = None,
        returns: bool = False,
        returns_of: TrajectoryDataset | None = None,
        device: torch.device | str = "cpu",
    ):
        self.tasks = list(dataset.tasks)
        self.horizon, self.history, self.device = horizon, history, torch.device(device)
        self._states, self._actions = _model_space(dataset, normalizer, device)
        episode_of_row = np.repeat(np.arange(len(dataset)), dataset.lengths + 1)
        first, last = dataset.offsets[:-1], dataset.offsets[1:] - 1
        self._first = torch.from_numpy(first[episode_of_row]).to(device)  # (R,) first row of the row's episode
        self._last = torch.from_numpy(last[episode_of_row]).to(device)  # (R,) its final state, which has no action
        acting = np.flatnonzero(np.arange(len(episode_of_row)) != last[episode_of_row])
        rows, self._base, self._count = _by_task(acting, dataset.task_index[episode_of_row[acting]], self.tasks)
        self._rows = rows.to(device)

        self._returns = None
        if returns:
            scaled = scale_returns(dataset, returns_of)[episode_of_row].astype(np.float32)
            self._returns = torch.from_numpy(scaled).to(device)
        self._prompts = None
        if prompt is not None:
            if prompts is None:
                raise DataError("the recipe asks for prompts, but the dataset has no prompt demonstrations")
            self._prompts = PromptWindows(
                prompts, normalizer, self.tasks, length=prompt, spacing=prompt_spacing, device=device
            )

    def __len__(self) -> int:
        """Number of distinct windows."""
        return len(self._rows)

    def draw(self, per_task: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Choose windows, and prompts for them; only indices, so that every process can draw the same.

        Args:
            per_task: windows of each task; the batch is B = per_task * number of tasks.
            generator: a CPU generator, the only source of randomness.
        """
        task = torch.arange(len(self.tasks)).repeat_interleave(per_task)
        picks = torch.rand(3, len(task), dtype=torch.float64, generator=generator)
        row = self._base[task] + (picks[0] * self._count[task]).long()
        return {"task": task, "row": row, "demonstration": picks[1], "start": picks[2]}

    def gather(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn what `draw` chose into a batch, in model space, on `device`.

        Returns:
            history (B, L, O), zeros before the episode; actions (B, H, A) and mask (B, H), False past its end;
            task (B,); return (B, 1) in [0, 1] and prompt_states (B, J, O), prompt_actions (B, J, A) if asked for.
        """
        drawn = {name: value.to(self.device, non_blocking=True) for name, value in drawn.items()}
        row = self._rows[drawn["row"]]
        first, last = self._first[row][:, None], self._last[row][:, None]
        past = row[:, None] + torch.arange(1 - self.history, 1, device=self.device)
        ahead = row[:, None] + torch.arange(self.horizon, device=self.device)
        known, mask = past >= first, ahead < last
        fields = {
            "history": _rows(self._states, torch.maximum(past, first)) * known[:, :, None],
            "actions": _rows(self._actions, torch.minimum(ahead, last)) * mask[:, :, None],
            "mask": mask,
            "task": drawn["task"],
        }
        if self._returns is not None:
            fields["return"] = self._returns[row][:, None]
        if self._prompts is not None:
            fields |= self._prompts.gather(drawn["task"], drawn["demonstration"], drawn["start"])
        return fields

    def sample(self, per_task: int, generator: torch.Generator) -> dict[str, Tensor]:
        """`draw`, then `gather`."""
        return self.gather(self.draw(per_task, generator))


class PromptWindows:
    """J steps of a demonstration, for any demonstration and any start, gathered by index.

    Args:
        dataset: demonstrations.
        normalizer: maps physical units to model space; None keeps physical units.
        tasks: the order tasks are numbered in.
        length: J.
        spacing: "contiguous" or "even".
        device: where the tensors live.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        normalizer: Normalizer | None,
        tasks: Sequence[str],
        *,
        length: int,
        spacing: Literal["contiguous", "even"] = "contiguous",
        device: torch.device | str = "cpu",
    ):
        self.length, self.spacing = length, spacing
        self._states, self._actions = _model_space(dataset, normalizer, device)
        names = np.array([dataset.tasks[index] for index in dataset.task_index])
        self._number = [np.flatnonzero(names == task) for task in tasks]
        for task, episodes in zip(tasks, self._number, strict=True):
            shortest = int(dataset.lengths[episodes].min()) if len(episodes) else 0
            if shortest < length:
                raise DataError(
                    f"task {task}: a prompt of {length} steps is asked for, but "
                    + (f"its shortest demonstration has {shortest}" if len(episodes) else "it has no demonstration")
                )
        order = np.concatenate(self._number)
        counts = np.array([len(episodes) for episodes in self._number])
        self._count = torch.from_numpy(counts).to(device)
        self._base = torch.from_numpy(np.cumsum(counts) - counts).to(device)
        self._offset = torch.from_numpy(dataset.offsets[:-1][order]).to(device)
        self._length = torch.from_numpy(dataset.lengths[order]).to(device)

    def gather(self, task: Tensor, demonstration: Tensor, start: Tensor) -> dict[str, Tensor]:
        """Cut prompts: task (B,) numbers; demonstration and start (B,) in [0, 1) choose among what there is."""
        which = self._base[task] + (demonstration * self._count[task]).long()
        length = self._length[which][:, None]
        steps = torch.arange(self.length, device=which.device)
        if self.spacing == "even":
            at = steps * (length - 1) // max(self.length - 1, 1)
        else:
            at = (start[:, None] * (length - self.length + 1)).long() + steps
        rows = self._offset[which][:, None] + at
        return {"prompt_states": _rows(self._states, rows), "prompt_actions": _rows(self._actions, rows)}


def _rows(table: Tensor, at: Tensor) -> Tensor:
    """`table[at]`, for at (B, M) and table (R, C); on a CPU three times as fast."""
    return table.index_select(0, at.flatten()).unflatten(0, at.shape)


def _model_space(
    dataset: TrajectoryDataset, normalizer: Normalizer | None, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    states, actions = torch.from_numpy(dataset.states), torch.from_numpy(dataset.actions)
    if normalizer is not None:
        where = normalizer.state_loc.device
        states, actions = normalizer.states(states.to(where)), normalizer.actions(actions.to(where))
    return states.to(device), actions.to(device)


def scale_returns(dataset: TrajectoryDataset, reference: TrajectoryDataset | None = None) -> np.ndarray:
    """Scale each episode's return by its task's 5 % and 95 % quantiles and clip to [0, 1]; shape (E,).

    Args:
        dataset: episodes to label.
        reference: a dataset of the same tasks whose quantiles are taken; `dataset` itself by default.
    """
    reference = dataset if reference is None else reference
    returns, measured = dataset.returns, reference.returns
    scaled = np.empty_like(returns)
    for number in range(len(dataset.tasks)):
        mine = dataset.task_index == number
        low, high = np.quantile(measured[reference.task_index == number], RETURN_QUANTILES)
        scaled[mine] = np.clip((returns[mine] - low) / (high - low), 0, 1) if high > low else 1.0
    return scaled


def _by_task(rows: np.ndarray, task: np.ndarray, tasks: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Sort rows by task; return them with each task's first place and number."""
    order = np.argsort(task, kind="stable")
    count = np.bincount(task, minlength=len(tasks))
    empty = [name for name, number in zip(tasks, count, strict=True) if number == 0]
    if empty:
        raise DataError(f"no steps of task {', '.join(empty)} in the dataset")
    return torch.from_numpy(rows[order]), torch.from_numpy(np.cumsum(count) - count), torch.from_numpy(count)
