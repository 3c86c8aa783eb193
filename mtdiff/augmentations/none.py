"""The recorded transitions alone."""

from __future__ import annotations

from dataclasses import dataclass

from mtdiff.augmentations.augmentation import Augmentation
from mtdiff.registry import AUGMENTATIONS


@AUGMENTATIONS.register("none")
@dataclass(frozen=True, kw_only=True)
class NoAugmentation(Augmentation):
    """The recorded transitions alone: what everything else is compared with."""
