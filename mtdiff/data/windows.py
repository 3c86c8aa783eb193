"""Batches of windows and prompts, gathered by index from flat tensors, equally from every task.

A field is one gather of whole stretches of rows, on whichever device the data lie: what a window shows lies in one
piece of memory, zeros before and after an episode included. There is no Python loop over samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mtdiff.data.normalizer import Normalizer
from mtdiff.data.prompt_windows import PromptWindows, Spacing, stretches, table_of
from mtdiff.data.returns import ReturnLabel, rewards_to_go, scale_returns
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError

__all__ = ["Windows", "scale_returns"]


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
        past: whether windows show actions and rewards beside the history's states.
        outcome: whether windows show what the window's step led to.
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
        past: bool = False,
        outcome: bool = False,
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
        states = table_of(dataset, "states", normalizer, places + before * (episode + 1), device)
        total = len(episode) + after * len(dataset)
        actions = table_of(dataset, "actions", normalizer, places + after * episode, device, total)
        ends = dataset.offsets[1:] - 1
        actions[torch.from_numpy((places + after * episode)[ends]).to(device)] = 0  # padding, not an action
        self._history, self._actions = stretches(states, history), stretches(actions, horizon)
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
            self._states = stretches(table_of(dataset, "states", normalizer, places, device), horizon + 1)
            self._rewards = stretches(table_of(dataset, "rewards", normalizer, places, device), horizon)
        self._past = self._outcome = None
        if past:
            shifted = places + before * (episode + 1)
            values = {"past_actions": table_of(dataset, "actions", normalizer, shifted, device, len(states))}
            for name, numbers in (("past_rewards", dataset.rewards), ("to_go", rewards_to_go(dataset))):
                values[name] = torch.zeros(len(states), 1, device=device)
                values[name][torch.from_numpy(shifted).to(device), 0] = torch.from_numpy(numbers).float().to(device)
            self._past = {name: stretches(table, history) for name, table in values.items()}
            step = np.arange(len(episode)) - dataset.offsets[:-1][episode]
            self._seen = torch.from_numpy(np.minimum(step[rows] + 1, history)).to(device)
            self._steps = torch.from_numpy(step[rows]).to(device)
        if outcome:
            ended = np.zeros(len(episode), np.float32)
            ended[ends - 1] = dataset.terminated  # of the last step, not of the state behind it
            led = np.stack([dataset.rewards, ended], axis=1)[rows].astype(np.float32)
            self._outcome = torch.from_numpy(led).to(device)
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
            so they are not contiguous. With `past`: past_actions (B, L, A), of the window's step last, past_rewards
            (B, L, 1) and to_go (B, L, 1), the rewards from a step to the episode's end, both in physical units, and
            seen (B,), how many of the L steps there are, and steps (B,), how many came before the present one. With
            `outcome`: next_history (B, L, O), reward (B, 1) in physical units and terminated (B, 1), whether the task
            itself ended the episode with this step.
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
        if self._past is not None:
            fields["seen"] = self._seen.index_select(0, drawn["row"])
            fields["steps"] = self._steps.index_select(0, drawn["row"])
            for name, table in self._past.items():
                fields[name] = table.index_select(0, past).view(size, self.history, -1)
        if self._outcome is not None:
            fields["next_history"] = self._history.index_select(0, past + 1).view(size, self.history, -1)
            fields["reward"], fields["terminated"] = self._outcome.index_select(0, drawn["row"]).split(1, dim=1)
        if self._prompts is not None:
            fields |= self._prompts.gather(drawn["task"], drawn["demonstration"], drawn["start"])
        return fields

    def sample(self, per_task: int, generator: torch.Generator) -> dict[str, Tensor]:
        """`draw`, then `gather`."""
        return self.gather(self.draw(per_task, generator))


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
