"""Physical units to model space and back; part of every saved pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from mtdiff.data.exact import ExactModel
from mtdiff.errors import RecipeError

if TYPE_CHECKING:
    from mtdiff.data.trajectories import TrajectoryDataset

Scale = Literal["z_score", "min_max", "none"]


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """How physical units become model space.

    Args:
        states: "z_score" per dimension (standard deviations), "min_max" per dimension to [-1, 1], or "none".
        actions: likewise; actions already lie in [-1, 1], so "none" is the default.
        smallest_std: a dimension that varies less than this is divided by this, so that noise in a constant
            dimension is not blown up; physical units, above 0.
        clip: normalised states are clipped to plus and minus this; 0 turns it off.
    """

    states: Scale = "z_score"
    actions: Scale = "none"
    smallest_std: float = 0.01
    clip: float = 6.0

    def __post_init__(self) -> None:
        if self.smallest_std <= 0:
            raise RecipeError(f"smallest_std: should be above 0, got {self.smallest_std}.")
        if self.clip < 0:
            raise RecipeError(f"clip: should be at least 0, got {self.clip}.")


class Normalizer(ExactModel):
    """Affine maps for states, actions and rewards, kept in single precision whatever the pipeline is cast to.

    Args:
        state_dim: O.
        action_dim: A.
        clip: normalised states are clipped to plus and minus this; 0 turns it off.
        rewards: whether it knows rewards too.
    """

    @register_to_config
    def __init__(self, *, state_dim: int, action_dim: int, clip: float = 6.0, rewards: bool = False):
        super().__init__()
        self.register_buffer("state_loc", torch.zeros(state_dim))
        self.register_buffer("state_scale", torch.ones(state_dim))
        self.register_buffer("action_loc", torch.zeros(action_dim))
        self.register_buffer("action_scale", torch.ones(action_dim))
        if rewards:
            self.register_buffer("reward_loc", torch.zeros(1))
            self.register_buffer("reward_scale", torch.ones(1))

    @classmethod
    def fit(cls, dataset: TrajectoryDataset, settings: Normalization, *, rewards: bool = False) -> Normalizer:
        """Measure the maps on all steps of all tasks together, so that one model serves every task."""
        sizes = {"state_dim": dataset.states.shape[1], "action_dim": dataset.actions.shape[1]}
        normalizer = cls(**sizes, clip=settings.clip, rewards=rewards)
        last = dataset.offsets[1:] - 1  # the row after an episode's last step has a state but no action
        measured = {
            "state": (dataset.states, settings.states),
            "action": (np.delete(dataset.actions, last, axis=0), settings.actions),
        }
        if rewards:
            measured["reward"] = (np.delete(dataset.rewards, last)[:, None], "z_score")
        for name, (values, scale) in measured.items():
            if scale != "none":
                loc, spread = _measure(values.astype(np.float64), scale, settings.smallest_std)
                getattr(normalizer, f"{name}_loc").copy_(torch.from_numpy(loc))
                getattr(normalizer, f"{name}_scale").copy_(torch.from_numpy(spread))
        return normalizer

    @property
    def where(self) -> torch.device:
        """Its device; diffusers' own `device` of a model or pipeline looks through all their parts."""
        return self.state_loc.device

    def states(self, values: Tensor) -> Tensor:
        """Normalise states (..., O)."""
        scaled = (values - self.state_loc) / self.state_scale
        return scaled.clamp(-self.config.clip, self.config.clip) if self.config.clip else scaled

    def actions(self, values: Tensor) -> Tensor:
        """Normalise actions (..., A)."""
        return (values - self.action_loc) / self.action_scale

    def rewards(self, values: Tensor) -> Tensor:
        """Normalise rewards (..., 1)."""
        return (values - self.reward_loc) / self.reward_scale

    def physical_states(self, values: Tensor) -> Tensor:
        """Return normalised states (..., O) to physical units."""
        return values.float() * self.state_scale + self.state_loc

    def physical_rewards(self, values: Tensor) -> Tensor:
        """Return normalised rewards (..., 1) to physical units."""
        return values.float() * self.reward_scale + self.reward_loc

    def physical_actions(self, values: Tensor) -> Tensor:
        """Return normalised actions (..., A) to physical units, inside [-1, 1]."""
        return (values.float() * self.action_scale + self.action_loc).clamp(-1.0, 1.0)


def _measure(values: np.ndarray, scale: Scale, smallest_std: float) -> tuple[np.ndarray, np.ndarray]:
    if scale == "z_score":
        return values.mean(0), np.maximum(values.std(0), smallest_std)
    low, high = values.min(0), values.max(0)
    # Dimension by dimension: a constant one must not widen the others.
    return (low + high) / 2, np.where(high - low > 2 * smallest_std, (high - low) / 2, 1.0)
