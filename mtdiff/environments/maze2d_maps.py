"""Maps of mazes as plain text: `#` a wall, `.` a free cell, `G` the goal's cell. Read, checked, drawn."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mtdiff.errors import RecipeError

WALL, FREE, GOAL = "#", ".", "G"
Cell = tuple[int, int]  # row from the top, column from the left


@dataclass(frozen=True)
class MazeMap:
    """A closed, connected map of square cells of 1 m, with its origin in the middle, x to the right and y upwards.

    Args:
        name: the task's name.
        rows: its lines from top to bottom, all equally long.
    """

    name: str
    rows: tuple[str, ...]

    @classmethod
    def read(cls, name: str, text: str, *, goal: bool = True, place: str | None = None) -> MazeMap:
        """Read a drawing; a blank is a free cell too.

        Args:
            name: the task's name.
            text: one line per row.
            goal: whether a goal's cell must be drawn.
            place: what messages call the map; by default `suite.maps: '<name>'`.

        Raises:
            RecipeError: an unknown sign, unequal lines, no free cell, no goal or several, an open edge, or cells that
                cannot be reached; with the map drawn and the fault marked.
        """
        place = place or f"suite.maps: '{name}'"
        lines = [line.rstrip("\r\n") for line in text.strip("\n").split("\n")]
        lines = [line.rstrip(" ") for line in lines]
        rows = tuple(line.replace(" ", FREE).upper() for line in lines)
        unknown = {(i, j) for i, row in enumerate(rows) for j, sign in enumerate(row) if sign not in (WALL, FREE, GOAL)}
        if unknown:
            i, j = min(unknown)
            what = f"has an unknown sign '{lines[i][j]}' {_where(min(unknown))}"
            raise _fault(
                place, what, "Allowed: # for a wall, . or a blank for a free cell, G for the goal", rows, unknown
            )
        width = max(map(len, rows), default=0)
        short = {(i, len(row)) for i, row in enumerate(rows) if len(row) < width}
        if short:
            i, _ = min(short)
            what = f"is no rectangle: row {i + 1} has {len(rows[i])} cells and another {width}"
            raise _fault(place, what, "Every row must have as many", [row.ljust(width) for row in rows], short)
        drawn = cls(name, rows)
        drawn._check(place, goal)
        return drawn

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, walls at the edge included."""
        return len(self.rows), len(self.rows[0])

    @property
    def text(self) -> str:
        """The drawing."""
        return "\n".join(self.rows)

    @cached_property
    def walls(self) -> NDArray[np.bool_]:
        """Where walls are, (R, C)."""
        return np.array([[sign == WALL for sign in row] for row in self.rows])

    @cached_property
    def free(self) -> tuple[Cell, ...]:
        """The cells that are no walls, row by row."""
        return tuple((int(i), int(j)) for i, j in np.argwhere(~self.walls))

    @cached_property
    def goal(self) -> Cell | None:
        """The goal's cell, if one is drawn."""
        return next(((i, row.index(GOAL)) for i, row in enumerate(self.rows) if GOAL in row), None)

    def grid(self, *, goal: bool) -> NDArray[np.float32]:
        """The map as numbers (R, C): 1 a wall, 0 a free cell and, if asked for, -1 the goal's cell."""
        numbers = self.walls.astype(np.float32)
        if goal and self.goal is not None:
            numbers[self.goal] = -1.0
        return numbers

    def centre(self, cell: Cell) -> NDArray[np.float64]:
        """The middle of a cell (x, y) in metres."""
        rows, columns = self.shape
        return np.array([cell[1] + 0.5 - columns / 2, rows / 2 - cell[0] - 0.5])

    def cell(self, position: NDArray[np.floating]) -> Cell:
        """The cell that a position (x, y) lies in; inside a wall, the free cell whose middle is nearest."""
        rows, columns = self.shape
        i, j = int(np.floor(rows / 2 - position[1])), int(np.floor(position[0] + columns / 2))
        if 0 <= i < rows and 0 <= j < columns and not self.walls[i, j]:
            return i, j
        return min(self.free, key=lambda cell: float(np.square(self.centre(cell) - position[:2]).sum()))

    def neighbours(self, cell: Cell) -> list[Cell]:
        """The free cells beside a cell: right, below, left, above."""
        i, j = cell
        around = ((i, j + 1), (i + 1, j), (i, j - 1), (i - 1, j))
        rows, columns = self.shape
        return [(a, b) for a, b in around if 0 <= a < rows and 0 <= b < columns and not self.walls[a, b]]

    def distances(self, cell: Cell, costs: NDArray[np.float64] | None = None) -> dict[Cell, float]:
        """How far every cell that can be reached is from `cell`: in cells, or in the costs (R, C) of leaving them."""
        found: dict[Cell, float] = {}
        waiting = [(0.0, cell)]
        while waiting:
            away, here = heapq.heappop(waiting)
            if here not in found:
                found[here] = away
                for beside in self.neighbours(here):
                    heapq.heappush(waiting, (away + (1.0 if costs is None else costs[beside]), beside))
        return found

    def _check(self, place: str, goal: bool) -> None:
        rows, columns = self.shape
        if len(self.free) == (goal and self.goal is not None):
            raise _fault(place, "has no free cell", "An episode begins in one: draw at least one as '.'", self.rows)
        if not goal and len(self.free) < 2:
            raise _fault(place, "has one free cell", "A goal and a start need two", self.rows, self.free)
        goals = [(i, j) for i, row in enumerate(self.rows) for j, sign in enumerate(row) if sign == GOAL]
        if goal and not goals:
            raise _fault(place, "has no goal", "Draw one cell as G, or set suite.goals: random", self.rows)
        if len(goals) > 1:
            raise _fault(place, f"has {len(goals)} goals", "Leave one G", self.rows, goals)
        open_ = [(i, j) for i, j in self.free if i in (0, rows - 1) or j in (0, columns - 1)]
        if open_:
            what = f"is not closed: there is no wall {_where(open_[0])}"
            raise _fault(place, what, "All cells at the edge must be #", self.rows, open_)
        start = goals[0] if goals else self.free[0]
        reached = self.distances(start)
        if lost := [cell for cell in self.free if cell not in reached]:
            what = f"is not connected: {len(lost)} of {len(self.free)} cells cannot be reached"
            raise _fault(
                place, what, f"Open a way from {'the goal' if goals else 'the first cell'} to them", self.rows, lost
            )


def _where(cell: Cell) -> str:
    return f"in row {cell[0] + 1}, column {cell[1] + 1}"


def _fault(place: str, what: str, remedy: str, rows: Collection[str], marked: Collection[Cell] = ()) -> RecipeError:
    """A message with the map drawn below it; the cells at fault are drawn as X."""
    here = " (marked X)" if marked else ""
    return RecipeError(f"{place} {what}{here}. {remedy}.\n{drawing(rows, marked)}")


def drawing(rows: Collection[str], marked: Collection[Cell] = ()) -> str:
    """Return a map as messages show it: indented, with the cells at fault as X."""
    return "\n".join(
        "  " + "".join("X" if (i, j) in marked else sign for j, sign in enumerate(row + " ")).rstrip()
        for i, row in enumerate(rows)
    )


def drawing_around(rows: Collection[str], marked: Collection[Cell]) -> str:
    """Return a map as messages show it, with room for cells that lie outside of it."""
    up, left = max(0, -min(i for i, _ in marked)), max(0, -min(j for _, j in marked))
    down = max(0, max(i for i, _ in marked) + 1 - len(rows))
    width = max(len(next(iter(rows))), max(j for _, j in marked) + 1) + left
    lines = [" " * width] * up + [(" " * left + row).ljust(width) for row in rows] + [" " * width] * down
    return drawing(lines, {(i + up, j + left) for i, j in marked})
