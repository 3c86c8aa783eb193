"""x is a sequence of states, actions and rewards: MTDiff-S's choice (He et al. 2023, eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from mtdiff.registry import REPRESENTATIONS
from mtdiff.representations.representation import Representation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtdiff.data.normalizer import Normalizer
    from mtdiff.data.trajectories import TrajectoryDataset

_LEAST_CHANGE = 1e-5  # in model space; what changes less is constant but for rounding
_STILL = 0.05  # of a change's spread


class Scale(NamedTuple):
    """Units that states are diffused in: a mean and a spread in model space, each (..., O)."""

    loc: Tensor
    spread: Tensor


@REPRESENTATIONS.register("transitions", runtime=("state_dim", "action_dim", "num_tasks"))
class TransitionsRepresentation(Representation):
    """x = (s_t, a_t, r_t, ..., s_{t+H-1}, a_{t+H-1}, r_{t+H-1}), bounded by the extremes of the data.

    In some environments a state repeats numbers of the one before: Meta-World's holds the previous frame and the
    goal. Which ones is found in the data, and sampled states repeat them exactly.

    What a step changes is small beside what states differ by, so a sampled state that is off by a hundredth of the
    data's spread hides the whole step. "difference" gives the change channels of its own, in units of its own spread:
    a sample's first state is taken as it is, and each later one is the one before and the change, where changes of less
    than a twentieth of their spread are none.

    Tasks differ by decimetres where millimetres matter within one: whether an object lies on the table or in it. With
    `scale: task` states are diffused in units of their own task, its mean and standard deviation; of a task that was
    not trained, those of its prompts.

    Args:
        horizon: H, steps; at least 1, or 2 where "none" leaves a step without its next state.
        next_states: what an entry says of the state after its own: "difference", s_{t+1} - s_t; "absolute", s_{t+1}
            itself (the released code), where a state that is written down twice becomes the mean of both; or "none"
            (the paper), and then a sample is H - 1 transitions instead of H.
        scale: units of states: "data", those of all tasks together, or "task", those of each task.
        smallest_std: with "task", least unit of a number, physical, above 0.
        state_weight: loss weight of the states' channels, next states among them, at least 0.
        action_weight: likewise, of the actions'.
        reward_weight: likewise, of the rewards'.
        state_dim: O, from the data.
        action_dim: A, from the data.
        num_tasks: K, from the data.

    Attributes:
        repeats: (O,), for every number of a state the number of the state before that it repeats, or -1.
        difference_scale: (O,), spread of s_{t+1} - s_t in units of states; 1 for numbers that never change.
        task_loc: (K, O), means within each task in model space; only with `scale: task`.
        task_spread: (K, O), standard deviations likewise.
    """

    pipeline: ClassVar[Literal["planner", "synthesizer"]] = "synthesizer"
    repeats: Tensor
    difference_scale: Tensor
    task_loc: Tensor
    task_spread: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        horizon: int = 32,
        next_states: Literal["none", "absolute", "difference"] = "difference",
        scale: Literal["data", "task"] = "data",
        smallest_std: float = 0.01,
        state_weight: float = 1.0,
        action_weight: float = 1.0,
        reward_weight: float = 1.0,
        state_dim: int,
        action_dim: int,
        num_tasks: int = 1,
    ):
        super().__init__()
        least = 2 if next_states == "none" else 1
        if horizon < least:
            raise ValueError(f"horizon: must be at least {least}, got {horizon}")
        weights = {"state": state_weight, "action": action_weight, "reward": reward_weight}
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"{name}_weight: must be a finite number of at least 0, got {weight}")
        if not any(weights.values()):
            raise ValueError("state_weight: must be above 0 if action_weight and reward_weight are 0, got 0.0")
        if not 0 < smallest_std < float("inf"):
            raise ValueError(f"smallest_std: must be a finite number above 0, got {smallest_std}")
        self.horizon, self.channels = horizon, sum(self.pieces.values())
        self._set_bounds(None)
        self.register_buffer("repeats", torch.full((state_dim,), -1))
        self.register_buffer("difference_scale", torch.ones(state_dim))
        if scale == "task":
            self.register_buffer("task_loc", torch.zeros(num_tasks, state_dim))
            self.register_buffer("task_spread", torch.ones(num_tasks, state_dim))

    @property
    def pieces(self) -> dict[str, int]:
        state_dim, action_dim = self.config.state_dim, self.config.action_dim
        pieces = {"states": state_dim, "actions": action_dim, "rewards": 1}
        of = {"none": {}, "absolute": {"next_states": state_dim}, "difference": {"differences": state_dim}}
        return {**pieces, **of[self.config.next_states]}

    def window(self) -> dict[str, Any]:
        return {"transitions": True}

    def limit(self, normalizer: Normalizer, dataset: TrajectoryDataset) -> None:
        acting = np.ones(len(dataset.states), bool)
        acting[dataset.offsets[1:] - 1] = False  # an episode's last state has no action
        states, rewards = torch.from_numpy(dataset.states), torch.from_numpy(dataset.rewards[acting])[:, None]
        units, rows = normalizer.states(states), np.flatnonzero(acting)
        if self.config.scale == "task":
            task = torch.from_numpy(np.repeat(dataset.task_index, dataset.lengths + 1))
            for number in range(len(dataset.tasks)):
                self.task_loc[number], self.task_spread[number] = self.scale_of(normalizer, units[task == number])
            units = (units - self.task_loc[task]) / self.task_spread[task]
        unit = torch.ones(self.config.action_dim)
        ends = {
            "states": [units.amin(0), units.amax(0)],
            "actions": [normalizer.actions(-unit), normalizer.actions(unit)],
            "rewards": [normalizer.rewards(end) for end in (rewards.amin(0), rewards.amax(0))],
        }
        ends["next_states"] = ends["states"]
        if self.config.next_states == "difference":
            low, high, spread = _changes(units, rows)
            self.difference_scale.copy_(torch.where(spread > _LEAST_CHANGE, spread, torch.ones_like(spread)))
            ends["differences"] = [low / self.difference_scale, high / self.difference_scale]
        self.bounds.copy_(torch.cat([torch.stack(ends[name], dim=-1) for name in self.pieces]))
        self.repeats.copy_(torch.from_numpy(repeated(dataset.states, rows)))

    def scale_of(self, normalizer: Normalizer, states: Tensor) -> Scale:
        """Measure the units of a task on states (R, O) of it, in model space."""
        spread = states.std(0, correction=0)
        return Scale(states.mean(0), torch.maximum(spread, self.config.smallest_std / normalizer.state_scale))

    def encode(self, window: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        states = window["states"]  # (B, H + 1, O)
        if self.config.scale == "task":
            states = (states - self.task_loc[window["task"], None]) / self.task_spread[window["task"], None]
        changes = (states[:, 1:] - states[:, :-1]) / self.difference_scale
        fields = {**window, "states": states[:, :-1], "next_states": states[:, 1:], "differences": changes}
        x = torch.cat([fields[name] for name in self.pieces], dim=-1)
        of = {"actions": self.config.action_weight, "rewards": self.config.reward_weight}
        weights = [torch.full((width,), of.get(name, self.config.state_weight)) for name, width in self.pieces.items()]
        return x, torch.cat(weights).to(x).expand_as(x)

    def decode(self, x: Tensor, scale: Scale | None = None) -> dict[str, Tensor]:
        """Return states (B, T + 1, O), actions (B, T, A) and rewards (B, T, 1), with T = H or H - 1.

        Args:
            x: (B, H, D).
            scale: units of the states, each (B, 1, O) or what broadcasts to it; None leaves states in them.
        """
        parts = dict(zip(self.pieces, x.split(list(self.pieces.values()), dim=-1), strict=True))
        states = parts["states"]
        if self.config.next_states == "none":
            both = states
        elif self.config.next_states == "absolute":
            led = parts["next_states"]
            both = torch.cat([states[:, :1], (states[:, 1:] + led[:, :-1]) / 2, led[:, -1:]], dim=1)
        else:
            low, high = self.bounds[: states.shape[-1]].unbind(dim=-1)
            changes = parts["differences"]
            # What lies still must not drift by a network's error: in most steps most objects do.
            changes = torch.where(changes.abs() < _STILL, 0.0, changes) * self.difference_scale
            walked = states[:, :1] + changes.cumsum(dim=1)
            both = torch.cat([states[:, :1], walked.clamp(low, high)], dim=1)
        if scale is not None:
            both = both * scale.spread + scale.loc
        taken = both.shape[1] - 1
        return {"states": both, "actions": parts["actions"][:, :taken], "rewards": parts["rewards"][:, :taken]}

    def repeat(self, states: Tensor) -> Tensor:
        """Write what a state repeats of the one before into states (B, T + 1, O) in physical units; returns a copy.

        With differences, what the first state repeats of one that is not shown moves with what repeats it, so that
        its change is the one that was sampled: a velocity seen over two frames stays what it was.
        """
        states, to = states.clone(), (self.repeats >= 0).nonzero()[:, 0]
        source = self.repeats[to]
        if self.config.next_states == "difference":
            states[:, 0, to] += states[:, 0, source] - states[:, 1, to]
        for step in range(1, states.shape[1]):
            states[:, step, to] = states[:, step - 1, source]
        return states


def _changes(states: Tensor, rows: NDArray[np.intp]) -> tuple[Tensor, Tensor, Tensor]:
    """Smallest, largest and spread of s' - s over rows, per number."""
    changes = states[rows + 1] - states[rows]
    return changes.amin(0), changes.amax(0), changes.std(0, correction=0)


def repeated(states: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.int64]:
    """Find what every state repeats of the one before it, to the last bit.

    Args:
        states: (R, O) of all episodes, one after the other.
        rows: of those that have a next state.

    Returns:
        (O,): for every number the one it repeats, itself if possible, or else the first; -1 for none.
    """
    before, after = states[rows], states[rows + 1]
    width = states.shape[1]
    found = np.full(width, -1)
    for column in range(width):
        for source in (column, *range(width)):
            if np.array_equal(after[:, column], before[:, source]):
                found[column] = source
                break
    return found
