"""What pipelines that sample share: their parts, and one draw from the sampling loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtdiff.backbones.backbone import Backbone
from mtdiff.diffusion import Predict, draw_noise, sample
from mtdiff.pipelines.trained import TrainedPipeline
from mtdiff.representations.representation import Representation
from mtdiff.schedulers.solver import Solver

Generators = torch.Generator | Sequence[torch.Generator] | None


class SamplerPipeline(TrainedPipeline):
    """Trained parts that sample."""

    networks = ("backbone", "conditioning")
    backbone: Backbone
    representation: Representation

    @property
    def sampling(self) -> dict[str, Any]:
        """How it samples if nothing else is asked for: its scheduler, by class and kind, and its defaults."""
        config = self.scheduler.config
        kind = config.get("algorithm_type")
        scheduler = type(self.scheduler).__name__ + (f" ({kind})" if kind else "")
        return {"scheduler": scheduler} | self.defaults

    def _temperatures(self, temperature: float | None, initial: float | None) -> dict[str, float | None]:
        """As asked, or the defaults; checked."""
        found = {
            "temperature": self.config.temperature if temperature is None else temperature,
            "initial_temperature": self.config.initial_temperature if initial is None else initial,
        }
        for name, value in found.items():
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name}: must be a finite number of at least 0, got {value}")
        return found

    def _draw(
        self,
        predict: Predict,
        solver: Solver,
        generators: Sequence[torch.Generator | None],
        *,
        entries: int,
        guidance_scale: float = 1.0,
        temperatures: Mapping[str, Any],
    ) -> Tensor:
        """Sample the first `entries` of x, (B, entries, D) in model space.

        Noise is drawn for the whole horizon and cut, so that sampling fewer entries changes none of them.
        """
        shape = (self.representation.horizon, self.representation.channels)
        noise = draw_noise(shape, generators, len(solver) + 1 if solver.stochastic else 1)
        return sample(
            predict,
            solver,
            noise[:, :, :entries].to(self.normalizer.where),
            prediction_type=self.scheduler.config.prediction_type,
            guidance_scale=guidance_scale,
            bounds=self.representation.bounds.float(),
            **temperatures,
        )


def count(generator: Generators) -> int:
    """How many samples generators are for, 1 for a shared one."""
    return 1 if generator is None or isinstance(generator, torch.Generator) else len(generator)


def per_sample(generator: Generators, batch: int) -> list[torch.Generator | None]:
    """One generator for each sample.

    Raises:
        ValueError: another number of them.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * batch
    if len(generator) != batch:
        raise ValueError(f"generator: need one, or one for each of the {batch} samples, got {len(generator)}")
    return list(generator)
