"""Batches of windows and prompts, gathered by index from flat tensors, equally from every task.

A field is one gather of whole stretches of rows, on whichever device the data lie: what a window shows lies in one
piece of memory, zeros before and after an episode included. There is no Python loop over samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mtdiff.data.normalizer import Normalizer
from mtdiff.data.returns import ReturnLabel, scale_returns
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError

__all__ = ["PromptWindows", "Windows", "scale_returns"]

Spacing = Literal["contiguous", "even"]

_CHUNK = 1 << 18  # rows that are brought to model space at a time: no second copy of all data is made


class Windows:
    """Draws training batches from a dataset.

    Args:
        dataset: trajectories of one or more tasks.
        normalizer: maps physical units to model space; applied once, to everything.
        horizon: H, steps ahead of the window's step, itself included.
        history: L, states up to and including the window's step.
        prompt: J, steps of the prompt; None for no prompt.
        prompt_spacing: "contiguous" or "even".
        prompt_latest_start: see `PromptWindows`.
        prompt_normalize: whether prompts are in model space; otherwise they keep physical units.
        prompts: demonstrations the prompts are cut from; needed when `prompt` is given.
        returns: how windows are labelled with a return; True for the default label, False for none.
        present: whether the present state is a field of its own too.
        maps: the tasks' maps (tasks, R, C), if they are shown.
        transitions: whether windows show states and rewards ahead too. They then begin only where H steps are left.
        returns_of: the dataset whose returns set the label's scale; `dataset` itself by default. Episodes that are
            held out must be labelled as the ones that are learnt from.
        device: where the tensors live and the batches are made.

    Raises:
        DataError: if a task has no demonstration, or one shorter than the prompt; if an episode is longer than the
            label allows; if a task has no episode as long as a whole window must be.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        normalizer: Normalizer,
        *,
        horizon: int,
        history: int = 1,
        prompt: int | None = None,
        prompt_spacing: Spacing = "contiguous",
        prompt_latest_start: int | None = None,
        prompt_normalize: bool = True,
        prompts: TrajectoryDataset | None = None,
        returns: bool | ReturnLabel = False,
        returns_of: TrajectoryDataset | None = None,
        present: bool = False,
        maps: np.ndarray | None = None,
        transitions: bool = False,
        device: torch.device | str = "cpu",
    ):
        self.tasks = list(dataset.tasks)
        self.horizon, self.history, self.device = horizon, history, torch.device(device)
        episode = np.repeat(np.arange(len(dataset)), dataset.lengths + 1)  # of every row, one per state
        acting = np.ones(len(episode), bool)
        acting[dataset.offsets[1:] - 1] = False  # an episode's last state has no action
        if transitions:
            acting[dataset.offsets[1:][episode] - 1 - np.arange(len(episode)) < horizon] = False
            _require_whole(dataset, horizon)
        rows, self._base, self._count = _by_task(
            np.flatnonzero(acting), dataset.task_index[episode[acting]], self.tasks
        )
        # Zeros for the states before an episode lie before it, and for the actions after it behind it.
        before, after = history - 1, max(horizon - 2, 0)
        places = np.arange(len(episode))
        states = _table(dataset, "states", normalizer, places + before * (episode + 1), device)
        total = len(episode) + after * len(dataset)
        actions = _table(dataset, "actions", normalizer, places + after * episode, device, total)
        ends = dataset.offsets[1:] - 1
        actions[torch.from_numpy((places + after * episode)[ends]).to(device)] = 0  # padding, not an action
        self._history, self._actions = _stretches(states, history), _stretches(actions, horizon)
        self._masks = torch.ones(horizon + 1, horizon, dtype=torch.bool, device=self.device).tril(-1)
        # Of every window: where its history and its actions begin, how many actions there are, its label. In one
        # table, because looking a window up in four costs more than all arithmetic on it.
        label = returns if isinstance(returns, ReturnLabel) else ReturnLabel()
        self._labelled = bool(returns)
        labels = label.of_rows(dataset, returns_of)[rows] if returns else np.zeros(len(rows), np.float32)
        ahead = np.minimum(dataset.offsets[1:][episode[rows]] - 1 - rows, horizon)
        columns = (rows + before * episode[rows], rows + after * episode[rows], ahead, labels.view(np.int32), rows)
        self._windows = torch.from_numpy(np.stack(columns, axis=1).astype(np.int32)).to(device)

        self._present = present
        self._maps = None if maps is None else torch.from_numpy(maps).to(device)
        self._states = self._rewards = None
        if transitions:
            self._states = _stretches(_table(dataset, "states", normalizer, places, device), horizon + 1)
            self._rewards = _stretches(_table(dataset, "rewards", normalizer, places, device), horizon)
        self._prompts = None
        if prompt is not None:
            if prompts is None:
                raise DataError("the recipe asks for prompts, but the dataset has no prompt demonstrations")
            self._prompts = PromptWindows(
                prompts,
                normalizer if prompt_normalize else None,
                self.tasks,
                length=prompt,
                spacing=prompt_spacing,
                latest_start=prompt_latest_start,
                device=device,
            )

    def __len__(self) -> int:
        """Number of distinct windows."""
        return len(self._windows)

    def draw(self, per_task: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Choose windows, and prompts for them; only indices, so that every process can draw the same.

        Args:
            per_task: windows of each task; the batch is B = per_task * number of tasks.
            generator: a CPU generator, the only source of randomness.
        """
        tasks = len(self.tasks)
        row, demonstration, start = torch.rand(3, tasks * per_task, dtype=torch.float64, generator=generator).unbind()
        row = (row.view(tasks, per_task) * self._count).long().add_(self._base).view(-1)
        task = torch.arange(tasks).repeat_interleave(per_task, output_size=tasks * per_task)
        return {"task": task, "row": row, "demonstration": demonstration, "start": start}

    def gather(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn what `draw` chose into a batch, in model space, on `device`.

        Returns:
            history (B, L, O), zeros before the episode; actions (B, H, A) and mask (B, H), False past its end;
            task (B,); return (B, 1), states (B, H + 1, O) and rewards (B, H, 1), prompt_states (B, J, O) and
            prompt_actions (B, J, A), present (B, O) and map (B, R, C) if asked for. The two prompt fields share memory,
            so they are not contiguous.
        """
        if self.device.type != "cpu":
            drawn = {name: value.to(self.device, non_blocking=True) for name, value in drawn.items()}
        size = len(drawn["row"])
        past, ahead, count, label, row = self._windows.index_select(0, drawn["row"]).t().contiguous().unbind()
        fields = {
            "history": self._history.index_select(0, past).view(size, self.history, -1),
            "actions": self._actions.index_select(0, ahead).view(size, self.horizon, -1),
            "mask": self._masks.index_select(0, count),
            "task": drawn["task"],
        }
        if self._labelled:
            fields["return"] = label.view(torch.float32).view(size, 1)
        if self._present:
            fields["present"] = fields["history"][:, -1]
        if self._maps is not None:
            fields["map"] = self._maps.index_select(0, drawn["task"])
        if self._states is not None and self._rewards is not None:
            fields["states"] = self._states.index_select(0, row).view(size, self.horizon + 1, -1)
            fields["rewards"] = self._rewards.index_select(0, row).view(size, self.horizon, 1)
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
        halves = [_table(dataset, "states", normalizer, places, device)]
        halves.append(_table(dataset, "actions", normalizer, places, device))
        steps = torch.cat(halves, dim=1)
        if spacing == "even":  # one prompt per demonstration
            at = first[:, None] + np.arange(length) * (lengths[:, None] - 1) // max(length - 1, 1)
            self._steps = steps[torch.from_numpy(at).to(device)].flatten(1)
            first, starts = np.arange(len(order)), np.ones(len(order), np.int64)
        else:
            self._steps = _stretches(steps, length)
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


def _table(
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


def _stretches(table: Tensor, length: int) -> Tensor:
    """Every `length` consecutive rows of table (R, C), one after the other; (R - length + 1, length * C).

    A view of the same memory. To select from it copies long stretches, which is much faster than as many rows.
    """
    rows, width = table.shape
    return table.as_strided((rows - length + 1, length * width), (width, 1))


def _by_task(rows: np.ndarray, task: np.ndarray, tasks: Sequence[str]) -> tuple[np.ndarray, Tensor, Tensor]:
    """Sort rows by task; return them with each task's first place and number, (tasks, 1)."""
    order = np.argsort(task, kind="stable")
    count = np.bincount(task, minlength=len(tasks))
    empty = [name for name, number in zip(tasks, count, strict=True) if number == 0]
    if empty:
        raise DataError(f"no steps of task {', '.join(empty)} in the dataset")
    first = torch.from_numpy(np.cumsum(count) - count)
    return rows[order], first[:, None], torch.from_numpy(count.astype(np.float64))[:, None]


def _require_whole(dataset: TrajectoryDataset, horizon: int) -> None:
    for number, task in enumerate(dataset.tasks):
        longest = int(dataset.lengths[dataset.task_index == number].max(initial=0))
        if 0 < longest < horizon:
            raise DataError(
                f"representation.horizon: a window should show {horizon} whole steps, and the longest episode of task "
                f"{task} has {longest}"
            )
