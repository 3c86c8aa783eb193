"""What `mtdiff ablate` compares besides the axes of `vary:`: the `ablation:` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Rows, exceptions and the reference of a grid. The axes themselves are in `vary:`.

    Args:
        rows: further rows by name, each with what it changes: {ddpm: {sampling.scheduler: null,
            sampling.num_inference_steps: 200}}. They are measured at every value of the pooled axes.
        exclude: points that are left out: {backbone: temporal_unet, seed: [1, 2]} are those with this value on one
            axis and one of these on the other.
        pool: axes whose values are repetitions: a row of the table is the mean over them.
        reference: row that every other is compared with; null means the first.
    """

    rows: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    exclude: tuple[dict[str, Any], ...] = ()
    pool: tuple[str, ...] = ("seed",)
    reference: str | None = None
