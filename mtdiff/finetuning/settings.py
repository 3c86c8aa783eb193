"""What a recipe says about fine-tuning: the `finetune:` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mtdiff.errors import RecipeError

Advantage = Literal["returns", "paper", "gae"]
Regularizer = Literal["none", "kl", "pretraining", "own_best"]


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """The second stage of SODP (Fan et al., ICML 2025): a full copy per task, changed by policy gradient.

    A chunk is the actions of one plan that are carried out (`sampling.execute`); plans are sampled as the section
    `sampling` says, but with the floor. Every iteration collects episodes of new goals, then learns from them alone.

    Args:
        tasks: tasks that get a copy; null means all of `suite.tasks`.
        seed: of goals, noise and batches.
        environment_steps: most environment steps per task, all counted.
        goals: new goals of an iteration.
        rollouts_per_goal: episodes of each goal, which are compared with each other.
        max_steps: an episode is truncated after so many steps; null means the suite's limit.
        stop_on_success: end episodes at their first success, whose reward then counts as if it were earned until the
            end of the others.
        reward: the "environment"'s, or of "success": 1 from the first successful step on, else 0.
        discount: of rewards, per chunk.
        advantage: "returns", discounted rewards from the chunk on less their mean over the same goal's other episodes
            at the same time; "paper", the reward of the chunk alone; or "gae", from a critic.
        gae_decay: of generalised advantage estimation, per chunk.
        critic_learning_rate: of the critic that "gae" trains.
        timesteps: K', how many of a plan's last sampling timesteps are learnt; null means all.
        std_floor: least standard deviation of the noise of every timestep, in units of the normalised action. It is
            there in collecting and in learning, not in evaluation.
        clip: importance ratios outside 1 - clip .. 1 + clip earn no more.
        policy_weight: weight of the policy gradient; 0 leaves the regulariser alone, which with "own_best" is behaviour
            cloning of own successes.
        regularizer: "own_best", denoising the best recent episodes of its own (the paper's); "pretraining", denoising
            the data of stage one; "kl", distance from the pre-trained chain; or "none".
        regularizer_weight: lambda. That of "own_best" grows with what is remembered, and is whole once that is `best`
            episodes.
        best: episodes that "own_best" remembers: the newest successes, and while there are none those of highest
            return.
        initial_rollouts: episodes that are collected, and remembered, before the first update.
        batch: chunks in an update; with each go all its timesteps.
        regularizer_batch: windows of "own_best" and "pretraining" in an update.
        epochs: passes over the chunks of an iteration.
        least_updates: updates of an iteration, if the epochs have fewer.
        learning_rate: of AdamW.
        max_grad_norm: gradients are scaled down to this norm; 0 turns it off.
        ema_decay: of the moving average of the weights over updates, which is what is saved; 0 saves the last ones.
        checkpoint_every: iterations between two checkpoints.
    """

    tasks: tuple[str, ...] | None = None
    seed: int = 0
    environment_steps: int = 100_000
    goals: int = 5
    rollouts_per_goal: int = 4
    max_steps: int | None = None
    stop_on_success: bool = True
    reward: Literal["environment", "success"] = "environment"
    discount: float = 0.97
    advantage: Advantage = "returns"
    gae_decay: float = 0.95
    critic_learning_rate: float = 1e-3
    timesteps: int | None = None
    std_floor: float = 0.1
    clip: float = 0.1
    policy_weight: float = 1.0
    regularizer: Regularizer = "own_best"
    regularizer_weight: float = 1.0
    best: int = 64
    initial_rollouts: int = 20
    batch: int = 128
    regularizer_batch: int = 256
    epochs: int = 8
    least_updates: int = 20
    learning_rate: float = 1e-4
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    checkpoint_every: int = 5

    def __post_init__(self) -> None:
        lowest = {"seed": 0, "initial_rollouts": 0, "least_updates": 0}
        counts = ("environment_steps", "goals", "rollouts_per_goal", "max_steps", "timesteps", "best", "batch")
        for name in (*lowest, *counts, "regularizer_batch", "epochs", "checkpoint_every"):
            value, low = getattr(self, name), lowest.get(name, 1)
            if value is not None and value < low:
                raise RecipeError(f"{name}: should be at least {low}, got {value}.")
        for name in ("policy_weight", "regularizer_weight", "max_grad_norm", "critic_learning_rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise RecipeError(f"{name}: should be a finite number of at least 0, got {getattr(self, name)}.")
        for name in ("std_floor", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise RecipeError(f"{name}: should be a finite number above 0, got {getattr(self, name)}.")
        if not 0 < self.clip < 1:
            raise RecipeError(f"clip: should be above 0 and below 1, got {self.clip}.")
        for name in ("discount", "gae_decay", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name}: should be at least 0 and below 1, got {getattr(self, name)}.")
        if self.advantage == "returns" and self.rollouts_per_goal < 2 and self.policy_weight:
            raise RecipeError(
                "rollouts_per_goal: should be at least 2, because an episode is compared with others of its goal, "
                f"got {self.rollouts_per_goal}."
            )
        if not self.policy_weight and (self.regularizer == "none" or not self.regularizer_weight):
            raise RecipeError("policy_weight: should be above 0 where nothing else is learnt, got 0.")
