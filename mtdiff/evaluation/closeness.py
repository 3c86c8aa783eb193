"""How close written transitions are to recorded ones, as distributions: distances, coverage, correlations.

N and M rows, D numbers a row. Nothing here needs a simulator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from mtdiff.errors import DataError

FIELDS = ("state", "action", "reward", "next_state")
SMALLEST_STD = 0.01  # as in the normaliser: what varies less is divided by this
_STILL = 1e-6  # a number that varies less does not vary
_CHUNK = 4096

Array = NDArray[np.float64]
Transitions = Mapping[str, Any]


def transitions_of(data: Transitions, *, name: str) -> dict[str, Array]:
    """Return state (N, O), action (N, A), reward (N,) and next_state (N, O) as float64.

    Args:
        data: has at least these four, as `TrajectoryDataset.transitions()` returns them. If it has `task` too, that
            must be the same in all rows.
        name: what a message calls the data.

    Raises:
        DataError: one is missing, has another shape than the others allow, is empty, is not finite, or is of several
            tasks.
    """
    missing = [field for field in FIELDS if field not in data]
    if missing:
        raise DataError(f"{name}: misses {', '.join(missing)}; transitions have {', '.join(FIELDS)}.")
    arrays = {field: np.asarray(data[field], dtype=np.float64) for field in FIELDS}
    state, action = arrays["state"], arrays["action"]
    for field, array, dimensions in (("state", state, 2), ("action", action, 2)):
        if array.ndim != dimensions:
            raise DataError(f"{name}: {field}: should have shape (N, width), got {array.shape}.")
    rows = len(state)
    if not rows:
        raise DataError(f"{name}: there are no transitions in it.")
    shapes = {"action": (rows, action.shape[1]), "reward": (rows,), "next_state": state.shape}
    for field, shape in shapes.items():
        if arrays[field].shape != shape:
            raise DataError(f"{name}: {field}: should have shape {shape}, as its states do, got {arrays[field].shape}.")
    tasks = set(np.unique(data["task"]).tolist()) if "task" in data else set()
    if len(tasks) > 1:
        raise DataError(f"{name}: should be transitions of one task, got {len(tasks)} tasks: measure each by itself.")
    for field, array in arrays.items():
        bad = ~np.isfinite(array.reshape(rows, -1)).all(axis=1)
        if bad.any():
            raise DataError(f"{name}: {field}: should be finite numbers, got NaN or infinity in {bad.sum()} rows.")
    return arrays


def together(arrays: Mapping[str, Array]) -> Array:
    """Return rows (s, a, r, s'), (N, O + A + 1 + O)."""
    return np.concatenate([arrays[field].reshape(len(arrays["state"]), -1) for field in FIELDS], axis=1)


def scale_of(values: Array) -> tuple[Array, Array]:
    """Return each column's mean and standard deviation, the latter at least `SMALLEST_STD`."""
    return values.mean(axis=0), np.maximum(values.std(axis=0), SMALLEST_STD)


def nearest(queries: Array, points: Array) -> Array:
    """Return the Euclidean distance (N,) from each query (N, D) to the nearest of the points (M, D)."""
    best = np.full(len(queries), np.inf)
    which = np.zeros(len(queries), np.intp)
    for at in range(0, len(points), _CHUNK):
        block = points[at : at + _CHUNK]
        lengths = (block**2).sum(axis=1)
        for row in range(0, len(queries), _CHUNK):
            rows = slice(row, row + _CHUNK)
            # |x - p|^2 - |x|^2 by one product of matrices finds the nearest; its distance is then computed exactly.
            score = lengths - 2.0 * queries[rows] @ block.T
            index = score.argmin(axis=1)
            least = score[np.arange(len(index)), index]
            closer = least < best[rows]
            best[rows] = np.where(closer, least, best[rows])
            which[rows] = np.where(closer, at + index, which[rows])
    return np.linalg.norm(queries - points[which], axis=1)


def bin_coverage(synthetic: Array, real: Array, *, bins: int) -> float:
    """Return the share of the real data's bins in which there is synthetic data, a mean over varying columns.

    Each column's bins are the real data's `bins` quantiles, fewer where many real values are the same. Values below
    the least and above the greatest real one are in no bin.

    Args:
        synthetic: (N, D).
        real: (M, D).
        bins: per column.
    """
    shares = []
    for column in np.flatnonzero(real.std(axis=0) > _STILL):
        recorded, written = real[:, column], synthetic[:, column]
        edges = np.unique(np.quantile(recorded, np.linspace(0.0, 1.0, bins + 1)))
        inside = written[(written >= edges[0]) & (written <= edges[-1])]
        filled, hit = (np.histogram(values, edges)[0] > 0 for values in (recorded, inside))
        shares.append((filled & hit).sum() / filled.sum())
    return float(np.mean(shares)) if shares else 1.0


def marginal_similarity(synthetic: Array, real: Array) -> float:
    """Return 1 - sup_x |F_real(x) - F_synthetic(x)|, the complement of Kolmogorov and Smirnov's statistic, a mean over
    columns that vary in the real data; 1 is best. SynthER and the Synthetic Data Vault measure the same.

    Args:
        synthetic: (N, D).
        real: (M, D).
    """
    columns = np.flatnonzero(real.std(axis=0) > _STILL)
    scores = [1.0 - ks_2samp(real[:, i], synthetic[:, i], method="asymp").statistic for i in columns]
    return float(np.mean(scores)) if scores else 1.0


def correlation_similarity(synthetic: Array, real: Array) -> float:
    """Return 1 - |rho_real - rho_synthetic| / 2 with Pearson's correlations, a mean over pairs of columns that vary in
    the real data; 1 is best. A column that does not vary in the synthetic data is correlated with nothing.

    Args:
        synthetic: (N, D).
        real: (M, D).
    """
    columns = np.flatnonzero(real.std(axis=0) > _STILL)
    if len(columns) < 2:
        return 1.0
    pairs = np.triu_indices(len(columns), k=1)
    first, second = (_correlations(values[:, columns])[pairs] for values in (real, synthetic))
    return float(np.mean(1.0 - np.abs(first - second) / 2.0))


def _correlations(values: Array) -> Array:
    centred = values - values.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > _STILL * np.sqrt(len(values)))
    return unit.T @ unit
