"""Augmentations by name: what a learner sees besides the transitions that were recorded of a task.

An augmentation writes transitions before a learner begins, or changes every batch while it learns. Synthetic data of
any synthesizer is one of them, so that it is compared with its rivals on equal terms.
"""

from mtdiff.augmentations.augmentation import Augmentation
from mtdiff.augmentations.duplicate import Duplicate
from mtdiff.augmentations.none import NoAugmentation
from mtdiff.augmentations.rad import RAD
from mtdiff.augmentations.recorded import Recorded
from mtdiff.augmentations.s4rl import S4RL
from mtdiff.augmentations.synthesizer import SynthesizerAugmentation

__all__ = ["RAD", "S4RL", "Augmentation", "Duplicate", "NoAugmentation", "Recorded", "SynthesizerAugmentation"]
