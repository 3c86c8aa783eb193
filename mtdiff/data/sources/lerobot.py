"""Datasets in the layout of LeRobot, Hugging Face's library for robots."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mtdiff.data.sources.source import with_prompts
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments.suite import Suite
from mtdiff.errors import at_least
from mtdiff.registry import DATA


@DATA.register("lerobot")
class LeRobot:
    """A folder in LeRobot's layout, version 2.x or 3.0: `meta/info.json` and `data/chunk-*/*.parquet`.

    State, action, reward and success are read (`observation.state`, `action`, `next.reward`, `next.success`), images
    are not. Where the files have no rewards, all are 0. A task is called by its sentence in lower case, with dashes:
    "Pick the cube." is `pick-the-cube`.

    Args:
        path: the folder.
        tasks: task of the suite to its sentence, where they are called otherwise.
        actions: "unit" takes actions as they are, which must be in [-1, 1]; "min_max" scales every number of an action
            from its least and greatest value in these data to [-1, 1], and keeps both with the data.
        last_state: an episode's last action has no state after it in the files: "repeat" takes the last state again,
            so that no reward and no success is lost; "drop" leaves the last action out.
        prompts: where demonstrations are: a dataset folder; null holds out the best episodes.
        prompts_per_task: demonstrations a task, at most; null holds out none.
        prompt_min_steps: a shorter episode is no demonstration.

    Raises:
        ValueError: a number out of its range.
    """

    name = "lerobot"
    in_place: Path | None = None

    def __init__(
        self,
        *,
        path: str,
        tasks: dict[str, str] | None = None,
        actions: Literal["unit", "min_max"] = "unit",
        last_state: Literal["repeat", "drop"] = "repeat",
        prompts: str | None = None,
        prompts_per_task: int | None = None,
        prompt_min_steps: int = 20,
    ) -> None:
        at_least(1, prompt_min_steps=prompt_min_steps)
        at_least(0, prompts_per_task=prompts_per_task or 0)
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        self.path, self.tasks, self.actions, self.last_state = Path(path).expanduser(), tasks, actions, last_state
        self.prompts, self.prompts_per_task, self.prompt_min_steps = prompts, prompts_per_task, prompt_min_steps

    def describe(self) -> dict[str, Any]:
        """Return the name and arguments as given."""
        return {"name": self.name, **self._arguments}

    def episodes(self, *, where: str) -> TrajectoryDataset:
        """Return all episodes.

        Args:
            where: the beginning of messages.

        Raises:
            DataError: not such a folder, columns that are missing, actions beyond [-1, 1].
        """
        from mtdiff.data.sources.lerobot_files import read

        return read(
            self.path,
            tasks=self.tasks,
            scaled=self.actions == "min_max",
            repeat=self.last_state == "repeat",
            where=where,
        )

    def read(self, suite: Suite) -> dict[str, TrajectoryDataset]:
        """Read the folder and its demonstrations.

        Raises:
            DataError: see `episodes`; data of another suite, or demonstrations that do not fit.
        """
        return with_prompts(
            self.episodes(where=str(self.path)),
            suite,
            given=self.prompts,
            count=self.prompts_per_task,
            min_steps=self.prompt_min_steps,
            where=str(self.path),
        )

    def files(self, suite: Suite) -> list[Path]:
        """Return the files of numbers that are there, and those of the demonstrations."""
        from mtdiff.data.prompt_files import files_of
        from mtdiff.data.sources.lerobot_files import files

        return files(self.path) + (files_of(Path(self.prompts)) if self.prompts else [])
