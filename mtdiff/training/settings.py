"""What a recipe says about training: the `training:` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mtdiff.diffusion import Loss
from mtdiff.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Training:
    """Updates and everything that shapes them. Device, processes and precision are accelerate's, not the recipe's.

    Args:
        updates: optimiser updates.
        batch_per_task: windows of each task in an update, over all processes and accumulation steps together.
        loss: of an error e, "mse", e^2 (the paper), or "huber": e^2 / 2 below 1 and |e| - 1/2 above (the released
            code).
        timestep_bias: timestep k of 1 .. K is drawn as often as (k / K)^bias says: with 0 all are drawn equally often
            (the paper), with more those that are nearly noise, where nothing but the conditions tells what x0 is.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant" (the paper) or "cosine" to zero, after the warm-up.
        warmup: updates over which the learning rate rises from zero.
        weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this norm; 0 turns it off.
        ema_decay: of the moving average of the weights, which is what is validated, saved and sampled.
        ema_every: updates between two steps of the average (10 in the released code).
        ema_start: updates until which the average is a copy of the weights; after them it has its whole decay (2000
            in the released code). With 0 it begins at once, and its decay rises from 0 instead.
        gradient_accumulation: parts that a batch is cut into to fit into memory.
        validation: share of each task's episodes that is held out.
        best_episodes: share of each task's other episodes, those of the highest returns, that is learnt from; above 0,
            at most 1.
        log_every: updates between two rows of metrics.
        validate_every: updates between two measurements of the held-out loss.
        checkpoint_every: updates between two checkpoints.
        keep_checkpoints: newest checkpoints that are kept.
        log_with: accelerate's trackers, e.g. ["tensorboard", "wandb"]; each must be installed.
    """

    updates: int = 100_000
    batch_per_task: int = 8
    loss: Loss = "mse"
    timestep_bias: float = 0.0
    learning_rate: float = 2e-4
    learning_rate_schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema_decay: float = 0.995
    ema_every: int = 1
    ema_start: int = 0
    gradient_accumulation: int = 1
    validation: float = 0.05
    best_episodes: float = 1.0
    log_every: int = 100
    validate_every: int = 1000
    checkpoint_every: int = 5000
    keep_checkpoints: int = 2
    log_with: tuple[str, ...] = ("tensorboard",)

    def average(self) -> dict[str, Any]:
        """Arguments of diffusers' `EMAModel`, which steps after every `ema_every`-th update."""
        if not self.ema_start:
            return {"decay": self.ema_decay}
        # It copies in its first `update_after_step + 1` steps, and its decay never falls below `min_decay`.
        steps = self.ema_start // self.ema_every
        return {"decay": self.ema_decay, "min_decay": float(self.ema_decay), "update_after_step": steps - 1}

    def __post_init__(self) -> None:
        counts = ("updates", "batch_per_task", "gradient_accumulation", "ema_every", "log_every")
        for name in (*counts, "validate_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}: should be at least 1, got {getattr(self, name)}.")
        for name in ("timestep_bias", "learning_rate", "warmup", "weight_decay", "max_grad_norm", "ema_start"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name}: should be at least 0, got {getattr(self, name)}.")
        if not 0 < self.best_episodes <= 1:
            raise RecipeError(f"best_episodes: should be above 0 and at most 1, got {self.best_episodes}.")
        for name in ("validation", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name}: should be at least 0 and below 1, got {getattr(self, name)}.")
