"""A dataset folder that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtdiff.data.sources.source import with_prompts
from mtdiff.data.trajectories import DEFAULT_SPLIT, TrajectoryDataset
from mtdiff.environments.suite import Suite
from mtdiff.errors import DataError, at_least
from mtdiff.registry import DATA


@DATA.register("folder")
class Folder:
    """A dataset folder, written by `TrajectoryDataset.save` or `mtdiff collect`.

    It is used where it lies, and never written to. Only if demonstrations are put beside it, or held out of it, are
    both kept as a dataset of their own.

    Args:
        path: the folder.
        prompts: where demonstrations are, if not in the folder: another such folder, a `.npy` prompt file or a folder
            of them.
        prompts_per_task: demonstrations a task. Without `prompts` they are the best episodes of the folder, held out
            of training; null takes all there are in `prompts`, or those that the folder has.
        prompt_min_steps: a shorter episode is no demonstration; only where one of the two above is given.

    Raises:
        ValueError: a number out of its range.
    """

    name = "folder"

    def __init__(
        self,
        *,
        path: str,
        prompts: str | None = None,
        prompts_per_task: int | None = None,
        prompt_min_steps: int = 20,
    ) -> None:
        at_least(1, prompt_min_steps=prompt_min_steps)
        at_least(0, prompts_per_task=prompts_per_task or 0)
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        self.path, self.prompts = Path(path).expanduser(), prompts
        self.prompts_per_task, self.prompt_min_steps = prompts_per_task, prompt_min_steps

    def describe(self) -> dict[str, Any]:
        """Return the name and arguments as given."""
        return {"name": self.name, **self._arguments}

    @property
    def in_place(self) -> Path | None:
        """The folder itself, if nothing is to be added to it or taken from it."""
        return self.path if self.prompts is None and self.prompts_per_task is None else None

    def read(self, suite: Suite) -> dict[str, TrajectoryDataset]:
        """Read the folder and its demonstrations.

        Raises:
            DataError: no complete dataset there, of another suite, or demonstrations that do not fit.
        """
        from mtdiff.data.storage import read_manifest

        splits = read_manifest(self.path)["splits"]
        data = TrajectoryDataset.load(self.path)
        if self.in_place is None and self.prompts is None and "prompts" in splits and self.prompts_per_task:
            raise DataError(
                f"data.prompts_per_task: {self.path} has demonstrations of its own. Leave it null to use them, or name "
                "them under data.prompts."
            )
        parts = with_prompts(
            data,
            suite,
            given=self.prompts,
            count=self.prompts_per_task,
            min_steps=self.prompt_min_steps,
            where=str(self.path),
        )
        if self.in_place is not None and "prompts" in splits:
            parts["prompts"] = TrajectoryDataset.load(self.path, split="prompts")
        return parts if "prompts" in parts else {DEFAULT_SPLIT: data}

    def files(self, suite: Suite) -> list[Path]:
        """Return the manifest, which knows every other file's content."""
        from mtdiff.data.prompt_files import files_of

        return files_of(self.path) + (files_of(Path(self.prompts)) if self.prompts else [])
