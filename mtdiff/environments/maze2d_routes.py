"""Ways through a map: the demonstrator that walks to the goal, and the shortest path there can be."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mtdiff.environments.maze2d_maps import Cell, MazeMap

RADIUS = 0.1  # metres, of the ball
LOOK_AHEAD = 1.0  # metres along the path from the nearest point of it to the point that is aimed at
GAIN, DAMPING = 10.0, 1.0  # of the PD controller
_TASTE = 1.0  # how much experts differ in what a cell costs, beside 1 for its length

Points = NDArray[np.float64]
Act = Callable[[NDArray[np.floating]], NDArray[np.float32]]


def walker(drawn: MazeMap, experts: int = 1) -> Act:
    """Return a controller that walks along the middles of cells to the goal: the shortest way and PD.

    D4RL's controller remembers which way-point it is heading for. This one aims at a point a little ahead on the same
    path, so what it does follows from the state alone, and an imitator can see everything that it sees.

    Args:
        drawn: the map.
        experts: how many different ones there are. Each but the only one has costs of its own for every cell, so where
            a map has several ways they disagree. Which one walks is decided by the place where an episode begins, at
            rest, as if at random.

    Returns:
        From a state (x, y, vx, vy, goal x, goal y) to an action (2,) in [-1, 1].
    """
    distances: dict[tuple[int, Cell], dict[Cell, float]] = {}
    walking = 0

    def act(given: NDArray[np.floating]) -> NDArray[np.float32]:
        nonlocal walking
        state = np.asarray(given, np.float64)
        if experts > 1 and not state[2:4].any():
            walking = zlib.crc32(state[:2].astype("<f4").tobytes()) % experts
        end = drawn.cell(state[4:6])
        if (walking, end) not in distances:
            costs = 1 + _TASTE * np.random.default_rng(walking).exponential(size=drawn.shape)
            distances[walking, end] = drawn.distances(end, costs if experts > 1 else None)
        away, here = distances[walking, end], drawn.cell(state[:2])
        path = [drawn.centre(here)]
        while here != end and len(path) < 4:
            here = min(drawn.neighbours(here), key=away.__getitem__)
            path.append(drawn.centre(here))
        if here == end:
            path[-1] = state[4:6]
        return towards(state, ahead(np.stack(path), state[:2]))

    return act


def follower(path: NDArray[np.floating]) -> Act:
    """Return a controller that goes to the nearest point of a path (n, 2) and then along it to its end."""
    points = np.asarray(path, np.float64)
    points = points[np.append(True, np.abs(np.diff(points, axis=0)).max(axis=1) > 1e-6)]

    def act(given: NDArray[np.floating]) -> NDArray[np.float32]:
        state = np.asarray(given, np.float64)
        return towards(state, ahead(points, state[:2]))

    return act


def towards(state: Points, target: Points) -> NDArray[np.float32]:
    """The PD controller: the action (2,) that drives a state (x, y, vx, vy, ...) to a target (x, y)."""
    return np.clip(GAIN * (target - state[:2]) - DAMPING * state[2:4], -1.0, 1.0).astype(np.float32)


def ahead(path: Points, position: Points, distance: float = LOOK_AHEAD) -> Points:
    """The point that lies `distance` metres further along a path (n, 2) than the point of it nearest to a position."""
    if len(path) == 1:
        return path[0]
    steps = np.diff(path, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    share = np.clip(((position - path[:-1]) * steps).sum(1) / np.maximum(lengths, 1e-9) ** 2, 0.0, 1.0)
    nearest = int(np.argmin(np.linalg.norm(path[:-1] + share[:, None] * steps - position, axis=1)))
    along = np.append(0.0, np.cumsum(lengths))
    wanted = min(along[nearest] + share[nearest] * lengths[nearest] + distance, along[-1])
    return np.array([np.interp(wanted, along, path[:, axis]) for axis in (0, 1)])


class Shortest:
    """Lengths of shortest paths in a map, by the corners that a path may turn round.

    A path keeps 7 cm from walls along both axes. The ball, of 10 cm, cannot come as near, so no path of it is shorter.

    Args:
        drawn: the map.
    """

    def __init__(self, drawn: MazeMap) -> None:
        self.keep = RADIUS / np.sqrt(2.0)
        walls = [cell for cell in np.ndindex(drawn.shape) if drawn.walls[cell]]
        self._boxes = np.stack([drawn.centre(cell) for cell in walls])
        self._corners = self._turns(drawn)
        apart = np.full((len(self._corners), len(self._corners)), np.inf)
        for i, corner in enumerate(self._corners):
            apart[i] = self._straight(corner, self._corners)
        np.fill_diagonal(apart, 0.0)
        for k in range(len(apart)):
            apart = np.minimum(apart, apart[:, k : k + 1] + apart[k : k + 1])
        self._apart = apart

    def length(self, start: Sequence[float] | Points, end: Sequence[float] | Points) -> float:
        """Return the length in metres of the shortest path; infinite if there is none."""
        begin, goal = np.asarray(start, np.float64), np.asarray(end, np.float64)
        best = float(self._straight(begin, goal[None])[0])
        if len(self._corners) and not np.isfinite(best):
            first, last = self._straight(begin, self._corners), self._straight(goal, self._corners)
            best = float((first[:, None] + self._apart + last[None]).min())
        return best

    def _turns(self, drawn: MazeMap) -> Points:
        """Where a path may turn: outside every corner that sticks out."""
        found = []
        rows, columns = drawn.shape
        for i, j in np.ndindex(rows - 1, columns - 1):
            square = drawn.walls[i : i + 2, j : j + 2]
            if square.sum() == 1:
                (a, b) = np.argwhere(square)[0]
                corner = drawn.centre((i, j)) + np.array([0.5, -0.5])
                found.append(corner + self.keep * np.array([1.0 - 2.0 * b, 2.0 * a - 1.0]))
        return np.array(found).reshape(-1, 2)

    def _straight(self, start: Points, ends: Points) -> Points:
        """Distances (n,) from one point to others (n, 2); infinite where a wall is between."""
        if not len(ends):
            return np.zeros(0)
        step = ends - start
        half = 0.5 + self.keep - 1e-9
        with np.errstate(divide="ignore", invalid="ignore"):
            low = (self._boxes - half - start)[:, None] / step  # (boxes, n, 2)
            high = (self._boxes + half - start)[:, None] / step
        inside = (np.abs(start - self._boxes) < half)[:, None]  # where the line does not move along an axis
        still = step == 0.0
        enter = np.where(still, np.where(inside, -np.inf, np.inf), np.minimum(low, high)).max(-1)
        leave = np.where(still, np.where(inside, np.inf, -np.inf), np.maximum(low, high)).min(-1)
        blocked = (np.maximum(enter, 0.0) < np.minimum(leave, 1.0) - 1e-12).any(0)
        return np.where(blocked, np.inf, np.linalg.norm(step, axis=1))


@functools.lru_cache(maxsize=1024)
def shortest(drawn: MazeMap) -> Shortest:
    """Return the map's shortest paths, prepared once a process."""
    return Shortest(drawn)
