"""What a recipe says about training: the `training:` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mtdiff.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Training:
    """Updates and everything that shapes them. Device, processes and precision are accelerate's, not the recipe's.

    Args:
        updates: optimiser updates.
        batch_per_task: windows of each task in an update, over all processes and accumulation steps together.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant" (the paper) or "cosine" to zero, after the warm-up.
        warmup: updates over which the learning rate rises from zero.
        weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this norm; 0 turns it off.
        ema_decay: of the moving average of the weights, updated every update and warmed up; its weights are
            the ones that are validated, saved and sampled.
        gradient_accumulation: parts that a batch is cut into to fit into memory.
        validation: share of each task's episodes that is held out.
        log_every: updates between two rows of metrics.
        validate_every: updates between two measurements of the held-out loss.
        checkpoint_every: updates between two checkpoints.
        keep_checkpoints: newest checkpoints that are kept.
        log_with: accelerate's trackers, e.g. ["tensorboard", "wandb"]; each must be installed.
    """

    updates: int = 100_000
    batch_per_task: int = 8
    learning_rate: float = 2e-4
    learning_rate_schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema_decay: float = 0.995
    gradient_accumulation: int = 1
    validation: float = 0.05
    log_every: int = 100
    validate_every: int = 1000
    checkpoint_every: int = 5000
    keep_checkpoints: int = 2
    log_with: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        counts = ("updates", "batch_per_task", "gradient_accumulation", "log_every", "validate_every")
        for name in (*counts, "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}: should be at least 1, got {getattr(self, name)}.")
        for name in ("learning_rate", "warmup", "weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name}: should be at least 0, got {getattr(self, name)}.")
        for name in ("validation", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name}: should be at least 0 and below 1, got {getattr(self, name)}.")
