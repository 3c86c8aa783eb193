"""A map from above, as pixels: for films, where neither a display nor MuJoCo's renderer is needed."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.environments.maze2d_maps import MazeMap

PAPER, STONE, WAY, BALL, AIM = (250, 249, 246), (92, 99, 107), (31, 111, 139), (18, 63, 82), (44, 122, 75)
_FINE = 4  # drawn so much larger and scaled down, so that edges are smooth


def picture(drawn: MazeMap, size: int, *, trail: NDArray[np.floating], goal: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return a picture (size, size, 3): walls, the goal with its radius, the way so far and the ball at its end.

    Args:
        drawn: the map; where it is not square, the rest is wall.
        size: width and height in pixels.
        trail: positions (n, 2) in metres, n >= 1.
        goal: its position.
    """
    from PIL import Image, ImageDraw

    image: Any = _background(drawn, size).copy()
    draw = ImageDraw.Draw(image)
    cell = _cell(drawn, size)

    def pixels(points: NDArray[np.floating]) -> list[tuple[float, float]]:
        middle = size * _FINE / 2
        return [(middle + cell * x, middle - cell * y) for x, y in np.atleast_2d(points)]

    def disc(at: NDArray[np.floating], radius: float, **colours: Any) -> None:
        ((x, y),) = pixels(at)
        draw.ellipse([x - radius * cell, y - radius * cell, x + radius * cell, y + radius * cell], **colours)

    disc(goal, 0.45, fill=(214, 232, 219))
    disc(goal, 0.12, fill=AIM)
    way = pixels(trail)
    if len(way) > 1:
        draw.line(way, fill=WAY, width=max(1, round(0.09 * cell)), joint="curve")
    disc(trail[0], 0.09, fill=PAPER, outline=WAY, width=max(1, round(0.05 * cell)))
    disc(trail[-1], 0.17, fill=BALL)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def _cell(drawn: MazeMap, size: int) -> float:
    """Fine pixels along a cell's edge."""
    return size * _FINE / max(drawn.shape)


@functools.lru_cache(maxsize=64)
def _background(drawn: MazeMap, size: int) -> Any:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (size * _FINE, size * _FINE), STONE)
    draw, cell = ImageDraw.Draw(image), _cell(drawn, size)
    for place in drawn.free:
        x, y = drawn.centre(place)
        left, top = size * _FINE / 2 + cell * (x - 0.5), size * _FINE / 2 - cell * (y + 0.5)
        draw.rectangle([left, top, left + cell, top + cell], fill=PAPER)
    return image
