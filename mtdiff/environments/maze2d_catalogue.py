"""Maps with a name: eight to train on, one held out, harder ones, and any number that is drawn at random."""

from __future__ import annotations

import functools
import re

import numpy as np

from mtdiff.environments.maze2d_maps import FREE, GOAL, WALL, Cell, MazeMap
from mtdiff.errors import RecipeError, choices

_RANDOM = re.compile(r"random-(\d+)-(\d+)-(\d+)")
_LEAST, _MOST = 5, 40  # cells along an edge of a random map

# 6 x 6 cells inside their walls, with the goal in the corner, as in MTDiff's experiments; the maps are our own.
_TRAINING = """
######## ######## ######## ######## ######## ######## ######## ########
#......# #..#...# #......# #......# #..#...# #.#.#..# #...##.# #......#
#.####.# #......# #.###### #.#.#.## #.##.#.# #.#.#.## #.#..#.# #.##.#.#
#.####.# #..#...# #......# #......# #....#.# #......# #.##...# #.#..#.#
#.####.# ##.###.# ######.# ##.#.#.# #.##.#.# #.#.#.## #..##.## #.#.##.#
#.####.# #..#...# #......# #......# #.#....# #.#.#..# ##..#..# #...#..#
#.####G# #.....G# #.####G# #.#.#.G# #...##G# #.#.#.G# #....#G# #.#...G#
######## ######## ######## ######## ######## ######## ######## ########
"""
_HELD_OUT = """
########
#...#..#
#.#...##
#.###..#
#...##.#
#.#....#
#.##.#G#
########
"""
_SPIRAL = """
########
#......#
######.#
#....#.#
#.#G.#.#
#.####.#
#......#
########
"""
_SNAKE = """
########
#......#
######.#
#......#
#.######
#......#
######G#
########
"""
_LARGE = """
############
#....#.....#
#.##.#.###.#
#..#...#...#
##.#.#.#.#.#
#..#.#...#.#
#.##.###.#.#
#.......#..#
#.##.##.#.##
#..#..#...G#
############
"""


def _columns(text: str) -> list[str]:
    """The drawings that stand side by side."""
    return ["\n".join(rows) for rows in zip(*(line.split() for line in text.strip().splitlines()), strict=True)]


DRAWINGS: dict[str, str] = {
    **{f"maze-{number}": text for number, text in enumerate(_columns(_TRAINING), 1)},
    "maze-9": _HELD_OUT.strip(),
    "spiral": _SPIRAL.strip(),
    "snake": _SNAKE.strip(),
    "large": _LARGE.strip(),
}
"""The maps that have a name."""

SETS: dict[str, list[str]] = {
    "maps8": [f"maze-{number}" for number in range(1, 9)],
    "held_out": ["maze-9"],
    "harder": ["spiral", "snake", "large"],
}
"""Names for several maps at once."""


def named_map(name: str) -> MazeMap:
    """Return the map that a name stands for: one of `DRAWINGS`, or `random-<size>-<seed>-<number>`.

    Raises:
        RecipeError: an unknown name, with the closest match, or a size out of range.
    """
    if name in DRAWINGS:
        return MazeMap.read(name, DRAWINGS[name])
    found = _RANDOM.fullmatch(name)
    if found:
        return random_map(*map(int, found.groups()))
    allowed = [*SETS, *DRAWINGS, "random-8-0-0"]
    raise RecipeError(f"suite.tasks: {choices('map', name, allowed)} A random map is random-<size>-<seed>-<number>.")


def random_names(count: int, size: int, seed: int) -> list[str]:
    """Return the names of the first `count` random maps of a seed."""
    return [f"random-{size}-{seed}-{number}" for number in range(count)]


@functools.lru_cache(maxsize=4096)
def random_map(size: int, seed: int, number: int) -> MazeMap:
    """Draw a connected map: walls at random, what they cut off filled up, the goal in any cell.

    Args:
        size: rows and columns, walls at the edge included, 5 to 40.
        seed: of the whole series.
        number: of the map within it.

    Raises:
        RecipeError: a size out of range.
    """
    if not _LEAST <= size <= _MOST:
        raise RecipeError(f"random_size: a random map has {_LEAST} to {_MOST} rows and columns, got {size}.")
    rng = np.random.default_rng([2, size, seed, number])
    inside = size - 2
    while True:
        signs = np.full((size, size), WALL)
        signs[1:-1, 1:-1] = np.where(rng.random((inside, inside)) < rng.uniform(0.2, 0.4), WALL, FREE)
        rough = MazeMap("", tuple("".join(row) for row in signs))
        left = set(rough.free)
        largest: dict[Cell, float] = {}
        while left:
            reached = rough.distances(min(left))
            left -= set(reached)
            largest = max(largest, reached, key=len)
        if 2 * len(largest) >= inside**2:
            break
    for cell in rough.free:
        if cell not in largest:
            signs[cell] = WALL
    cells = sorted(largest)
    signs[cells[rng.integers(len(cells))]] = GOAL
    return MazeMap(f"random-{size}-{seed}-{number}", tuple("".join(row) for row in signs))
