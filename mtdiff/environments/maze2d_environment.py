"""One map of Maze2D as an environment whose every episode follows from one seed: gymnasium-robotics' PointMaze."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tempfile
import warnings
import weakref
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from mtdiff.environments.maze2d_maps import MazeMap
from mtdiff.errors import EnvironmentFault

ACTION_DIM = 2  # force along x and y
NEAR = 0.45  # metres from the goal that count as reaching it
NOISE = 0.25  # metres along x and y, from the middle of a cell
HEIGHT = 0.4  # of walls, as PointMaze has them

Goals = Literal["fixed", "random"]


@functools.cache
def _engine() -> tuple[Any, Any, str]:
    """PointMaze's ball, its maze, and the ball's body as XML.

    Raises:
        EnvironmentFault: gymnasium-robotics is not installed, or the renderer that MUJOCO_GL names does not work.
    """
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")  # it advertises versions of environments that are not used here
            from gymnasium_robotics.envs.maze import point
            from gymnasium_robotics.envs.maze.maze_v4 import Maze
    except ImportError as error:
        raise EnvironmentFault(
            f"maze2d: the simulator cannot be imported ({error}). Install it with: pip install 'mtdiff[maze2d]'"
        ) from error
    except Exception as error:  # a missing graphics library shows as nearly anything
        raise EnvironmentFault(
            f"maze2d: the simulator cannot be imported ({type(error).__name__}: {error})."
        ) from error
    tree = ElementTree.parse(Path(point.__file__).parent.parent / "assets" / "point" / "point.xml")
    root = tree.getroot()
    for assets in root.findall("asset"):  # 11 MB of sky, which nobody looks at
        for asset in list(assets):
            if asset.tag == "texture":
                assets.remove(asset)
            for key in ("texture", "texrepeat"):
                asset.attrib.pop(key, None)
    ElementTree.SubElement(root, "size", memory="1M")  # 13 MB otherwise
    return point.PointEnv, Maze, ElementTree.tostring(root, encoding="unicode")


_models: weakref.WeakValueDictionary[tuple[str, ...], Any] = weakref.WeakValueDictionary()


class _Model:
    """A compiled map, shared by all its environments of a process: an episode changes none of it."""

    def __init__(self, rows: tuple[str, ...]) -> None:
        import mujoco

        _, maze, body = _engine()
        cells = [[1 if sign == "#" else 0 for sign in row] for row in rows]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "point.xml")
            path.write_text(body, encoding="utf-8")
            _, written = maze.make_maze(str(path), cells, 1.0, HEIGHT)
            try:
                self.model = mujoco.MjModel.from_xml_path(written)
            finally:
                os.unlink(written)  # it lies beside `folder`, and nobody else removes it


@functools.cache
def _ball() -> type:
    """PointMaze's ball on a model that is compiled once per process and map."""
    point, _, _ = _engine()

    def initialise(self: Any) -> tuple[Any, Any]:
        import mujoco

        return self.map_model.model, mujoco.MjData(self.map_model.model)

    return type("Ball", (point,), {"_initialize_simulation": initialise})


class MazeEnvironment:
    """One map; see `Environment`. An episode begins in any cell but the goal's.

    Args:
        task: the map's name.
        drawn: the map.
        goals: "fixed" for the middle of the cell that is drawn as the goal's, "random" for another place in every
            episode.
        goal_in_state: whether the state is (x, y, vx, vy, goal x, goal y) or (x, y, vx, vy).
        max_steps: truncated after so many steps.
        reward: "sparse" for 1 in every step near the goal, "dense" for exp(-distance).
    """

    def __init__(
        self, *, task: str, drawn: MazeMap, goals: Goals, goal_in_state: bool, max_steps: int, reward: str
    ) -> None:
        self.task, self.drawn, self.max_steps = task, drawn, max_steps
        self._goals, self._goal_in_state, self._reward = goals, goal_in_state, reward
        kind = _ball()
        model = _models.get(drawn.rows)
        if model is None:
            model = _models[drawn.rows] = _Model(drawn.rows)
        self._ball: Any = type(kind.__name__, (kind,), {"map_model": model})()
        self._goal = np.zeros(2)
        self._start = np.zeros(2)
        self._steps: int | None = None
        self._full = np.zeros(6, np.float32)
        self._trail: list[NDArray[np.float32]] = []

    @property
    def goal(self) -> list[float]:
        """Where the goal is and where the episode began: x, y, x, y in metres."""
        self._begun("goal")
        return [*self._goal.tolist(), *self._start.tolist()]

    @property
    def full_state(self) -> NDArray[np.float32]:
        """The state (6,) with the goal."""
        return self._full.copy()

    def reset(self, seed: int) -> NDArray[np.float32]:
        """Start the episode of `seed` at rest and return its state."""
        rng = np.random.default_rng(seed)
        fixed, cells = self.drawn.goal, self.drawn.free
        if self._goals == "fixed" and fixed is not None:
            goal = fixed
            self._goal = self.drawn.centre(goal)
        else:
            goal = cells[int(rng.integers(len(cells)))]
            self._goal = self.drawn.centre(goal) + rng.uniform(-NOISE, NOISE, 2)
        starts = [cell for cell in cells if cell != goal]
        start = starts[int(rng.integers(len(starts)))]
        self._start = self.drawn.centre(start) + rng.uniform(-NOISE, NOISE, 2)
        self._ball.init_qpos[:] = self._start
        self._ball.init_qvel[:] = 0.0
        state, _ = self._ball.reset()
        self._steps, self._trail = 0, []
        return self._observe(state)

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, bool]:
        """Execute an action (2,), clipped to [-1, 1], for 10 ms.

        Returns:
            state, reward, success in this step (within 0.45 m of the goal), terminated (never), truncated (at
            `max_steps`).

        Raises:
            EnvironmentFault: before `reset`, after truncation, or with an action of wrong shape or not finite.
        """
        steps = self._begun("step")
        if steps >= self.max_steps:
            raise EnvironmentFault(f"{self.task}: the episode ended after {steps} steps; reset before the next step.")
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
            raise EnvironmentFault(f"{self.task}: an action is {ACTION_DIM} finite numbers, got {action.tolist()}.")
        state, *_ = self._ball.step(np.clip(action, -1.0, 1.0).astype(np.float64))
        self._steps = steps + 1
        distance = float(np.linalg.norm(state[:2] - self._goal))
        success = distance <= NEAR
        reward = float(np.exp(-distance)) if self._reward == "dense" else float(success)
        return self._observe(state), reward, success, False, self._steps >= self.max_steps

    def render(self, size: int) -> NDArray[np.uint8]:
        """Return the map from above (size, size, 3), with the way of the episode so far. Needs no renderer."""
        from mtdiff.environments.maze2d_drawing import picture

        self._begun("render")
        return picture(self.drawn, size, trail=np.stack(self._trail), goal=self._goal)

    def close(self) -> None:
        """Free the simulator."""
        self._ball.close()

    def _begun(self, what: str) -> int:
        if self._steps is None:
            raise EnvironmentFault(f"{self.task}: {what} before the first reset(seed).")
        return self._steps

    def _observe(self, state: NDArray[np.float64]) -> NDArray[np.float32]:
        self._full = np.concatenate([state, self._goal]).astype(np.float32)
        self._trail.append(self._full[:2])
        return self._full.copy() if self._goal_in_state else self._full[:4].copy()
