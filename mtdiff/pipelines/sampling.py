"""How a trained model is sampled by default; travels with a saved pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mtdiff.errors import RecipeError

PromptPolicy = Literal["episode", "pool", "every_plan"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Defaults of sampling. Every one can be overridden in a call.

    Args:
        scheduler: the scheduler that samples, as a part; null samples with the training scheduler.
        num_inference_steps: S, sampling timesteps, between 1 and the timesteps of training.
        guidance_scale: weight of the conditional over the unconditional prediction; 1.0 switches guidance off
            and halves the cost. Above 1 it needs a condition that was trained with dropout.
        temperature: factor on the variance of all noise; 0.5 in the paper.
        initial_temperature: factor on the variance of the first noise; null means `temperature`.
        execute: actions carried out per plan, from 1 (the paper) to the horizon.
        target_return: return asked for, in the units of the label that was learnt. For "episode" those of each task's
            data: 0 is the 5 % quantile, 1 the 95 %. For "remaining" rewards per step: 9 in the released code.
        prompts_per_task: prompts a saved pipeline carries for every task of its training.
        prompt_policy: show one prompt for a whole "episode"; or draw another one for "every_plan" (the paper, which
            plans at every step); or "pool": draw as for every plan, but compute what depends on the prompts once an
            episode for all of them, which gives the same plans for more memory and less time.
    """

    scheduler: dict[str, Any] | None = None
    num_inference_steps: int = 10
    guidance_scale: float = 1.0
    temperature: float = 0.5
    initial_temperature: float | None = None
    execute: int = 4
    target_return: float = 1.0
    prompts_per_task: int = 10
    prompt_policy: PromptPolicy = "episode"

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "execute", "prompts_per_task"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}: should be at least 1, got {getattr(self, name)}.")
        for name in ("temperature", "initial_temperature"):
            if (getattr(self, name) or 0) < 0:
                raise RecipeError(f"{name}: should be at least 0, got {getattr(self, name)}.")
