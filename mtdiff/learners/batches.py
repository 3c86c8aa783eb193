"""Batches of transitions, drawn by index from one table on the device.

N transitions, B batch, O state, A action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtdiff.errors import DataError, at_least

__all__ = ["Batches", "Transitions"]

Transitions = Mapping[str, NDArray[Any]]
"""state (N, O), action (N, A), reward (N,), next_state (N, O), terminated (N,): `TrajectoryDataset.transitions()`."""

_FIELDS = ("state", "action", "next_state", "reward", "terminated")
_AHEAD = 128  # batches whose indices are drawn at once


class Batches:
    """Transitions of one or more parts in one table, a row each, and batches of them.

    A row is drawn from a part with the probability of its share, within the part uniformly, with replacement. Which
    rows make a batch follows from the seed and its number alone, so that training can go on at any number.

    Args:
        parts: transitions and their share each; shares need not add up to 1.
        batch: B, at least 1.
        seed: of the draws, at least 0.
        device: where the table lives; the draws differ between kinds of device.

    Raises:
        DataError: fields that are missing, empty, of different lengths or widths, or not finite; shares that are
            negative or all 0.
        ValueError: `batch` or `seed` is too small.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Transitions, float]],
        *,
        batch: int = 256,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        at_least(1, batch=batch)
        at_least(0, seed=seed)
        self.batch, self.seed = batch, seed
        shares = np.array([share for _, share in parts], float)
        if not len(parts) or not np.isfinite(shares).all() or shares.min() < 0 or shares.sum() == 0:
            got = ", ".join(f"{share:g}" for share in shares) or "none"
            raise DataError(f"transitions: shares should be at least 0 and not all 0, got {got}.")
        self.sizes = _widths(parts[0][0], 0)
        rows = [_table(transitions, i, self.sizes) for i, (transitions, _) in enumerate(parts)]
        self.table = torch.cat(rows).to(device)
        counts = torch.tensor([len(part) for part in rows])
        self._counts, self._first = counts.to(device), (counts.cumsum(0) - counts).to(device)
        self._shares = torch.from_numpy(shares / shares.sum()).to(device)
        self._generator = torch.Generator(device)
        self._ahead: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.table)

    def draw(self, number: int) -> dict[str, Tensor]:
        """Return batch `number`, at least 0: the fields of `Transitions`, float32, views of one gathered table."""
        rows = self.table.index_select(0, self.rows(number))
        columns = rows.split(list(self.sizes.values()), dim=1)
        return {
            name: part.squeeze(1) if name in ("reward", "terminated") else part
            for name, part in zip(self.sizes, columns, strict=True)
        }

    def rows(self, number: int) -> Tensor:
        """Return the rows (B,) of the table that make batch `number`; parts follow each other in it."""
        block, at = divmod(number, _AHEAD)
        if self._ahead is None or self._ahead[0] != block:
            self._ahead = block, self._draw_rows(block)
        return self._ahead[1][at]

    def _draw_rows(self, block: int) -> Tensor:
        key = np.random.SeedSequence([self.seed, block]).generate_state(1, np.uint64)[0]
        generator = self._generator.manual_seed(int(key >> np.uint64(1)))
        shape, device = (_AHEAD, self.batch), self.table.device
        # Of 2^62 equally likely numbers the remainder is as good as uniform for parts of any length.
        numbers = torch.randint(2**62, shape, generator=generator, device=device)
        if len(self._counts) == 1:
            return numbers % self._counts
        chosen = torch.multinomial(self._shares, self.batch * _AHEAD, replacement=True, generator=generator)
        chosen = chosen.view(shape)
        return self._first[chosen] + numbers % self._counts[chosen]


def _widths(transitions: Transitions, part: int) -> dict[str, int]:
    for name in _FIELDS:
        if name not in transitions:
            raise DataError(f"transitions {part}: should have {', '.join(_FIELDS)}; {name} is missing.")
    state, action = (np.shape(transitions[name]) for name in ("state", "action"))
    if len(state) != 2 or len(action) != 2:
        raise DataError(f"transitions {part}: state and action should be (N, O) and (N, A), got {state}, {action}.")
    return dict(zip(_FIELDS, (state[1], action[1], state[1], 1, 1), strict=True))


def _table(transitions: Transitions, part: int, sizes: Mapping[str, int]) -> Tensor:
    """(N, 2 O + A + 2) one part's rows."""
    if (own := _widths(transitions, part)) != sizes:
        before, got = ((widths["state"], widths["action"]) for widths in (sizes, own))
        raise DataError(f"transitions {part}: state and action sizes should be those before, {before}, got {got}.")
    count = len(transitions["state"])
    if count == 0:
        raise DataError(f"transitions {part}: should have at least one, got none.")
    columns = []
    for name, width in sizes.items():
        values = np.asarray(transitions[name], np.float32)
        shape = (count,) if name in ("reward", "terminated") else (count, width)
        if values.shape != shape:
            raise DataError(f"transitions {part}: {name} should have shape {shape}, got {values.shape}.")
        if not np.isfinite(values).all():
            raise DataError(f"transitions {part}: {name} has numbers that are not finite.")
        columns.append(torch.from_numpy(values.reshape(count, width)))
    return torch.cat(columns, dim=1)
