"""What all the plans of an episode share, computed once: born in an agent's `reset`, owned by the agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mtdiff.backbones.backbone import Prefix


@dataclass(frozen=True, kw_only=True)
class EpisodePrefix:
    """What `PlannerPipeline.prefix` returns: prompts, tasks and returns of B samples, for given sampling timesteps.

    Attributes:
        shared: what the backbone keeps.
        guidance_scale: that it was made for.
        num_actions: most actions that can be planned with it.
    """

    shared: Prefix
    guidance_scale: float
    num_actions: int

    @property
    def batch(self) -> int:
        """B."""
        return self.shared.batch

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.shared.nbytes

    def rows(self, at: Tensor) -> EpisodePrefix:
        """A copy for the samples at the places `at` (b,); repeating and leaving out is fine."""
        return replace(self, shared=self.shared.rows(at))

    def agree(self, steps: int | None, scale: float | None, count: int | None) -> tuple[int, float, int]:
        """Sampling timesteps, guidance scale and actions of a call with this prefix.

        Raises:
            ValueError: a call asks for something that it was not made for.
        """
        made = len(self.shared.timesteps)
        if steps not in (None, made):
            raise ValueError(f"num_inference_steps: this prefix was made for {made}, got {steps}")
        if scale not in (None, self.guidance_scale):
            raise ValueError(f"guidance_scale: this prefix was made for {self.guidance_scale}, got {scale}")
        if count is not None and count > self.num_actions:
            raise ValueError(f"num_actions: this prefix was made for at most {self.num_actions}, got {count}")
        return made, self.guidance_scale, self.num_actions if count is None else count

    def require(self, given: Mapping[str, Any], timesteps: tuple[int, ...], generators: int) -> None:
        """Refuse a call that contradicts this prefix.

        Raises:
            ValueError: conditions that it holds already, other sampling timesteps, or another number of samples.
        """
        for name in ("prompt", "task", "map", "target_return"):
            if given[name] is not None:
                raise ValueError(f"{name}: is part of the prefix; give it to `pipe.prefix(...)` instead")
        if timesteps != self.shared.timesteps:
            raise ValueError("prefix: was made for other sampling timesteps; make it again after a change of scheduler")
        if generators not in (1, self.batch):
            raise ValueError(f"generator: need one, or one for each of the {self.batch} samples, got {generators}")
