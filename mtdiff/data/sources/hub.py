"""A dataset repository on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mtdiff.data.sources.lerobot import LeRobot
from mtdiff.data.sources.lerobot_files import INFO
from mtdiff.data.sources.source import with_prompts
from mtdiff.data.trajectories import DEFAULT_SPLIT, TrajectoryDataset
from mtdiff.environments.suite import Suite
from mtdiff.errors import DataError, at_least
from mtdiff.registry import DATA


@DATA.register("hub")
class Hub:
    """A dataset of the Hub: one that `mtdiff push` wrote, or one in LeRobot's layout.

    It is pulled and read once. Without `revision` that is the main branch of that moment; the commit is kept with what
    was read, and the data's fingerprint with every run.

    Args:
        repo: "user/name".
        revision: a branch, tag or commit; a commit makes a recipe exact.
        prompts: where demonstrations are, if not in the dataset: a dataset folder, a `.npy` prompt file or a folder of
            them.
        prompts_per_task: demonstrations a task. Without `prompts` they are the best episodes, held out of training;
            null takes all there are in `prompts`, or those that the dataset has.
        prompt_min_steps: a shorter episode is no demonstration.
        tasks: for LeRobot's layout, see `lerobot`.
        actions: for LeRobot's layout, see `lerobot`.
        last_state: for LeRobot's layout, see `lerobot`.

    Raises:
        ValueError: `repo` is no repository id, or a number out of its range.
    """

    name = "hub"
    in_place: Path | None = None

    def __init__(
        self,
        *,
        repo: str,
        revision: str | None = None,
        prompts: str | None = None,
        prompts_per_task: int | None = None,
        prompt_min_steps: int = 20,
        tasks: dict[str, str] | None = None,
        actions: Literal["unit", "min_max"] = "unit",
        last_state: Literal["repeat", "drop"] = "repeat",
    ) -> None:
        if not all(repo.partition("/")) or repo.count("/") != 1 or set(repo) & set(" :@\\"):
            raise ValueError(f"repo: must be a repository id like user/name, got '{repo}'")
        at_least(1, prompt_min_steps=prompt_min_steps)
        at_least(0, prompts_per_task=prompts_per_task or 0)
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        self.repo, self.revision = repo, revision
        self.prompts, self.prompts_per_task, self.prompt_min_steps = prompts, prompts_per_task, prompt_min_steps
        self._layout: dict[str, Any] = {"tasks": tasks, "actions": actions, "last_state": last_state}

    def describe(self) -> dict[str, Any]:
        """Return the name and arguments as given."""
        return {"name": self.name, **self._arguments}

    def read(self, suite: Suite) -> dict[str, TrajectoryDataset]:
        """Pull the dataset and read it, and its demonstrations.

        Raises:
            MTDiffError: it cannot be pulled.
            DataError: it is no such dataset, damaged, or of another suite.
        """
        from mtdiff.data.storage import MANIFEST, read_manifest
        from mtdiff.sharing.pull import commit, pull
        from mtdiff.sharing.repository import Repository

        repository = Repository(name=self.repo, revision=self.revision)
        folder = pull(repository, kind="dataset")
        shown: TrajectoryDataset | None = None
        if (folder / MANIFEST).is_file():
            data = TrajectoryDataset.load(folder)
            if "prompts" in read_manifest(folder)["splits"]:
                shown = TrajectoryDataset.load(folder, split="prompts")
        elif (folder / INFO).is_file():
            data = LeRobot(path=str(folder), **self._layout).episodes(where=str(repository))
        else:
            raise DataError(
                f"{repository}: neither a dataset that `mtdiff push` wrote (no {MANIFEST}) nor one in LeRobot's layout "
                f"(no {INFO})"
            )
        if shown is not None and self.prompts is None and self.prompts_per_task:
            raise DataError(
                f"data.prompts_per_task: {repository} has demonstrations of its own. Leave it null to use them, or "
                "name others under data.prompts."
            )
        parts = with_prompts(
            data,
            suite,
            given=self.prompts,
            count=self.prompts_per_task,
            min_steps=self.prompt_min_steps,
            where=str(repository),
        )
        if shown is not None and "prompts" not in parts:
            parts["prompts"] = shown
        for part in parts.values():
            part.metadata = {**part.metadata, "commit": commit(folder)}
        return {split: parts[split] for split in (DEFAULT_SPLIT, "prompts") if split in parts}

    def files(self, suite: Suite) -> list[Path]:
        """Return the files of the demonstrations alone: what was pulled is never changed, only pulled anew."""
        from mtdiff.data.prompt_files import files_of

        return files_of(Path(self.prompts)) if self.prompts else []
