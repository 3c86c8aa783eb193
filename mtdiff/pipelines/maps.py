"""Maps that tell a planner where it is: by a task's name, as a drawing or as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mtdiff.environments.maze2d_maps import FREE, GOAL, WALL, MazeMap, drawing
from mtdiff.errors import DataError, RecipeError
from mtdiff.registry import SUITES

if TYPE_CHECKING:
    from mtdiff.pipelines.trained import TrainedPipeline

MapLike = str | np.ndarray | Tensor | Sequence["str | np.ndarray | Tensor"]


def maps_of(pipe: TrainedPipeline, tasks: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the maps (R, C) of tasks of the suite that a pipeline was trained for.

    Raises:
        DataError: the suite has no maps, or is not known.
        EnvironmentFault: it does not have a task.
    """
    spec: Mapping[str, Any] | None = pipe.config.suite
    suite = SUITES.build(spec) if spec else None
    if suite is None or not hasattr(suite, "grid"):
        raise DataError(
            "map: this planner is shown maps by its suite, and "
            + (f"'{suite.name}' has none" if suite else "no suite is saved with it; give the map itself")
        )
    return {task: suite.grid(task) for task in tasks}


def read_map(pipe: TrainedPipeline, given: Any) -> Tensor:
    """Return a map (R, C) as numbers: 1 a wall, 0 a free cell, -1 the goal's cell.

    Args:
        pipe: whose condition is shown it.
        given: a task's name, a drawing with several lines, or the numbers.

    Raises:
        DataError: a map of another size than those of training, drawn with what is too much or missing as X.
    """
    if isinstance(given, str) and "\n" not in given.strip("\n"):
        given = maps_of(pipe, [given])[given]
    elif isinstance(given, str):
        try:
            given = MazeMap.read("map", given, goal=False, place="map: the drawing").grid(goal=True)
        except RecipeError as error:
            raise DataError(str(error)) from error
    grid = torch.as_tensor(np.asarray(given), dtype=torch.float32)
    encoder: Any = pipe.conditioning.reading("map")
    rows, columns = encoder.map_shape
    if tuple(grid.shape) != (rows, columns):
        raise DataError(
            f"map: must have {rows} rows and {columns} columns, as those that this {pipe.kind} was trained on, got "
            + (f"{grid.shape[0]} and {grid.shape[1]}" if grid.ndim == 2 else f"an array of shape {tuple(grid.shape)}")
            + (f" (too much or missing: X).\n{_misfit(grid, rows, columns)}" if grid.ndim == 2 else ".")
        )
    if not torch.isin(grid, torch.tensor([-1.0, 0.0, 1.0])).all():
        raise DataError("map: numbers must be 1 for a wall, 0 for a free cell and -1 for the goal's")
    return grid


def _misfit(grid: Tensor, rows: int, columns: int) -> str:
    """The map, with cells that are too many or missing marked."""
    signs = {1: WALL, 0: FREE, -1: GOAL}
    here, there = grid.shape, (rows, columns)
    height, width = max(here[0], rows), max(here[1], columns)
    inside = [(i, j) for i in range(min(here[0], there[0])) for j in range(min(here[1], there[1]))]
    lines = [
        "".join(signs.get(int(grid[i, j]), "?") if i < here[0] and j < here[1] else " " for j in range(width))
        for i in range(height)
    ]
    every = {(i, j) for i in range(height) for j in range(width)}
    return drawing(lines, every - set(inside))
