"""What a representation offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

if TYPE_CHECKING:
    from mtdiff.data.normalizer import Normalizer
    from mtdiff.data.trajectories import TrajectoryDataset


class Representation(ModelMixin, ConfigMixin):
    """Maps windows in model space to the diffused element x and back.

    A subclass sets `horizon` (H), `channels` (D) and the buffer `bounds` (D, 2): the limits in model space that
    every estimate of x0 is clamped to.

    Attributes:
        pipeline: the kind of pipeline that samples it.
        pieces: what an entry of x is made of, in this order: name to width; D in all.
    """

    pipeline: ClassVar[Literal["planner", "synthesizer"]] = "planner"
    horizon: int
    channels: int
    bounds: Tensor

    @property
    def pieces(self) -> dict[str, int]:
        return {"x": self.channels}

    def window(self) -> dict[str, Any]:
        """Keyword arguments of `mtdiff.data.Windows` that make the fields `encode` reads; actions need none."""
        return {}

    def _set_bounds(self, bounds: Tensor | None) -> None:
        # Saved with the weights: a model without tensors cannot be saved by diffusers.
        unit = torch.tensor([[-1.0, 1.0]]).repeat(self.channels, 1)
        self.register_buffer("bounds", unit if bounds is None else bounds.clone())

    def limit(self, normalizer: Normalizer, dataset: TrajectoryDataset) -> None:
        """Set `bounds` to what the normaliser makes of the physical limits; by default they stay -1 and 1.

        Args:
            normalizer: of the pipeline.
            dataset: what the pipeline is trained on.
        """

    def encode(self, window: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return x (B, H, D) and its loss weights (B, H, D), 0 where a window passes the end of its episode."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(window)")

    def decode(self, x: Tensor) -> dict[str, Tensor]:
        """Return the named arrays in model space that x (B, H, D) is made of."""
        raise NotImplementedError(f"{type(self).__name__} must define decode(x)")
