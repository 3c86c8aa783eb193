"""Trajectories that a program hands over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments.suite import Suite
from mtdiff.errors import DataError
from mtdiff.registry import DATA


@DATA.register("given")
class Given:
    """What `mtdiff.train(recipe, dataset=..., prompts=...)` was handed; such a recipe needs a program to train."""

    name = "given"
    in_place: Path | None = None

    def describe(self) -> dict[str, Any]:
        """Return the name."""
        return {"name": self.name}

    def read(self, suite: Suite) -> dict[str, TrajectoryDataset]:
        """Refuse.

        Raises:
            DataError: always: there is nothing to read.
        """
        raise DataError(
            "data: 'given' means trajectories that a program hands over: mtdiff.train(recipe, dataset=..., "
            "prompts=...). To train on files, name another source; `mtdiff parts data` lists them."
        )

    def files(self, suite: Suite) -> list[Path]:
        """Return nothing."""
        return []
