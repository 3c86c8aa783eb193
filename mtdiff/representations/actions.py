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


@REPRESENTATIONS.register("actions", runtime=("action_dim",))
class ActionsRepresentation(Representation):
    """x = (a_t, ..., a_{t+H-1}), bounded by -1 and 1.

    Args:
        horizon: H, actions per plan.
        action_dim: A, from the data.
    """

    @register_to_config
    def __init__(self, *, horizon: int = 32, action_dim: int):
        super().__init__()
        if horizon < 1:
            raise ValueError(f"horizon: must be at least 1, got {horizon}")
        self.horizon, self.channels = horizon, action_dim
        self._set_bounds(None)

    def limit(self, normalizer: Normalizer) -> None:
        unit = torch.ones(self.channels)
        self.bounds.copy_(torch.stack([normalizer.actions(-unit), normalizer.actions(unit)], dim=-1))

    def encode(self, window: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        actions = window["actions"]
        return actions, window["mask"][:, :, None].to(actions.dtype).expand_as(actions)

    def decode(self, x: Tensor) -> dict[str, Tensor]:
        return {"actions": x}
