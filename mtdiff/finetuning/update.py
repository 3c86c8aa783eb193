"""Updates of one iteration: the surrogate on its chains, and a regulariser. No loop over timesteps or samples.

Shapes: M plans of an iteration, B of an update, S sampling timesteps, T of them that are learnt.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from mtdiff.compose import windows as windows_of
from mtdiff.diffusion import Transitions, denoising_loss
from mtdiff.finetuning.best import Best
from mtdiff.finetuning.critic import Critic
from mtdiff.finetuning.losses import clipped_share, surrogate
from mtdiff.finetuning.policy import ChainPolicy
from mtdiff.finetuning.progress import Tuned
from mtdiff.finetuning.settings import FineTuning

if TYPE_CHECKING:
    from mtdiff.data.windows import Windows
    from mtdiff.pipelines.planner import PlannerPipeline

_BLOCK = 4096  # plans that are weighed at a time before the updates


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What an iteration taught.

    Attributes:
        history: (M, L, O), in model space.
        chain: (S + 1, M, entries, D).
        advantage: (M,).
        targets: what a critic should have said, (M,), or None.
    """

    history: Tensor
    chain: Tensor
    advantage: Tensor
    targets: Tensor | None = None

    def to(self, device: torch.device) -> Lesson:
        """The same on a device."""
        return Lesson(
            history=self.history.to(device),
            chain=self.chain.to(device),
            advantage=self.advantage.to(device),
            targets=None if self.targets is None else self.targets.to(device),
        )


class Update:
    """Owns the optimisers and knows the losses.

    Args:
        pipeline: says how windows are cut.
        policy: what learns.
        critic: what learns beside it, or None.
        settings: see `FineTuning`.
        windows: of the pre-training data, or None.
    """

    def __init__(
        self,
        pipeline: PlannerPipeline,
        policy: ChainPolicy,
        critic: Critic | None,
        settings: FineTuning,
        windows: Windows | None,
    ):
        self.pipeline, self.policy, self.critic, self.settings, self.windows = (
            pipeline, policy, critic, settings, windows,
        )  # fmt: skip
        parameters = policy.denoiser.parameters()
        self.optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0, fused=True)
        self.critic_optimizer: torch.optim.Optimizer | None = None
        if critic is not None:
            rate = settings.critic_learning_rate
            self.critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=rate, weight_decay=0.0)
        self.share = 1.0
        self.base = copy.deepcopy(policy).requires_grad_(False) if settings.regularizer == "kl" else None

    def learn(self, lesson: Lesson, best: Best, progress: Tuned, after: Callable[[], None]) -> dict[str, float]:
        """Do an iteration's updates; `after` is called after each. Returns means of what was minimised."""
        settings, device = self.settings, next(self.policy.denoiser.parameters()).device
        plans, batch = len(lesson.advantage), min(settings.batch, len(lesson.advantage))
        count = max(settings.least_updates, -(-plans * settings.epochs // batch))
        order = self._order(plans, count * batch, progress.generator).view(count, batch).to(device)
        lesson = lesson.to(device)
        before, anchor = self._weigh(lesson)
        if settings.regularizer == "own_best":
            self.windows = windows_of(self.pipeline, best.dataset(), None, device)
            if settings.policy_weight:  # a handful of episodes shows a handful of goals: they must not rule
                self.share = min(1.0, len(best) / settings.best)
        sums: dict[str, Tensor] = {}
        for chosen in order:
            found = self._update(lesson, chosen, before, anchor, progress.generator)
            progress.updates += 1
            after()
            for name, value in found.items():
                sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach()
        return {name: float(value) / count for name, value in sums.items()}

    @staticmethod
    def _order(plans: int, count: int, generator: torch.Generator) -> Tensor:
        """Places of `count` plans, in permutations one after the other."""
        rounds = -(-count // plans)
        return torch.cat([torch.randperm(plans, generator=generator) for _ in range(rounds)])[:count]

    @torch.no_grad()
    def _weigh(self, lesson: Lesson) -> tuple[Tensor | None, Tensor | None]:
        """Log-probabilities (T, M) under the weights that acted, and the means of the pre-trained ones."""
        if not self.settings.policy_weight and self.base is None:
            return None, None
        before, anchor = [], []
        for places in torch.arange(len(lesson.advantage)).split(_BLOCK):
            history, chain = lesson.history[places], lesson.chain[:, places]
            before.append(self.policy(history, chain).log_prob(chain))
            if self.base is not None:
                anchor.append(self.base(history, chain).mean)
        return torch.cat(before, dim=1), torch.cat(anchor, dim=1) if anchor else None

    def _update(
        self,
        lesson: Lesson,
        chosen: Tensor,
        before: Tensor | None,
        anchor: Tensor | None,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        settings, found = self.settings, {}
        loss: Tensor | float = 0.0
        history = lesson.history[chosen]
        if before is not None:
            chain = lesson.chain[:, chosen]
            now = self.policy(history, chain)
            if settings.policy_weight:
                was, probability = before[:, chosen], now.log_prob(chain)
                found["policy_loss"] = surrogate(probability, was, lesson.advantage[chosen], settings.clip).mean()
                found["clipped"] = clipped_share(probability.detach(), was, settings.clip)
                loss = loss + settings.policy_weight * found["policy_loss"]
            if anchor is not None:
                found["regularizer_loss"] = now.divergence(Transitions(anchor[:, chosen], now.std)).mean()
        if self.windows is not None and settings.regularizer_weight:
            found["regularizer_loss"] = self._denoise(self.windows, generator)
        if "regularizer_loss" in found:
            loss = loss + settings.regularizer_weight * self.share * found["regularizer_loss"]
        self._step(self.optimizer, loss, self.policy.denoiser)
        if self.critic is not None and lesson.targets is not None:
            found["critic_loss"] = mse_loss(self.critic(history), lesson.targets[chosen])
            self._step(self.critic_optimizer, found["critic_loss"], self.critic)
        return found

    def _step(self, optimizer: Any, loss: Any, module: torch.nn.Module) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(module.parameters(), self.settings.max_grad_norm)
        optimizer.step()

    def _denoise(self, windows: Windows, generator: torch.Generator) -> Tensor:
        """The loss of pre-training, on windows of the best episodes or of the data of stage one."""
        per_task = -(-self.settings.regularizer_batch // len(windows.tasks))
        fields = windows.sample(per_task, generator)
        x0, weight = self.pipeline.representation.encode(fields)
        scheduler = self.policy.scheduler
        timestep = torch.randint(scheduler.config.num_train_timesteps, (len(x0),), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        return denoising_loss(
            self.policy.denoiser,
            scheduler,
            x0=x0,
            weight=weight,
            fields=fields,
            timestep=timestep.to(x0.device),
            noise=noise.to(x0.device),
        ).mean()
