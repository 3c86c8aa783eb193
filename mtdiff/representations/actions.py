"""x is a sequence of actions: MTDiff-P's choice (He et al. 2023, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from mtdiff.registry import REPRESENTATIONS
from mtdiff.representations.representation import Representation

if TYPE_CHECKING:
    from mtdiff.data.normalizer import Normalizer
    from mtdiff.data.trajectories import TrajectoryDataset


@REPRESENTATIONS.register("actions", runtime=("action_dim",))
class ActionsRepresentation(Representation):
    """x = (a_t, ..., a_{t+H-1}), bounded by -1 and 1.

    Args:
        horizon: H, actions per plan.
        first_weight: loss weight of a window's first action, which is the one that is surely executed; the others
            weigh 1. 10 in the released code.
        action_dim: A, from the data.
    """

    @register_to_config
    def __init__(self, *, horizon: int = 32, first_weight: float = 1.0, action_dim: int):
        super().__init__()
        if horizon < 1:
            raise ValueError(f"horizon: must be at least 1, got {horizon}")
        if not 0 <= first_weight < float("inf"):
            raise ValueError(f"first_weight: must be a finite number of at least 0, got {first_weight}")
        self.horizon, self.channels = horizon, action_dim
        self._set_bounds(None)

    def limit(self, normalizer: Normalizer, dataset: TrajectoryDataset) -> None:
        unit = torch.ones(self.channels)
        self.bounds.copy_(torch.stack([normalizer.actions(-unit), normalizer.actions(unit)], dim=-1))

    def encode(self, window: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        actions = window["actions"]
        weight = window["mask"].to(actions.dtype)  # (B, H)
        if self.config.first_weight != 1:
            weight[:, 0] *= self.config.first_weight
        return actions, weight[:, :, None].expand_as(actions)

    def decode(self, x: Tensor) -> dict[str, Tensor]:
        return {"actions": x}
