"""The one training loop: Accelerate, moving averages, checkpoints, exact resume."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm.auto import tqdm

from mtdiff import world
from mtdiff.data.windows import Windows
from mtdiff.errors import TrainingFault
from mtdiff.pipelines.trained import TrainedPipeline
from mtdiff.training.accelerator import make_accelerator
from mtdiff.training.best import Best
from mtdiff.training.checkpoints import Checkpoints, MetricsFile, Progress, interruptible
from mtdiff.training.loss_window import LossWindow
from mtdiff.training.objectives import objective_of
from mtdiff.training.settings import Training

_VALIDATION_SEED = 20_230_529  # any constant: the held-out loss must be of the same draws every time
_VALIDATION_BATCHES = 4
_AGREE_EVERY = 10  # updates of a GPU between two looks at whether any process got Ctrl-C


class Trainer:
    """Trains a pipeline's networks, and leaves the averaged weights in them.

    Args:
        pipeline: what is trained, in place.
        scheduler: the diffusers scheduler whose noise is learnt; None for a policy.
        train: windows to learn from.
        held_out: windows for the held-out loss, or None.
        settings: see `Training`.
        seed: of batches, timesteps, noise and dropout.
        folder: where checkpoints, metrics and trackers go.
        accelerator: an `Accelerator` of your own; by default one from `accelerate config`.

    Raises:
        TrainingFault: a batch that the processes cannot share equally, or weights cut into pieces (FSDP).
    """

    def __init__(
        self,
        pipeline: TrainedPipeline,
        scheduler: Any,
        train: Windows,
        held_out: Windows | None,
        settings: Training,
        *,
        seed: int,
        folder: Path,
        accelerator: Accelerator | None = None,
    ):
        self.settings = settings
        self.objective = objective_of(pipeline, scheduler, settings.loss, settings.timestep_bias)
        self.pipeline, self.train_windows, self.held_out = pipeline, train, held_out
        self.accelerator = accelerator or make_accelerator(settings)
        world.refuse_sharding(str(self.accelerator.distributed_type.value))
        self.accelerator.project_configuration.set_directories(str(folder))
        self.accelerator.project_configuration.logging_dir = str(folder / "trackers")
        torch.manual_seed(seed + self.accelerator.process_index)  # dropout

        module = self.objective.module.to(self.accelerator.device)
        optimizer = torch.optim.AdamW(
            [weights for weights in module.parameters() if weights.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.schedule = get_scheduler(
            {"constant": "constant_with_warmup", "cosine": "cosine"}[settings.learning_rate_schedule],
            optimizer,
            num_warmup_steps=settings.warmup,
            num_training_steps=settings.updates,
        )
        # Not the schedule: accelerate would step it once per process, and another number could not resume.
        self.module, self.optimizer = self.accelerator.prepare(module, optimizer)
        self.ema = EMAModel(module.parameters(), foreach=True, **settings.average())
        self.progress = Progress(torch.Generator().manual_seed(seed), self.accelerator.num_processes)
        self.accelerator.register_for_checkpointing(self.ema, self.progress, self.schedule)
        self.checkpoints = Checkpoints(self.accelerator, folder, keep=settings.keep_checkpoints)
        self.best = Best(self.accelerator, folder, self.progress)
        self.metrics = MetricsFile(folder / "metrics.jsonl", main=self.accelerator.is_main_process)
        self._check_batch(train)

    def run(self, *, resume: bool = False) -> dict[str, Any]:
        """Train to the end and put the averaged weights into the pipeline.

        Args:
            resume: go on from the newest checkpoint, if there is one.

        Returns:
            updates, seconds of all sittings, the last training and held-out losses; the best one and its update.

        Raises:
            TrainingFault: on a loss that is not finite, or weights.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint is saved.
        """
        # accelerate keeps it for all accelerators of a process together
        self.accelerator.gradient_accumulation_steps = self.settings.gradient_accumulation
        if resume:
            self.checkpoints.load_newest()
            self.ema.to(self.accelerator.device)  # accelerate loads it onto the CPU
            self._check_processes()
        row = self.metrics.cut_after(self.progress.update)
        if self.settings.log_with:
            self.accelerator.init_trackers("mtdiff")
        begun, seconds_before = time.perf_counter(), self.progress.seconds
        window = LossWindow(len(self.train_windows.tasks), self.accelerator.device, self.progress)
        first = self.progress.update
        bar = tqdm(
            total=self.settings.updates,
            initial=first,
            desc="train",
            unit="update",
            disable=not self.accelerator.is_main_process,
            dynamic_ncols=True,
        )
        with interruptible(self.accelerator) as interrupted, bar:
            while self.progress.update < self.settings.updates:
                losses, task = self._update()
                self.progress.update += 1
                update = self.progress.update
                window.add(update, losses, task)
                bar.update()
                last = update == self.settings.updates
                if last or update % self.settings.log_every == 0 or self._validates(last):
                    row = self._measure(window, last)
                    self.progress.seconds = seconds_before + time.perf_counter() - begun
                    self._log(row, bar)
                stop = self._all_stop(bool(interrupted))
                if last or update % self.settings.checkpoint_every == 0 or stop:
                    window.raise_if_not_finite(self.train_windows.tasks, self.checkpoints, self.accelerator)
                    self._refuse_bad_weights()
                    self.progress.seconds = seconds_before + time.perf_counter() - begun
                    window.remember(self.progress, self.accelerator)
                    self.checkpoints.save(update)
                if stop and not last:
                    raise KeyboardInterrupt(f"stopped after update {update}; a checkpoint is saved")
        self.ema.copy_to(self.accelerator.unwrap_model(self.module).parameters())
        self.module.eval()
        for tracker in self.accelerator.trackers:  # `end_training` would part the processes too
            tracker.finish()
        outcome = {**row, "updates": self.progress.update, "seconds": self.progress.seconds}
        if self.progress.best_update is not None:
            outcome |= {"best_update": self.progress.best_update, "best_loss": self.progress.best_loss}
        return outcome

    def _update(self) -> tuple[Tensor, Tensor]:
        """One optimiser update; returns this process's losses (b,) and their tasks (b,)."""
        batch = self._draw(self.train_windows, self.progress.generator, self.settings.batch_per_task)
        parts = self.settings.gradient_accumulation
        self.module.train()
        losses, tasks = [], []
        for part in range(parts):
            loss, task = self._loss(self.train_windows, self._share(batch, part, parts))
            with self.accelerator.accumulate(self.module):
                self.accelerator.backward(loss.mean())
                if self.accelerator.sync_gradients and self.settings.max_grad_norm:
                    self.accelerator.clip_grad_norm_(self.module.parameters(), self.settings.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            tasks.append(task)
        self.schedule.step()
        self.objective.updated(self.progress.update + 1)  # before the average, which keeps targets as they are then
        if (self.progress.update + 1) % self.settings.ema_every == 0:
            self.ema.step(self.accelerator.unwrap_model(self.module).parameters())
        return torch.cat(losses), torch.cat(tasks)

    def _draw(self, windows: Windows, generator: torch.Generator, per_task: int) -> dict[str, Tensor]:
        """Draw a whole batch: windows, timesteps, noise, withheld conditions. The same on every process."""
        drawn = windows.draw(per_task, generator)
        size = len(drawn["task"])
        drawn |= {f"drawn.{name}": value for name, value in self.objective.draw(size, generator).items()}
        for role, probability in self.pipeline.conditioning.droppable.items():
            drawn[f"drop.{role}"] = torch.rand(size, generator=generator) < probability
        return drawn

    def _share(self, batch: dict[str, Tensor], part: int, parts: int) -> dict[str, Tensor]:
        """This process's share of one part: every n-th sample, so that each share has all tasks."""
        count = parts * self.accelerator.num_processes
        first = part * self.accelerator.num_processes + self.accelerator.process_index
        return {name: value[first::count] for name, value in batch.items()}

    def _loss(self, windows: Windows, drawn: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        device = self.accelerator.device
        if device.type == "cuda":  # a copy out of memory that can be paged would wait for the GPU
            drawn = {name: value.contiguous().pin_memory() for name, value in drawn.items()}
        of: dict[str, dict[str, Tensor]] = {"": {}, "drawn": {}, "drop": {}}
        for name, value in drawn.items():
            kind, _, key = name.rpartition(".")
            of[kind][key] = value.to(device, non_blocking=True) if kind else value
        fields = windows.gather(of[""])
        return self.objective.losses(self.module, fields, of["drawn"], of["drop"] or None), fields["task"]

    @torch.no_grad()
    def held_out_loss(self) -> float | None:
        """Loss of the averaged weights on held-out episodes, always on the same draws; the best weights are kept."""
        if self.held_out is None:
            return None
        module = self.accelerator.unwrap_model(self.module)
        self.ema.store(module.parameters())
        self.ema.copy_to(module.parameters())
        self.module.eval()
        generator = torch.Generator().manual_seed(_VALIDATION_SEED)
        per_task = max(1, min(64, 256 // len(self.held_out.tasks)))
        losses = [
            self._loss(self.held_out, self._draw(self.held_out, generator, per_task))[0]
            for _ in range(_VALIDATION_BATCHES)
        ]
        loss = float(torch.cat(losses).mean())
        self.best.offer(loss, module)
        self.ema.restore(module.parameters())
        return loss

    def _measure(self, window: LossWindow, last: bool) -> dict[str, Any]:
        window.raise_if_not_finite(self.train_windows.tasks, self.checkpoints, self.accelerator)
        row: dict[str, Any] = {"update": self.progress.update, "loss": window.mean(self.accelerator)}
        row["learning_rate"] = self.schedule.get_last_lr()[0]
        if self._validates(last):
            row["val_loss"] = self.held_out_loss()
        return row

    def _all_stop(self, interrupted: bool) -> bool:
        """Whether to stop after this update, decided by all: Ctrl-C reaches processes in different updates."""
        if self.accelerator.num_processes == 1:
            return interrupted
        if self.accelerator.device.type != "cpu" and self.progress.update % _AGREE_EVERY:
            return False  # looking makes a GPU wait
        flag = torch.tensor(float(interrupted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum"))

    def _validates(self, last: bool) -> bool:
        return self.held_out is not None and (last or self.progress.update % self.settings.validate_every == 0)

    def _refuse_bad_weights(self) -> None:
        """A finite loss can have gradients that are not, which the next loss would tell too late."""
        if not all(bool(values.isfinite().all()) for values in self.module.parameters()):
            raise TrainingFault(
                f"the weights were not finite after update {self.progress.update}. "
                f"Last good checkpoint: {self.checkpoints.newest() or 'none yet'}. "
                "Lower training.learning_rate, or set training.max_grad_norm"
            )

    def _log(self, row: dict[str, Any], bar: Any) -> None:
        self.metrics.append({**row, "seconds": self.progress.seconds})
        bar.set_postfix({key: f"{row[key]:.4f}" for key in ("loss", "val_loss") if key in row})
        if self.settings.log_with:
            self.accelerator.log({key: row[key] for key in row if key != "update"}, step=row["update"])

    def _check_processes(self) -> None:
        """Batches are the same for any number of processes; dropout is not, because each draws its own."""
        before, now = self.progress.processes, self.accelerator.num_processes
        modules = self.accelerator.unwrap_model(self.module).modules()
        if before != now and any(isinstance(module, torch.nn.Dropout) and module.p for module in modules):
            raise TrainingFault(
                f"{self.checkpoints.newest()}: was trained by {before} processes and goes on with {before}, got {now}: "
                "this network has dropout, which every process draws for itself. Without dropout any number can go on"
            )
        self.progress.processes = now

    def _check_batch(self, windows: Windows) -> None:
        size = self.settings.batch_per_task * len(windows.tasks)
        shares = self.settings.gradient_accumulation * self.accelerator.num_processes
        if size % shares:
            raise TrainingFault(
                f"training.batch_per_task: {self.settings.batch_per_task} windows of {len(windows.tasks)} tasks are "
                f"{size}, which {self.accelerator.num_processes} processes with gradient_accumulation="
                f"{self.settings.gradient_accumulation} cannot share equally; choose a multiple of {shares}"
            )
