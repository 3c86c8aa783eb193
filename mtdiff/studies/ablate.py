"""What `mtdiff ablate` compares besides the axes of `vary:`: the `ablation:` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mtdiff.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Rows, exceptions and the reference of a grid. The axes themselves are in `vary:`.

    Args:
        rows: further rows by name, each with what it changes: {ddpm: {sampling.scheduler: null,
            sampling.num_inference_steps: 200}}. One with a `recipe` begins with that recipe instead, on this one's
            suite and data, with its updates and batches and in its evaluation: {MTBC: {recipe: baselines/mtbc}}. They
            are measured at every value of the pooled axes.
        exclude: points that are left out: {backbone: temporal_unet, seed: [1, 2]} are those with this value on one
            axis and one of these on the other.
        pool: axes whose values are repetitions: a row of the table is the mean over them.
        reference: row that every other is compared with; null means the first.
        checkpoints: weights that are measured: "last", those of the last update, and "best", those of the lowest loss
            on held-out episodes, which are rows of their own and compared with the best ones of the reference.
    """

    rows: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    exclude: tuple[dict[str, Any], ...] = ()
    pool: tuple[str, ...] = ("seed",)
    reference: str | None = None
    checkpoints: tuple[Literal["last", "best"], ...] = ("last",)

    def __post_init__(self) -> None:
        if not self.checkpoints or len(set(self.checkpoints)) < len(self.checkpoints):
            raise RecipeError(f"checkpoints: should be last, best or both, got {list(self.checkpoints)}.")
