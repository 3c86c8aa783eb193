"""Maze2D: a ball that is pushed through mazes seen from above, one map per task (Fu et al., D4RL, 2020).

MTDiff (He et al., NeurIPS 2023, section 4.1) trains one planner on eight maps and shows it a ninth.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtdiff.environments.maze2d_catalogue import DRAWINGS, SETS, named_map, random_names
from mtdiff.environments.maze2d_environment import ACTION_DIM, MazeEnvironment
from mtdiff.environments.maze2d_maps import MazeMap, drawing_around
from mtdiff.environments.maze2d_routes import follower, shortest, walker
from mtdiff.errors import DataError, EnvironmentFault, RecipeError, choices
from mtdiff.registry import SUITES

EARLY = 200  # steps within which the paper counts a success


@SUITES.register("maze2d")
class Maze2D:
    """A ball in mazes, one map per task: state (x, y, vx, vy), action the force along x and y, steps of 10 ms.

    An episode begins at rest in a random cell and succeeds within 0.45 m of the goal. Maps are drawn as text: `#` a
    wall, `.` a free cell, `G` the goal's.

    Args:
        tasks: a map's name (maze-1 ... maze-9, spiral, snake, large, random-<size>-<seed>-<number>), a set (maps8,
            held_out, harder) or a list of both; null for all of `maps` and `random_maps`, or maps8 without them.
        maps: maps of your own, name to drawing.
        random_maps: how many connected maps to draw at random.
        random_size: their rows and columns, walls at the edge included, 5 to 40.
        random_seed: another seed gives other maps.
        goals: fixed: where the map says; random: anywhere, another place in every episode.
        goal_in_state: whether the goal's position is part of the state, which then has 6 numbers.
        max_steps: an episode is truncated after so many steps.
        reward: sparse: 1 in every step near the goal; dense: exp(-distance).
        experts: how many demonstrators there are, at least 1. One takes the shortest way. Of several each has a taste
            of its own, and an episode is of one of them: where a map has several ways, the data show several.

    Raises:
        RecipeError: an unknown map, a number out of range, or a drawing that is no closed and connected map with a
            goal.
    """

    name = "maze2d"
    action_dim = ACTION_DIM
    gripper = None
    draws_with = "pillow"

    def __init__(
        self,
        *,
        tasks: str | list[str] | None = None,
        maps: dict[str, str] | None = None,
        random_maps: int = 0,
        random_size: int = 8,
        random_seed: int = 0,
        goals: Literal["fixed", "random"] = "fixed",
        goal_in_state: bool = False,
        max_steps: int = 600,
        reward: Literal["sparse", "dense"] = "sparse",
        experts: int = 1,
    ) -> None:
        for key, value, least in (
            ("experts", experts, 1),
            ("max_steps", max_steps, 1),
            ("random_maps", random_maps, 0),
            ("random_seed", random_seed, 0),
        ):
            if value < least:
                raise RecipeError(f"suite.{key}: should be at least {least}, got {value}.")
        if goals == "random" and not goal_in_state:
            raise RecipeError(
                "suite.goal_in_state: should be true with goals: random, because nothing else tells an episode's goal, "
                "got false."
            )
        self.goals: Literal["fixed", "random"] = goals
        self.goal_in_state, self.max_steps = goal_in_state, max_steps
        self.reward: Literal["sparse", "dense"] = reward
        self.experts = experts
        self._own = {name: text.strip("\n") for name, text in (maps or {}).items()}
        own = {name: self._read(name, text) for name, text in self._own.items()}
        drawn = random_names(random_maps, random_size, random_seed)
        if tasks is None:
            tasks = [*own, *drawn] or "maps8"
        elif drawn:
            tasks = [*([tasks] if isinstance(tasks, str) else tasks), *drawn]
        self._maps: dict[str, MazeMap] = {}
        for entry in [tasks] if isinstance(tasks, str) else tasks:
            for name in [entry] if entry in own else SETS.get(entry, [entry]):
                self._maps[name] = own[name] if name in own else self._named(name, own)
        if not self._maps:
            raise RecipeError("suite.tasks: no map named. Name at least one, for example 'maze-1' or 'maps8'.")
        self.tasks = list(self._maps)

    @property
    def state_dim(self) -> int:
        """Numbers of a state: 4, or 6 with the goal."""
        return 6 if self.goal_in_state else 4

    @cached_property
    def map_shape(self) -> tuple[int, int] | None:
        """Rows and columns of the maps; None if they are not all equally large."""
        shapes = {drawn.shape for drawn in self._maps.values()}
        return shapes.pop() if len(shapes) == 1 else None

    def map(self, task: str) -> MazeMap:
        """Return a task's map.

        Raises:
            EnvironmentFault: the task is not in this suite.
        """
        if task not in self._maps:
            raise EnvironmentFault(f"maze2d: {choices('task', task, self.tasks)}")
        return self._maps[task]

    def grid(self, task: str) -> NDArray[np.float32]:
        """Return a task's map (R, C): 1 a wall, 0 a free cell, -1 the goal's cell where goals are fixed."""
        return self.map(task).grid(goal=self.goals == "fixed")

    def describe(self) -> dict[str, Any]:
        """Return the name and arguments, tasks resolved."""
        return {
            "name": self.name,
            "tasks": list(self.tasks),
            **({"maps": {task: text for task, text in self._own.items() if task in self._maps}} if self._own else {}),
            "goals": self.goals,
            "goal_in_state": self.goal_in_state,
            "max_steps": self.max_steps,
            "reward": self.reward,
            "experts": self.experts,
        }

    def versions(self) -> dict[str, str]:
        """Return the versions of the simulator packages.

        Raises:
            EnvironmentFault: one is not installed.
        """
        try:
            return {name: importlib.metadata.version(name) for name in ("gymnasium-robotics", "mujoco", "gymnasium")}
        except importlib.metadata.PackageNotFoundError as error:
            raise EnvironmentFault(
                f"maze2d: {error.name} is not installed. Install it with: pip install 'mtdiff[maze2d]'"
            ) from error

    def make(self, task: str) -> MazeEnvironment:
        """Make the environment of one of this suite's tasks; it is small and quick, for there may be hundreds.

        Raises:
            EnvironmentFault: the task is not in this suite, or gymnasium-robotics is not installed.
        """
        return MazeEnvironment(
            task=task,
            drawn=self.map(task),
            goals=self.goals,
            goal_in_state=self.goal_in_state,
            max_steps=self.max_steps,
            reward=self.reward,
        )

    def demonstrator(self, task: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """Return a controller that walks to the goal; see `mtdiff.environments.maze2d_routes.walker`.

        Raises:
            EnvironmentFault: the task is not in this suite.
        """
        drawn = self.map(task)
        act, goal = walker(drawn, self.experts), self._fixed(drawn)
        return lambda state: act(state if len(state) == 6 else np.append(state, goal))

    def follower(self, task: str, states: NDArray[np.floating]) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """Return a controller that copies the way of a demonstration's states (n, O): what can be had for nothing.

        Raises:
            EnvironmentFault: the task is not in this suite.
        """
        self.map(task)
        return follower(np.asarray(states)[:, :2])

    def refuse_prompt(self, task: str, states: NDArray[np.floating]) -> None:
        """Refuse a demonstration that cannot be one of a task's map.

        Args:
            task: its map.
            states: (J, O) of the demonstration.

        Raises:
            DataError: a place of it lies in a wall or outside, with the map drawn and those cells marked.
        """
        drawn = self.map(task)
        rows, columns = drawn.shape
        x, y = np.asarray(states, np.float64)[:, :2].T
        cells = {(int(i), int(j)) for i, j in zip(np.floor(rows / 2 - y), np.floor(x + columns / 2), strict=True)}
        if not (lost := cells - set(drawn.free)):
            return
        outside = sum(not (0 <= i < rows and 0 <= j < columns) for i, j in lost)
        way = f"{outside} of its cells lie outside the map" if outside else f"its way leads through {len(lost)} walls"
        raise DataError(
            f"prompt: is of another map than {task}, of {rows} rows and {columns} columns: {way} (marked X).\n"
            + drawing_around(drawn.rows, lost)
        )

    def scores(self, task: str, states: NDArray[np.floating], success_step: int | None) -> dict[str, float]:
        """Return what an episode is judged by beside its success.

        Args:
            task: its map.
            states: (T + 1, O), the first one included.
            success_step: the first successful step, counted from 1.

        Returns:
            "success in 200 steps": 0 or 1. For a success also "path / shortest": the way to the goal's middle, over
            the shortest one that no wall forbids.
        """
        early = {f"success in {EARLY} steps": float(success_step is not None and success_step <= EARLY)}
        if success_step is None:
            return early
        drawn = self.map(task)
        way = np.asarray(states[: success_step + 1, :2], np.float64)
        goal = np.asarray(states[0, 4:6], np.float64) if self.goal_in_state else self._fixed(drawn)
        walked = np.linalg.norm(np.diff(way, axis=0), axis=1).sum() + np.linalg.norm(way[-1] - goal)
        return {**early, "path / shortest": float(walked / shortest(drawn).length(way[0], goal))}

    def _fixed(self, drawn: MazeMap) -> NDArray[np.float64]:
        return drawn.centre(drawn.goal) if drawn.goal is not None and self.goals == "fixed" else np.full(2, np.nan)

    def _read(self, name: str, text: str) -> MazeMap:
        taken = name in (*SETS, *DRAWINGS) or name.startswith("random-")
        if taken or not re.fullmatch(r"[\w-]+", name):
            raise RecipeError(
                f"suite.maps: '{name}' cannot be the name of a map of your own, which names files. Allowed: letters, "
                "digits, - and _, and no name of mtdiff's maps."
            )
        return MazeMap.read(name, text, goal=self.goals == "fixed")

    @staticmethod
    def _named(name: str, own: dict[str, MazeMap]) -> MazeMap:
        try:
            return named_map(name)
        except RecipeError as error:
            text = str(error)
            raise RecipeError(text if text.startswith("suite.") else f"suite.{text}") from error
