"""The map that a task is about, as numbers: what the released code of MTDiff shows on Maze2D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mtdiff.activations import Activation
from mtdiff.conditioning.encoder import Encoder, mlp
from mtdiff.registry import CONDITIONING


@CONDITIONING.register("map", runtime=("map_shape", "width"))
class Map(Encoder):
    """The task's map, cell by cell: where walls are and, if the suite says so, where the goal is.

    The cells at the edge are walls in every map, and left out.

    Args:
        tokens: one token for the "whole" map, or one for each of its "cells", as the released code has it.
        hidden: widths of the hidden layers of the network that reads the map or a cell.
        activation: of the hidden layers; "mish" is the paper's, "gelu" and "silu" are far cheaper on a CPU.
        dropout: probability of withholding it in training, which makes guidance on it possible.
        learnt_null: what stands in for it is learnt, from zero; otherwise it stays zero, as in the released code.
        map_shape: rows and columns, from the suite.
        width: C, from the backbone.
    """

    reads = ("map",)
    lifetime = "episode"

    places: Tensor

    def __init__(
        self,
        *,
        tokens: Literal["whole", "cells"] = "whole",
        hidden: tuple[int, ...] = (512,),
        activation: Activation = "mish",
        dropout: float = 0.0,
        learnt_null: bool = True,
        map_shape: Sequence[int] | None = None,
        width: int,
    ):
        super().__init__(dropout=dropout, width=width, learnt_null=learnt_null)
        if map_shape is None:
            raise ValueError("needs a suite whose tasks have maps, all of one size")
        rows, columns = map_shape
        self.map_shape, self.tokens = (int(rows), int(columns)), tokens
        inside = (rows - 2) * (columns - 2)
        self.num_tokens = inside if tokens == "cells" else 1
        at = torch.meshgrid(torch.linspace(-1, 1, rows - 2), torch.linspace(-1, 1, columns - 2), indexing="ij")
        self.register_buffer("places", torch.stack(at, dim=-1).view(inside, 2), persistent=False)
        self.embed = mlp([4 if tokens == "cells" else 2 * inside, *hidden, width], activation)

    def encode(self, fields: Mapping[str, Tensor]) -> Tensor:
        grid = fields["map"]
        if grid.shape[1:] != self.map_shape:
            raise ValueError(f"map: must have shape {self.map_shape}, got {tuple(grid.shape[1:])}")
        inner = grid[:, 1:-1, 1:-1].flatten(1)
        kinds = torch.stack([inner > 0, inner < 0], dim=-1).to(grid.dtype)  # (B, cells, wall or goal)
        if self.tokens == "whole":
            return self.embed(kinds.flatten(1))[:, None]  # (B, 1, C)
        places = self.places.to(grid.dtype).expand(len(grid), -1, -1)
        return self.embed(torch.cat([kinds, places], dim=-1))  # (B, cells, C)
