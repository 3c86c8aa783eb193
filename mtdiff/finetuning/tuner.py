"""The loop of fine-tuning: collect episodes of new goals, weigh every chunk, learn, forget the episodes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm.auto import tqdm

from mtdiff.errors import TrainingFault
from mtdiff.finetuning.advantages import generalized, less_mean_of_goal, returns_to_go, standardized
from mtdiff.finetuning.best import Best
from mtdiff.finetuning.critic import Critic
from mtdiff.finetuning.policy import ChainPolicy
from mtdiff.finetuning.progress import Tuned
from mtdiff.finetuning.rollouts import Collector, Rollouts
from mtdiff.finetuning.settings import FineTuning
from mtdiff.finetuning.update import Lesson, Update
from mtdiff.training.checkpoints import Checkpoints, MetricsFile, interruptible

if TYPE_CHECKING:
    from mtdiff.data.windows import Windows
    from mtdiff.environments.vector import VectorEnv
    from mtdiff.pipelines.planner import PlannerPipeline

_KEEP = 2  # checkpoints


class Tuner:
    """Fine-tunes a copy of a planner's networks for one task.

    Args:
        pipeline: the pre-trained planner; its weights are not changed.
        environments: slots of the task, `goals * rollouts_per_goal` of them.
        task: its name.
        settings: see `FineTuning`.
        limit: an episode is truncated after so many steps.
        folder: where checkpoints and metrics go.
        windows: of the pre-training data, for `regularizer: pretraining`.
        progress: show a bar on stderr.

    Raises:
        TrainingFault: more than one process.
        ValueError: the pipeline's scheduler draws no noise.
    """

    def __init__(
        self,
        pipeline: PlannerPipeline,
        environments: VectorEnv,
        task: str,
        settings: FineTuning,
        *,
        limit: int,
        folder: Path,
        windows: Windows | None = None,
        progress: bool = True,
    ):
        self.settings, self.task, self.bar = settings, task, progress
        self.accelerator = Accelerator()
        if self.accelerator.num_processes > 1:
            raise TrainingFault(f"finetune: works in one process, got {self.accelerator.num_processes}")
        self.limit = limit
        device = self.accelerator.device
        pipeline.to(device)
        self.policy = ChainPolicy(pipeline, std_floor=settings.std_floor, last=settings.timesteps).to(device)
        self.collector = Collector(environments, task, settings, limit)
        self.best = Best(settings.best, task)
        self.progress = Tuned(torch.Generator().manual_seed(settings.seed))
        size = self.policy.length * pipeline.normalizer.config.state_dim
        self.critic = Critic(size, seed=settings.seed).to(device) if settings.advantage == "gae" else None
        self.update = Update(pipeline, self.policy, self.critic, settings, windows)
        self.accelerator.prepare(self.policy.denoiser, self.update.optimizer)
        self.ema = EMAModel(self.policy.denoiser.parameters(), foreach=True, decay=settings.ema_decay)
        kept: list[Any] = [self.progress, self.best, self.ema]
        if self.critic is not None:
            kept += [self.critic, self.update.critic_optimizer]
        self.accelerator.register_for_checkpointing(*kept)
        self.checkpoints = Checkpoints(self.accelerator, folder, keep=_KEEP)
        self.metrics = MetricsFile(Path(folder) / "metrics.jsonl")

    def run(self, *, resume: bool = False) -> dict[str, Any]:
        """Fine-tune until the environment steps are used up; `weights` are the outcome.

        Args:
            resume: go on from the newest checkpoint, if there is one.

        Returns:
            iterations, updates, episodes, environment_steps, seconds of all sittings, and `success`, the share of the
            last 100 episodes that succeeded, exploration included.

        Raises:
            TrainingFault: weights that are not finite.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint is saved.
        """
        if resume:
            self.checkpoints.load_newest()
            self.ema.to(self.accelerator.device)
        self.metrics.cut_after(self.progress.updates)
        begun, before = time.perf_counter(), self.progress.seconds
        budget = self.settings.environment_steps
        bar = tqdm(
            total=budget,
            initial=self.progress.steps,
            desc=self.task,
            unit="step",
            disable=not self.bar,
            dynamic_ncols=True,
        )
        with interruptible(self.accelerator) as interrupted, bar:
            while goals := self._goals_left():
                row = self._iterate(goals, bar)
                self.progress.seconds = before + time.perf_counter() - begun
                self.metrics.append(row | {"seconds": round(self.progress.seconds, 2)})
                last = not self._goals_left()
                if last or interrupted or self.progress.iterations % self.settings.checkpoint_every == 0:
                    self._refuse_bad_weights()
                    self.checkpoints.save(self.progress.iterations)
                if interrupted and not last:
                    raise KeyboardInterrupt(f"stopped after {self.progress.steps} steps; a checkpoint is saved")
        done = self.progress
        return {
            "iterations": done.iterations,
            "updates": done.updates,
            "episodes": done.episodes,
            "environment_steps": done.steps,
            "seconds": done.seconds,
            "success": done.success,
        }

    def weights(self) -> dict[str, Tensor]:
        """The fine-tuned weights, averaged if the settings say so."""
        if not self.settings.ema_decay:
            return self.policy.weights()
        self.ema.store(self.policy.denoiser.parameters())
        self.ema.copy_to(self.policy.denoiser.parameters())
        averaged = self.policy.weights()
        self.ema.restore(self.policy.denoiser.parameters())
        return averaged

    def _goals_left(self) -> int:
        """Goals of the next iteration: as many as surely fit into the steps that are left."""
        longest = self.limit * self.settings.rollouts_per_goal
        return min(self.settings.goals, (self.settings.environment_steps - self.progress.steps) // longest)

    def _iterate(self, goals: int, bar: tqdm) -> dict[str, Any]:
        progress = self.progress
        rollouts = self.collector.collect(self.policy, progress.goals, goals)
        self.best.add(rollouts.trajectories)
        won = int(rollouts.succeeded.sum())
        progress.recent.extend(rollouts.succeeded.astype(int).tolist())
        progress.goals += goals
        progress.episodes += len(rollouts.trajectories)
        progress.steps += rollouts.steps
        progress.iterations += 1
        row: dict[str, Any] = {
            "iteration": progress.iterations,
            "environment_steps": progress.steps,
            "episodes": len(rollouts.trajectories),
            "successes": won,
            "reward": float(rollouts.rewards.mean()),
            "remembered": len(self.best),
        }
        bar.set_postfix_str(f"{progress.success:.2f} of the last {len(progress.recent)} succeeded", refresh=False)
        if progress.episodes >= self.settings.initial_rollouts:
            row |= self.update.learn(self._lesson(rollouts), self.best, progress, self._step_average)
        bar.update(rollouts.steps)
        return row | {"update": progress.updates}

    def _step_average(self) -> None:
        if self.settings.ema_decay:
            self.ema.step(self.policy.denoiser.parameters())

    def _lesson(self, rollouts: Rollouts) -> Lesson:
        """What there is to learn from an iteration: an advantage for every plan."""
        settings, progress = self.settings, self.progress
        place = rollouts.episode, rollouts.chunk
        acting = torch.arange(rollouts.rewards.shape[1])[None] < rollouts.chunks[:, None]
        rewards, targets = rollouts.rewards, None
        if not progress.scale:
            progress.scale = float(rewards[acting].std(correction=0)) or 1.0
        if settings.advantage == "paper":
            advantage = torch.where(acting, rewards - rewards[acting].mean(), 0.0)
        elif self.critic is None:
            advantage = less_mean_of_goal(returns_to_go(rewards, settings.discount), acting, rollouts.goal)
        else:
            unit = 1 - settings.discount  # values are rewards per step
            with torch.no_grad():
                device = self.accelerator.device
                said, ends = (self.critic(h.to(device)).cpu() for h in (rollouts.history, rollouts.final))
            values = torch.zeros_like(rewards)
            values[place] = said
            scaled = rewards / progress.scale
            final = torch.tensor([_worth(end, float(v), float(r)) for end, v, r in zip(
                rollouts.end, ends, scaled[:, -1], strict=True
            )])  # fmt: skip
            advantage, learnt = generalized(
                unit * scaled, values, final, rollouts.chunks, discount=settings.discount, decay=settings.gae_decay
            )
            targets = learnt[place]
        return Lesson(
            history=rollouts.history,
            chain=rollouts.chain,
            advantage=standardized(advantage[place]),
            targets=targets,
        )

    def _refuse_bad_weights(self) -> None:
        if not all(bool(values.isfinite().all()) for values in self.policy.denoiser.parameters()):
            raise TrainingFault(
                f"the weights of {self.task} were not finite after update {self.progress.updates}. "
                f"Last good checkpoint: {self.checkpoints.newest() or 'none yet'}. "
                "Lower finetune.learning_rate, or raise finetune.std_floor"
            )


def _worth(end: str, critic: float, last: float) -> float:
    """Value of where an episode ended: nothing after termination, success for ever, else what the critic says."""
    return {"terminated": 0.0, "success": last}.get(end, critic)
