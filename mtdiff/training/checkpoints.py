"""What makes a killed run go on exactly where it was: checkpoints, counters, metrics, Ctrl-C."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from tqdm.auto import tqdm

from mtdiff.errors import DataError, StorageFault, TrainingFault
from mtdiff.whole import broken, discard, seal, take_place, write_text, writing

_PREFIX = "checkpoint-"
_ECHO = 5.0  # seconds


@dataclass
class Progress:
    """How far training is, and the generator that all batches come from. Saved with every checkpoint.

    `loss_total` of `loss_count` updates is what the next row of metrics has gathered so far: a checkpoint may lie
    between two rows. `processes` is how many trained the checkpoint. `best_loss` is the lowest held-out loss so far,
    that of `best_update`.
    """

    generator: torch.Generator
    processes: int = 1
    update: int = 0
    seconds: float = 0.0
    loss_total: float = 0.0
    loss_count: int = 0
    best_loss: float | None = None
    best_update: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {**vars(self), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.update, self.seconds = state["update"], state["seconds"]
        self.processes = state.get("processes", 1)
        self.loss_total, self.loss_count = state["loss_total"], state["loss_count"]
        self.best_loss, self.best_update = state.get("best_loss"), state.get("best_update")
        self.generator.set_state(state["generator"])


class Checkpoints:
    """Checkpoints of one run, `checkpoint-<update>`, each written beside and then renamed.

    Args:
        accelerator: whose state they hold.
        folder: the run's folder.
        keep: newest ones that are kept.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, *, keep: int):
        self.accelerator, self.folder, self.keep = accelerator, Path(folder) / "checkpoints", keep

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first, by their number."""
        found = [path for path in self.folder.glob(f"{_PREFIX}*") if path.name[len(_PREFIX) :].isdigit()]
        return sorted(found, key=lambda path: int(path.name[len(_PREFIX) :]))

    def newest(self) -> Path | None:
        """The newest complete checkpoint, if any."""
        found = self.all()
        return found[-1] if found else None

    def save(self, update: int) -> None:
        """Save a checkpoint and drop those past `keep`.

        Raises:
            TrainingFault: it could not be written; the ones before are still there.
        """
        final = self.folder / f"{_PREFIX}{update}"
        partial = self.folder / f"{final.name}.partial"
        main = self.accelerator.is_main_process
        if main:
            for left in (*self.folder.glob(f"{_PREFIX}*.partial"), *self.folder.glob(f".{_PREFIX}*.removed")):
                shutil.rmtree(left, ignore_errors=True)  # by a process that was killed
            with writing(final):
                partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        try:
            with writing(final, SafetensorError, RuntimeError):  # the second is how torch says it
                self.accelerator.save_state(str(partial), safe_serialization=True)
            self.accelerator.wait_for_everyone()
            if main:
                seal(partial)
        except StorageFault as error:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk has no room for half of it
            raise TrainingFault(
                f"{error}\nLast good checkpoint: {self.newest() or 'none yet'}. Go on from it with --resume"
            ) from error
        if main:
            take_place(partial, final)
            for old in self.all()[: -self.keep]:
                discard(old)
        self.accelerator.wait_for_everyone()

    def load_newest(self) -> None:
        """Load the newest checkpoint, if there is one.

        Raises:
            TrainingFault: if it is damaged or of another model.
        """
        newest = self.newest()
        if newest is None:
            return
        try:
            if damage := broken(newest):
                raise DataError(damage)
            self.accelerator.load_state(str(newest))
        except Exception as error:
            raise TrainingFault(
                f"{newest}: cannot be loaded ({error}). Delete this folder to go on from the one before"
            ) from error


class MetricsFile:
    """One JSON object a line, in the order of updates.

    Args:
        path: the file.
        main: whether this process writes it.
    """

    def __init__(self, path: Path, *, main: bool = True):
        self.path, self.main = Path(path), main

    def append(self, row: dict[str, Any]) -> None:
        """Add a row."""
        if self.main:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a") as file:
                    file.write(json.dumps(row) + "\n")

    def cut_after(self, update: int) -> dict[str, Any]:
        """Drop rows of updates that are about to be done again; return the last one that stays, if any."""
        kept: list[dict[str, Any]] = []
        if self.main and self.path.exists():
            kept = [row for row in self.read(self.path) if row["update"] <= update]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        return kept[-1] if kept else {}

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All rows; a last line cut short by a crash is left out.

        Raises:
            DataError: a line before it is damaged.
        """
        rows, lines = [], Path(path).read_bytes().splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                rows.append({**row, "update": row["update"]})
            except (ValueError, TypeError, KeyError) as error:
                if number < len(lines):
                    raise DataError(f"{path}:{number}: is damaged ({error}). Remove this line, or the file.") from error
        return rows


@contextmanager
def interruptible(accelerator: Accelerator) -> Iterator[list[float]]:
    """Yield a list that fills up at the first Ctrl-C; the second one interrupts at once.

    With several processes the terminal sends one to each, and then the launcher does so again: what comes within
    seconds of the first is the same one.
    """
    caught: list[float] = []
    echo = _ECHO if accelerator.num_processes > 1 else 0.0

    def remember(signum: int, frame: Any) -> None:
        if caught and time.monotonic() - caught[0] >= echo:
            raise KeyboardInterrupt
        caught.append(time.monotonic())
        if len(caught) == 1 and accelerator.is_main_process:
            tqdm.write("stopping after this update; press Ctrl-C again to stop at once", file=sys.stderr)

    try:
        before = signal.signal(signal.SIGINT, remember)
    except ValueError:  # not in the main thread: whoever runs us handles interrupts
        yield caught
        return
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)
