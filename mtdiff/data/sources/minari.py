"""Datasets of Minari, the Farama Foundation's library of offline data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.episode_files import clip
from mtdiff.data.sources.source import with_prompts
from mtdiff.data.trajectories import Trajectory, TrajectoryDataset
from mtdiff.environments.suite import Suite
from mtdiff.errors import DataError, at_least
from mtdiff.registry import DATA

if TYPE_CHECKING:
    from gymnasium import spaces

SUCCESS = ("success", "is_success", "goal_achieved")
"""Infos that say whether a step was a success, in order of preference."""


@DATA.register("minari")
class Minari:
    """Minari datasets, one for each task. Needs the package: `pip install "mtdiff[minari]"`.

    Observations are flattened in the order of `gymnasium.spaces.flatten`. Actions are scaled from the bounds of the
    dataset's action space to [-1, 1]; the label `clipped` counts numbers that were beyond them. Success is taken from
    the infos, where they say it: `success`, `is_success` or `goal_achieved`.

    Args:
        datasets: task to the dataset's id, such as `pen: D4RL/pen/human-v2`.
        download: whether to fetch a dataset that is not on this machine.
        episodes_per_task: how many, from the first; null takes all.
        prompts: where demonstrations are: a dataset folder; null holds out the best episodes.
        prompts_per_task: demonstrations a task, at most.
        prompt_min_steps: a shorter episode is no demonstration.

    Raises:
        ValueError: a number out of its range, or no dataset.
    """

    name = "minari"
    in_place: Path | None = None

    def __init__(
        self,
        *,
        datasets: dict[str, str],
        download: bool = False,
        episodes_per_task: int | None = None,
        prompts: str | None = None,
        prompts_per_task: int = 5,
        prompt_min_steps: int = 20,
    ) -> None:
        if not datasets:
            raise ValueError("datasets: must name a dataset for each task, got none")
        at_least(1, prompt_min_steps=prompt_min_steps)
        at_least(0, prompts_per_task=prompts_per_task)
        if episodes_per_task is not None:
            at_least(1, episodes_per_task=episodes_per_task)
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        self.datasets, self.download, self.episodes_per_task = dict(datasets), download, episodes_per_task
        self.prompts, self.prompts_per_task = prompts, prompts_per_task
        self.prompt_min_steps = prompt_min_steps

    def describe(self) -> dict[str, Any]:
        """Return the name and arguments as given."""
        return {"name": self.name, **self._arguments}

    def read(self, suite: Suite) -> dict[str, TrajectoryDataset]:
        """Read every task's dataset.

        Raises:
            DataError: Minari or a dataset is not there, spaces that cannot be used, data of another suite.
        """
        minari = _minari()
        episodes = []
        for task, name in self.datasets.items():
            try:
                dataset = minari.load_dataset(name, download=self.download)
            except (FileNotFoundError, ValueError) as error:
                hint = "" if self.download else " Fetch it with data.download=true."
                raise DataError(
                    f"data.datasets.{task}: {name} cannot be read: {str(error).rstrip('.')}.{hint}"
                ) from error
            episodes += _episodes(dataset, task, name, self.episodes_per_task)
        return with_prompts(
            TrajectoryDataset.from_trajectories(episodes, tasks=list(self.datasets)),
            suite,
            given=self.prompts,
            count=self.prompts_per_task,
            min_steps=self.prompt_min_steps,
            where=", ".join(self.datasets.values()),
        )

    def files(self, suite: Suite) -> list[Path]:
        """Return the files of all datasets that are on this machine, and those of the demonstrations."""
        from mtdiff.data.prompt_files import files_of

        try:
            from minari.storage.datasets_root_dir import get_dataset_path
        except ImportError:
            return []
        folders = [Path(get_dataset_path(name)) for name in self.datasets.values()]
        files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        return files + (files_of(Path(self.prompts)) if self.prompts else [])


def _minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise DataError(
            f"data.name: minari needs a package that is not installed ({error.name}): pip install 'mtdiff[minari]'."
        ) from error
    return minari


def _episodes(dataset: Any, task: str, name: str, count: int | None) -> list[Trajectory]:
    from gymnasium import spaces

    box = dataset.action_space
    if not isinstance(box, spaces.Box) or len(box.shape) != 1:
        raise DataError(f"{name}: actions should be of a Box of one dimension, got {box}.")
    low, high = box.low.astype(np.float64), box.high.astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise DataError(f"{name}: actions cannot be scaled to [-1, 1] without finite bounds, got {box}.")
    episodes = []
    for episode in dataset.iterate_episodes(dataset.episode_indices[:count]):
        actions, clipped = clip((2 * (episode.actions - low) / (high - low) - 1).astype(np.float32))
        steps = len(actions)
        terminated = bool(np.asarray(episode.terminations).any())
        where = f"{name}: episode {episode.id}"
        try:
            episodes.append(
                Trajectory(
                    states=flatten(dataset.observation_space, episode.observations, where=where),
                    actions=actions,
                    rewards=np.asarray(episode.rewards),
                    success=_success(episode.infos, steps, where),
                    terminated=terminated,
                    truncated=not terminated,
                    task=task,
                    labels={"dataset": name, "episode": int(episode.id), "clipped": clipped},
                )
            )
        except DataError as error:
            text = str(error)
            raise DataError(text if text.startswith(where) else f"{where}: {text}") from error
    return episodes


def flatten(space: spaces.Space[Any], values: Any, *, where: str) -> NDArray[np.float32]:
    """Flatten the observations of a whole episode, each as `gymnasium.spaces.flatten` would.

    Args:
        space: of one observation.
        values: the observations: every leaf has them along its first dimension.
        where: the beginning of the message.

    Raises:
        DataError: a space whose observations are no fixed number of numbers.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Box | spaces.MultiBinary):
        array = np.asarray(values, np.float32)
        return array.reshape(len(array), -1)
    if isinstance(space, spaces.Discrete):
        index = np.asarray(values, np.int64).reshape(-1) - int(space.start)
        return np.eye(int(space.n), dtype=np.float32)[index]
    if isinstance(space, spaces.MultiDiscrete) and space.start.ndim == 1:
        index = np.asarray(values, np.int64) - space.start
        return np.concatenate(
            [np.eye(n, dtype=np.float32)[column] for n, column in zip(space.nvec, index.T, strict=True)], axis=1
        )
    if isinstance(space, spaces.Dict):
        parts = [flatten(inner, values[key], where=where) for key, inner in space.spaces.items()]
        return np.concatenate(parts, axis=1)
    if isinstance(space, spaces.Tuple):
        parts = [flatten(inner, value, where=where) for inner, value in zip(space.spaces, values, strict=True)]
        return np.concatenate(parts, axis=1)
    raise DataError(
        f"{where}: observations should be of Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, got {space}."
    )


def _success(infos: Any, steps: int, where: str) -> NDArray[np.bool_]:
    for key in SUCCESS:
        if key in (infos or {}):
            flags = np.asarray(infos[key]).reshape(-1).astype(bool)
            if len(flags) not in (steps, steps + 1):
                raise DataError(f"{where}: infos of '{key}' should be {steps} or {steps + 1}, got {len(flags)}.")
            return flags[-steps:]  # the first of T + 1 is the reset's
    return np.zeros(steps, bool)
