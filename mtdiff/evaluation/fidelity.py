"""Are written transitions true? Their dynamics against the real simulator, their distance from recorded data, and how
much of that they cover.

The paper's appendix E measures the first two ("dynamics error", "L2 distance from dataset") after Lu et al.,
"Synthetic Experience Replay", NeurIPS 2023, from where the others come.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtdiff.environments.dynamics import Dynamics, Parts, Stepped
from mtdiff.errors import DataError, at_least
from mtdiff.evaluation.closeness import (
    Array,
    Transitions,
    bin_coverage,
    correlation_similarity,
    marginal_similarity,
    nearest,
    scale_of,
    together,
    transitions_of,
)

BINS = 20


@dataclass(frozen=True, kw_only=True)
class PartError:
    """Squared error of s' over some numbers of the state, each divided by its standard deviation in the real states
    (at least 0.01), against s' from the simulator; a mean over rows and numbers.

    Attributes:
        error: of the synthetic s'.
        copy_error: of s taken for s', in the same rows. Synthetic states that cannot quite be raise it too, so compare
            with the next one.
        copy_error_real: of s taken for s' in recorded transitions; None if no real state could be restored.
        ratio: error / copy_error; None where copying is exact.
        floor: the same ratio for recorded transitions. It is not 0, because a state does not tell everything.
    """

    error: float
    copy_error: float
    copy_error_real: float | None
    ratio: float | None
    floor: float | None


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What `fidelity` measured. Whatever needs the simulator is None without it.

    Attributes:
        rows: synthetic transitions that were looked at.
        dynamics: over all numbers of the state, parts that the simulator calls blurred excepted.
        parts: the same for each part of the state.
        restored: share of the synthetic states that the simulator could be set to; others are in no error.
        restored_real: likewise of the real states.
        reward_error: mean absolute difference from the simulator's reward, over the real rewards' standard deviation.
        reward_floor: the same for recorded transitions.
        repetition: mean absolute difference, in physical units, between the part "previous" of s' and what it should
            repeat of s; None if no such part is known.
        repetition_real: the same for recorded transitions.
        distance: mean L2 distance from a synthetic (s, a, r, s') to the nearest real one; every number divided by its
            standard deviation in the real data (at least 0.01). The paper does not say in which space it measures.
        distance_real: the same from held-out real transitions, a random tenth and at most as many as `rows`, to the
            rest. Steps next to each other in an episode are close, so this is a low bar. None below 10 transitions.
        bin_coverage: share of the real data's 20 quantile bins that are hit, a mean over numbers; see `closeness`.
        marginal: 1 - Kolmogorov and Smirnov's statistic, a mean over numbers.
        pairwise: 1 - |difference of correlations| / 2, a mean over pairs of numbers.
    """

    rows: int
    dynamics: PartError | None
    parts: dict[str, PartError]
    restored: float | None
    restored_real: float | None
    reward_error: float | None
    reward_floor: float | None
    repetition: float | None
    repetition_real: float | None
    distance: float
    distance_real: float | None
    bin_coverage: float
    marginal: float
    pairwise: float

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as nested dictionaries, for JSON."""
        return dataclasses.asdict(self)


def fidelity(
    synthetic: Transitions,
    real: Transitions,
    *,
    dynamics: Dynamics | None = None,
    seed: int = 0,
    samples: int = 2000,
) -> Fidelity:
    """Measure how true synthetic transitions of one task are. Compare augmentations at the same `samples`.

    Args:
        synthetic: state (N, O), action (N, A), reward (N,), next_state (N, O), in physical units: what
            `TrajectoryDataset.transitions()` returns. Other entries are not looked at.
        real: recorded transitions of the same task, likewise.
        dynamics: the task's real dynamics, from `mtdiff.environments.dynamics.dynamics_of(suite, task)`.
        seed: of the choice of rows.
        samples: at most so many synthetic rows are looked at, and as many real ones beside them; distances are
            measured to all real ones. The simulator takes 2 to 10 ms a row.

    Raises:
        DataError: an array is missing, empty, of another width than the real data's, or not finite.
        ValueError: fewer than 2 samples.
    """
    at_least(2, samples=samples)
    written = transitions_of(synthetic, name="synthetic")
    recorded = transitions_of(real, name="real")
    for field in ("state", "action"):
        widths = [arrays[field].shape[1] for arrays in (written, recorded)]
        if widths[0] != widths[1]:
            raise DataError(f"synthetic: {field}: should be {widths[1]} numbers, as in the real data, got {widths[0]}.")
    loc, scale = scale_of(together(recorded))
    everything = (together(recorded) - loc) / scale
    state_scale = scale_of(recorded["state"])[1]
    written, beside = (_some(arrays, seed=seed, samples=samples) for arrays in (written, recorded))
    rows, reference = ((together(arrays) - loc) / scale for arrays in (written, beside))
    truth: dict[str, Any] = dict.fromkeys(
        ("dynamics", "restored", "restored_real", "reward_error", "reward_floor", "repetition", "repetition_real")
    )
    parts: dict[str, PartError] = {}
    if dynamics is not None:
        spread = max(float(recorded["reward"].std()), 1e-9)
        truth, parts = _against(dynamics, written, beside, state_scale, spread)
    return Fidelity(
        rows=len(rows),
        parts=parts,
        **truth,
        distance=float(nearest(rows, everything).mean()),
        distance_real=_held_out(everything, seed=seed, samples=len(rows)),
        bin_coverage=bin_coverage(rows, reference, bins=BINS),
        marginal=marginal_similarity(rows, reference),
        pairwise=correlation_similarity(rows, reference),
    )


def _some(arrays: dict[str, Array], *, seed: int, samples: int) -> dict[str, Array]:
    """At most `samples` rows; the same ones of arrays that are as long."""
    rows = len(arrays["state"])
    if rows <= samples:
        return arrays
    chosen = np.sort(np.random.default_rng(seed).choice(rows, samples, replace=False))
    return {field: array[chosen] for field, array in arrays.items()}


def _held_out(rows: Array, *, seed: int, samples: int) -> float | None:
    if len(rows) < 10:
        return None
    order = np.random.default_rng(seed).permutation(len(rows))
    count = min(samples, len(rows) // 10)
    return float(nearest(rows[order[:count]], rows[order[count:]]).mean())


def _against(
    dynamics: Dynamics, written: dict[str, Array], beside: dict[str, Array], scale: Array, spread: float
) -> tuple[dict[str, Any], dict[str, PartError]]:
    """Everything that is measured with the simulator, of synthetic and of real rows."""
    answers = [dynamics.step(arrays["state"], arrays["action"]) for arrays in (written, beside)]
    errors, floors = (_errors(arrays, answer, scale) for arrays, answer in zip((written, beside), answers, strict=True))
    blurred = {number for part in dynamics.blurred for number in dynamics.parts[part]}
    total = [number for number in range(len(scale)) if number not in blurred]
    parts = {name: _part(errors, floors, list(numbers)) for name, numbers in dynamics.parts.items()}
    rewards = [
        _mean(np.abs(arrays["reward"] - answer.rewards)[answer.restored], 1.0 / spread)
        for arrays, answer in zip((written, beside), answers, strict=True)
    ]
    repetition, repetition_real = (_repetition(dynamics.parts, arrays) for arrays in (written, beside))
    return {
        "dynamics": _part(errors, floors, total),
        "restored": float(answers[0].restored.mean()),
        "restored_real": float(answers[1].restored.mean()),
        "reward_error": rewards[0],
        "reward_floor": rewards[1],
        "repetition": repetition,
        "repetition_real": repetition_real,
    }, {name: part for name, part in parts.items() if part is not None}


def _errors(arrays: dict[str, Array], answer: Stepped, scale: Array) -> tuple[Array, Array]:
    """Squared errors (N, O) of s' and of s in its place, in the rows that could be restored."""
    use = answer.restored
    return tuple(((arrays[field] - answer.next_states)[use] / scale) ** 2 for field in ("next_state", "state"))  # type: ignore[return-value]


def _part(errors: tuple[Array, Array], floors: tuple[Array, Array], numbers: list[int]) -> PartError | None:
    if not len(errors[0]) or not numbers:
        return None
    error, copied = (float(squares[:, numbers].mean()) for squares in errors)
    floor, copied_real = (float(squares[:, numbers].mean()) if len(squares) else None for squares in floors)
    return PartError(
        error=error,
        copy_error=copied,
        copy_error_real=copied_real,
        ratio=_ratio(error, copied),
        floor=_ratio(floor, copied_real),
    )


def _ratio(error: float | None, copied: float | None) -> float | None:
    return error / copied if error is not None and copied else None


def _mean(values: Array, factor: float) -> float | None:
    """The mean times a factor; None if there is nothing, or nobody knows."""
    return float(values.mean() * factor) if len(values) and np.isfinite(values).all() else None


def _repetition(parts: Parts, arrays: dict[str, Array]) -> float | None:
    if "previous" not in parts:
        return None
    numbers = list(parts["previous"])
    return float(np.abs(arrays["next_state"][:, numbers] - arrays["state"][:, : len(numbers)]).mean())
