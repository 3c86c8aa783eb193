"""The accelerator that a recipe is trained with."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration

from mtdiff import world
from mtdiff.errors import TrainingFault, choices
from mtdiff.training.settings import Training


def make_accelerator(settings: Training) -> Accelerator:
    """An accelerator as `accelerate config` or `accelerate launch` set it up, with the recipe's trackers.

    Raises:
        TrainingFault: if a tracker is unknown or not installed, or the launcher asks for what does not work.
    """
    _require_trackers(settings.log_with)
    world.join()
    return Accelerator(
        gradient_accumulation_steps=settings.gradient_accumulation,
        log_with=list(settings.log_with) or None,
        # The run's folder is known only once its data are; the trainer puts it in place of this.
        project_config=ProjectConfiguration(logging_dir="trackers"),
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],  # gradients are held once
    )


def _require_trackers(names: tuple[str, ...]) -> None:
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise TrainingFault(f"training.log_with: {choices('tracker', name, map(str, LOGGER_TYPE_TO_CLASS))}")
        if name not in available:
            raise TrainingFault(f"training.log_with: {name} is not installed; `pip install {name}`, or leave it out")
