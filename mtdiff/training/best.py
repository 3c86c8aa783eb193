"""The averaged weights that did best on held-out episodes, kept beside those of the last update."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mtdiff.training.checkpoints import Progress
from mtdiff.whole import writing


class Best:
    """Weights of the lowest held-out loss so far.

    Which those are is part of the progress that checkpoints hold: a training that goes on from one ends with the same.

    Args:
        accelerator: of the training; its first process writes.
        folder: the run's folder.
        progress: `best_loss` and `best_update` are kept there.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, progress: Progress):
        self.accelerator, self.progress = accelerator, progress
        self.path = Path(folder) / "checkpoints" / "best.safetensors"

    def offer(self, loss: float, module: nn.Module) -> None:
        """Keep the weights that `module` has now, if no earlier ones had as low a held-out loss.

        Raises:
            StorageFault: they could not be written; those before are still there.
        """
        if self.progress.best_loss is not None and loss >= self.progress.best_loss:
            return
        self.progress.best_loss, self.progress.best_update = loss, self.progress.update
        if self.accelerator.is_main_process:
            partial = self.path.with_suffix(".partial")
            weights = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
            with writing(self.path, SafetensorError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                save_file(weights, partial)
            partial.replace(self.path)

    def load(self, module: nn.Module) -> bool:
        """Put the best weights into `module`; False if no loss was ever measured."""
        if self.progress.best_loss is None or not self.path.is_file():
            return False
        module.load_state_dict(load_file(self.path))
        return True
