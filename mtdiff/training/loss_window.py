"""The losses between two rows of metrics."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from mtdiff.errors import TrainingFault
from mtdiff.training.checkpoints import Checkpoints, Progress


class LossWindow:
    """Losses since the last row of metrics, and the first that was not finite, without waiting for the device."""

    def __init__(self, num_tasks: int, device: torch.device, progress: Progress):
        self.total, self.count = torch.tensor(progress.loss_total, device=device), progress.loss_count
        self.bad_update = torch.full((), -1, device=device)
        self.bad_tasks = torch.zeros(num_tasks, dtype=torch.bool, device=device)

    def add(self, update: int, losses: Tensor, task: Tensor) -> None:
        self.total += losses.mean()
        self.count += 1
        wrong = ~losses.isfinite()
        new = wrong.any() & (self.bad_update < 0)
        self.bad_update = torch.where(new, update, self.bad_update)
        self.bad_tasks |= torch.zeros_like(self.bad_tasks).index_put((task,), wrong & new, accumulate=True)

    def mean(self, accelerator: Accelerator) -> float:
        value = float(accelerator.reduce(self.total / max(self.count, 1), reduction="mean"))
        self.total, self.count = torch.zeros_like(self.total), 0
        return value

    def remember(self, progress: Progress, accelerator: Accelerator) -> None:
        progress.loss_total = float(accelerator.reduce(self.total, reduction="mean"))
        progress.loss_count = self.count

    def raise_if_not_finite(self, tasks: list[str], checkpoints: Checkpoints, accelerator: Accelerator) -> None:
        """Raise in all processes if the loss of one was not finite: none may be left waiting for another."""
        found = accelerator.gather(torch.cat([self.bad_update[None], self.bad_tasks.long()])[None])
        bad = [row for row in found.tolist() if row[0] >= 0]  # one row a process: the update, then a flag a task
        if not bad:
            return
        update = min(row[0] for row in bad)
        names = [task for i, task in enumerate(tasks, start=1) if any(row[0] == update and row[i] for row in bad)]
        newest = checkpoints.newest()
        raise TrainingFault(
            f"the loss was not finite at update {update}, in the windows of {', '.join(names)}. "
            f"Last good checkpoint: {newest or 'none yet'}. "
            "Lower training.learning_rate or training.max_grad_norm, or look for bad numbers in those tasks' data"
        )
