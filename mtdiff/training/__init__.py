"""Training: one loop for every recipe, on whatever accelerate was configured for."""

from mtdiff.training.accelerator import make_accelerator
from mtdiff.training.checkpoints import Checkpoints, MetricsFile, Progress
from mtdiff.training.settings import Training
from mtdiff.training.trainer import Trainer

__all__ = ["Checkpoints", "MetricsFile", "Progress", "Trainer", "Training", "make_accelerator"]
