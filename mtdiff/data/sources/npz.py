"""One `.npz` file per episode, the layout of MTDiff's authors and of HarmoDT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtdiff.data.episode_files import episode_files, read_npz
from mtdiff.data.sources.source import older_names, with_prompts
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments.suite import Suite
from mtdiff.errors import DataError, at_least, choices
from mtdiff.registry import DATA


@DATA.register("npz")
class Npz:
    """Episodes in `<path>/<task>/<run>/dataset/<number>.npz`, or `<path>/<task>/<number>.npz`.

    Each has observations, actions, rewards, next_observations and terminals; `success` is read where it is there. The
    numbers order a learner's replay buffer, so the first files are its beginning: MTDiff's near-optimal data are the
    first 2000 of each task, the sub-optimal ones the first 1000. An episode ends because it is cut off. Actions beyond
    [-1, 1], which the authors' files have, are clipped, and each episode's label `clipped` counts the numbers.

    Args:
        path: the folder of all tasks.
        tasks: task to the folder of its episodes, below `path`; null takes, for every task of the suite, the folder of
            its name, or of Meta-World's older name with `-v2`.
        episodes_per_task: how many, in the order of their numbers; null takes all.
        prompts: where demonstrations are: a `.npy` prompt file, a folder of them, or a dataset folder; null holds out
            the best episodes.
        prompts_per_task: demonstrations a task, at most.
        prompt_min_steps: a shorter episode is no demonstration.

    Raises:
        ValueError: a number out of its range.
    """

    name = "npz"
    in_place: Path | None = None

    def __init__(
        self,
        *,
        path: str,
        tasks: dict[str, str] | None = None,
        episodes_per_task: int | None = None,
        prompts: str | None = None,
        prompts_per_task: int = 10,
        prompt_min_steps: int = 20,
    ) -> None:
        at_least(1, prompt_min_steps=prompt_min_steps)
        at_least(0, prompts_per_task=prompts_per_task)
        if episodes_per_task is not None:
            at_least(1, episodes_per_task=episodes_per_task)
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        self.path, self.tasks, self.episodes_per_task = Path(path).expanduser(), tasks, episodes_per_task
        self.prompts, self.prompts_per_task = prompts, prompts_per_task
        self.prompt_min_steps = prompt_min_steps

    def describe(self) -> dict[str, Any]:
        """Return the name and arguments as given."""
        return {"name": self.name, **self._arguments}

    def read(self, suite: Suite) -> dict[str, TrajectoryDataset]:
        """Read every task's episodes and the demonstrations.

        Raises:
            DataError: a task without a folder, a file that is not whole, data of another suite.
        """
        from tqdm import tqdm

        chosen = {task: self._files(folder) for task, folder in self._folders(suite).items()}
        total = sum(map(len, chosen.values()))
        with tqdm(total=total, desc="read", unit="episode", disable=None, dynamic_ncols=True) as bar:
            episodes = []
            for task, files in chosen.items():
                for file in files:
                    label = {"file": file.relative_to(self.path).as_posix()}
                    episodes.append(read_npz(file, task=task, labels=label))
                    bar.update()
        return with_prompts(
            TrajectoryDataset.from_trajectories(episodes, tasks=list(chosen)),
            suite,
            given=self.prompts,
            count=self.prompts_per_task,
            min_steps=self.prompt_min_steps,
            where=str(self.path),
        )

    def files(self, suite: Suite) -> list[Path]:
        """Return the chosen files of all tasks, and those of the demonstrations; none if the folder is gone."""
        from mtdiff.data.prompt_files import files_of

        if not self.path.is_dir():
            return []
        files = [file for folder in self._folders(suite).values() for file in self._files(folder)]
        return files + (files_of(Path(self.prompts)) if self.prompts else [])

    def _files(self, folder: Path) -> list[Path]:
        return episode_files(folder)[: self.episodes_per_task]

    def _folders(self, suite: Suite) -> dict[str, Path]:
        if not self.path.is_dir():
            raise DataError(f"data.path: there is no folder {self.path}.")
        there = sorted(path.name for path in self.path.iterdir() if path.is_dir())
        if self.tasks is None:
            found = {task: [name for name in older_names(task) if name in there] for task in suite.tasks}
            if missing := [task for task, names in found.items() if not names]:
                raise DataError(
                    f"{self.path}: has no folder for {', '.join(missing)}; it has {', '.join(there) or 'none'}. "
                    "Leave tasks out of suite.tasks, or say under data.tasks which folder is whose."
                )
            return {task: self.path / names[0] for task, names in found.items()}
        for task, name in self.tasks.items():
            if task not in suite.tasks:
                raise DataError(f"data.tasks: {choices('task', task, suite.tasks)}")
            if not (self.path / name).is_dir():
                raise DataError(f"data.tasks.{task}: {choices('folder', name, there)}")
        return {task: self.path / name for task, name in self.tasks.items()}
