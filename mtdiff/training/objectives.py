"""What a pipeline of each kind is trained by: the module that learns, the random numbers of a batch, the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mtdiff.diffusion import Denoiser, Loss, denoising_loss, draw_timesteps
from mtdiff.pipelines.policy import PolicyPipeline
from mtdiff.pipelines.sampler import SamplerPipeline
from mtdiff.pipelines.trained import TrainedPipeline
from mtdiff.policies.policy import Policy


class Denoising:
    """Diffusion: x0 from noise, under the scheduler of training.

    What the training loop asks of this class and of `ActingWell`: `module`, everything that is trained; `draw`, the
    random numbers of a whole batch, on the CPU and the same on every process; `losses` (b,) of this process's share, by
    the module as accelerate wrapped it; `updated`, called after every optimiser update, counted from 1.
    """

    def __init__(self, pipeline: SamplerPipeline, scheduler: Any, loss: Loss, timestep_bias: float = 0.0):
        self.representation, self.scheduler, self.loss = pipeline.representation, scheduler, loss
        self.timestep_bias = timestep_bias
        self.module: nn.Module = Denoiser(pipeline.backbone, pipeline.conditioning)

    def draw(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        shape = (size, self.representation.horizon, self.representation.channels)
        timestep = draw_timesteps(
            size, self.scheduler.config.num_train_timesteps, bias=self.timestep_bias, generator=generator
        )
        return {"timestep": timestep, "noise": torch.randn(shape, generator=generator)}

    def losses(
        self,
        module: nn.Module,
        fields: Mapping[str, Tensor],
        drawn: Mapping[str, Tensor],
        drop: Mapping[str, Tensor] | None,
    ) -> Tensor:
        x0, weight = self.representation.encode(fields)
        return denoising_loss(
            module,
            self.scheduler,
            x0=x0,
            weight=weight,
            fields=fields,
            timestep=drawn["timestep"],
            noise=drawn["noise"],
            drop=drop,
            loss=self.loss,
        )

    def updated(self, updates: int) -> None:
        pass


class ToldPolicy(nn.Module):
    """A policy and its conditioning as the one module that is trained."""

    def __init__(self, policy: Policy, conditioning: nn.Module):
        super().__init__()
        self.policy = policy
        self.conditioning = conditioning

    def forward(
        self, fields: Mapping[str, Tensor], drawn: Mapping[str, Tensor], drop: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return the policy's losses (B,)."""
        return self.policy.losses(fields, self.conditioning(fields, drop), drawn)


class ActingWell:
    """A policy's own losses; see `Denoising`."""

    def __init__(self, pipeline: PolicyPipeline):
        self.policy = pipeline.policy
        self.module: nn.Module = ToldPolicy(pipeline.policy, pipeline.conditioning)

    def draw(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        return self.policy.draw(size, generator)

    def losses(
        self,
        module: nn.Module,
        fields: Mapping[str, Tensor],
        drawn: Mapping[str, Tensor],
        drop: Mapping[str, Tensor] | None,
    ) -> Tensor:
        return module(fields, drawn, drop)

    def updated(self, updates: int) -> None:
        self.policy.updated(updates)


def objective_of(
    pipeline: TrainedPipeline, scheduler: Any, loss: Loss, timestep_bias: float = 0.0
) -> Denoising | ActingWell:
    """Return what a pipeline is trained by; all but the pipeline is a sampler's, and a policy has its own."""
    if isinstance(pipeline, PolicyPipeline):
        return ActingWell(pipeline)
    assert isinstance(pipeline, SamplerPipeline)
    return Denoising(pipeline, scheduler, loss, timestep_bias)
