"""What lies around: the cells of a map about the present place, with the shown path drawn onto them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mtdiff.activations import Activation
from mtdiff.conditioning.encoder import Encoder, Lifetime, mlp
from mtdiff.errors import at_least
from mtdiff.registry import CONDITIONING


@CONDITIONING.register("surroundings", runtime=("state_dim", "map_shape", "state_loc", "state_scale", "width"))
class Surroundings(Encoder):
    """A square of cells about the present place, read at once: walls, the goal, and the shown path.

    A path and a map that are drawn on one grid can be compared cell by cell, and what is learnt about a corner in one
    map holds wherever else there is such a corner. A state begins with the place (x, y) in metres, cells are 1 m wide,
    and what lies outside the map is wall.

    Args:
        path: whether a demonstration is drawn: in the cells that it visits, the share of it that is over when it
            leaves them for the last time, 1 in its last cell.
        walls: whether walls are drawn.
        goal: whether the map's own goal is drawn; a path that is shown ends there anyway.
        reach: cells that are seen to each side; null for as many as show all of the map from anywhere in it.
        length: J, steps of the demonstration that are drawn.
        spacing: "contiguous" steps from a random place of the demonstration, or "even" spacing over all of it.
        hidden: widths of the hidden layers of the network that reads the cells.
        activation: of the hidden layers; "mish" is the paper's, "gelu" and "silu" are far cheaper on a CPU.
        dropout: probability of withholding it in training, which makes guidance on it possible.
        learnt_null: what stands in for it is learnt, from zero; otherwise it stays zero.
        state_dim: O, from the data.
        map_shape: rows and columns, from the suite.
        state_loc: what the normaliser subtracts from a state, from the data; 0 if it is not known.
        state_scale: what it divides by, from the data; 1 if it is not known.
        width: C, from the backbone.
    """

    lifetime: Lifetime = "plan"

    place: Tensor

    def __init__(
        self,
        *,
        path: bool = True,
        walls: bool = True,
        goal: bool = False,
        reach: int | None = None,
        length: int = 50,
        spacing: Literal["contiguous", "even"] = "even",
        hidden: tuple[int, ...] = (512,),
        activation: Activation = "mish",
        dropout: float = 0.0,
        learnt_null: bool = True,
        state_dim: int,
        map_shape: Sequence[int] | None = None,
        state_loc: Sequence[float] | None = None,
        state_scale: Sequence[float] | None = None,
        width: int,
    ):
        super().__init__(dropout=dropout, width=width, learnt_null=learnt_null)
        if map_shape is None:
            raise ValueError("needs a suite whose tasks have maps, all of one size")
        if not (path or walls or goal):
            raise ValueError("path, walls, goal: at least one must be true, got false for all")
        if state_dim < 2:
            raise ValueError(f"needs states that begin with a place (x, y), got {state_dim} number")
        at_least(1, length=length, **({} if reach is None else {"reach": reach}))
        rows, columns = (int(size) for size in map_shape)
        self.map_shape, self.path, self.walls, self.goal = (rows, columns), path, walls, goal
        self.reach = max(rows - 3, columns - 3, 1) if reach is None else reach
        self.length, self.spacing = (length, spacing) if path else (1, spacing)
        self.reads = (*["prompt_states"] * path, *["map"] * (walls or goal), "present")
        scales = [list(values or [fill] * 2)[:2] for values, fill in ((state_loc, 0.0), (state_scale, 1.0))]
        self.register_buffer("place", torch.tensor(scales), persistent=False)
        channels = 2 * path + walls + goal
        self.embed = mlp([channels * (2 * self.reach + 1) ** 2 + 2, *hidden, width], activation)

    def window(self) -> dict[str, Any]:
        if not self.path:
            return {"present": True}
        return {"prompt": self.length, "prompt_spacing": self.spacing, "prompt_normalize": True, "present": True}

    def encode(self, fields: Mapping[str, Tensor]) -> Tensor:
        return self.embed(self.draw(fields))[:, None]  # (B, 1, C)

    def draw(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Return what the network reads: the channels' cells, row by row, and where in its cell the place lies."""
        here = self._cells(fields["present"][:, None])[:, 0]  # (B, 2)
        inside = here - here.floor()
        rows, columns = self.map_shape
        cell = torch.stack(
            [here[:, 0].floor().clamp(0, rows - 1), here[:, 1].floor().clamp(0, columns - 1)], dim=1
        ).long()
        drawn = []
        if self.path:
            drawn += self._path(fields["prompt_states"], cell)
        if self.walls or self.goal:
            around = self._around(fields["map"], cell)
            drawn += [around > 0] * self.walls + [around < 0] * self.goal
        return torch.cat([*(channel.to(inside.dtype) for channel in drawn), inside - 0.5], dim=1)

    def _cells(self, states: Tensor) -> Tensor:
        """Rows and columns (B, J, 2) of the places of states, not rounded."""
        loc, scale = self.place.to(states.dtype)
        x, y = (states[..., :2] * scale + loc).unbind(-1)
        rows, columns = self.map_shape
        return torch.stack([rows / 2 - y, x + columns / 2], dim=-1)

    def _path(self, states: Tensor, cell: Tensor) -> list[Tensor]:
        """Which cells around a path visits, and the share of it that is over when it leaves them for good."""
        if states.shape[1] != self.length:
            raise ValueError(f"prompt: must have {self.length} steps, got {states.shape[1]}")
        side = 2 * self.reach + 1
        away = self._cells(states).floor().long() - cell[:, None] + self.reach  # (B, J, 2)
        seen = ((away >= 0) & (away < side)).all(-1)
        where = torch.where(
            seen, away[..., 0] * side + away[..., 1], side * side
        )  # what is too far goes behind the last
        over = torch.arange(1, self.length + 1, device=states.device, dtype=states.dtype) / self.length
        share = states.new_zeros(len(states), side * side + 1)
        share.scatter_reduce_(1, where, over.expand(len(states), -1), "amax")
        return [share[:, :-1] > 0, share[:, :-1]]

    def _around(self, grid: Tensor, cell: Tensor) -> Tensor:
        """The cells around (B, side * side) of maps (B, R, C)."""
        if grid.shape[1:] != self.map_shape:
            raise ValueError(f"map: must have shape {self.map_shape}, got {tuple(grid.shape[1:])}")
        wide = torch.nn.functional.pad(grid, (self.reach,) * 4, value=1.0)
        ahead = torch.arange(2 * self.reach + 1, device=grid.device)
        places = (cell[:, :1] + ahead)[:, :, None] * wide.shape[2] + (cell[:, 1:] + ahead)[:, None]
        return wide.flatten(1).gather(1, places.flatten(1))
