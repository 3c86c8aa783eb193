"""Train a learner on transitions that are all in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from mtdiff.errors import DataError, TrainingFault, at_least
from mtdiff.learners.batches import Batches, Transitions
from mtdiff.learners.learner import Learner

__all__ = ["return_scale", "train_learner"]

Batch = Mapping[str, Tensor]


def train_learner(
    learner: Learner,
    transitions: Transitions | Sequence[tuple[Transitions, float]],
    *,
    updates: int,
    batch: int = 256,
    seed: int = 0,
    augment: Callable[[Learner, Batch], Batch] | None = None,
    log_every: int = 1000,
    on_log: Callable[[dict[str, Any]], None] | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Make updates until the learner has made `updates` in all.

    A learner that has made some, in this process or before its state was loaded, goes on as if it had never stopped,
    given the same transitions, `batch` and `seed`.

    Args:
        learner: trained in place. One that has not begun measures the states of the first transitions.
        transitions: `TrajectoryDataset.transitions()`, or several of them with the share of a batch that each makes:
            `[(real, 1), (synthetic, 2)]` draws one real transition in three.
        updates: in all, at least 1.
        batch: transitions of an update.
        seed: of the batches.
        augment: changes every batch before the learner sees it, for example by noise on its states. What it draws from
            `learner.generator` is the same when training goes on.
        log_every: updates between two looks at the metrics; a GPU is waited for nowhere else.
        on_log: called with each row; it may evaluate `learner.agent()`.
        progress: show a bar on stderr.

    Returns:
        Rows of update and metrics, one every `log_every` updates and one at the end; each of that one
        update.

    Raises:
        DataError: transitions that do not fit the learner, and as for `Batches`.
        TrainingFault: a metric is not finite.
    """
    at_least(1, updates=updates, log_every=log_every)
    parts = [(transitions, 1.0)] if isinstance(transitions, Mapping) else list(transitions)
    batches = Batches(parts, batch=batch, seed=seed, device=learner.device)
    widths = learner.state_dim, learner.action_dim
    got = batches.sizes["state"], batches.sizes["action"]
    if got != widths:
        raise DataError(f"transitions: state and action sizes should be the learner's, {widths}, got {got}.")
    if not learner.planned:
        learner.begin(parts[0][0]["state"], updates=updates)
    rows: list[dict[str, Any]] = []
    with tqdm(total=updates, initial=learner.updates, desc="learn", unit="update", disable=not progress) as bar:
        while learner.updates < updates:
            drawn = batches.draw(learner.updates)
            metrics = learner.update(augment(learner, drawn) if augment else drawn)
            bar.update()
            if learner.updates % log_every == 0 or learner.updates == updates:
                rows.append({"update": learner.updates, **_finite(metrics, learner.updates)})
                bar.set_postfix({key: f"{rows[-1][key]:.3g}" for key in metrics if key.endswith("loss")})
                if on_log:
                    on_log(rows[-1])
    return rows


def return_scale(transitions: Transitions, *, spread: float = 1000.0) -> float:
    """Return the reward scale that makes the best and the worst return of the episodes differ by `spread`.

    What IQL's authors do for locomotion, where an episode has 1000 steps: pass it as `reward_scale`.

    Args:
        transitions: episode after episode, as `TrajectoryDataset.transitions()` has them.
        spread: above 0.

    Raises:
        DataError: all episodes have the same return.
    """
    ends = np.flatnonzero(transitions["terminated"] | transitions["truncated"])
    starts = np.concatenate([[0], ends[:-1] + 1])
    returns = np.add.reduceat(transitions["reward"][: ends[-1] + 1].astype(np.float64), starts)
    width = returns.max() - returns.min()
    if not width > 0:
        raise DataError(f"return_scale: {len(returns)} episodes all have the return {returns.min():g}.")
    return float(spread / width)


def _finite(metrics: Mapping[str, Tensor], update: int) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            what = f"{name} was not finite at update {update}, got {value}"
            raise TrainingFault(f"{what}. Lower learning_rate or reward_scale")
    return values
