"""What policies that learn values have in common: critics of many tasks, targets that follow, rewards of one size.

B batch, T tasks, E estimates, O what is read of states, A action.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from mtdiff.backbones.backbone import Pools, role_list
from mtdiff.conditioning.encoder import Condition, Role
from mtdiff.errors import at_least, fraction
from mtdiff.learners.learner import positive, unit
from mtdiff.learners.networks import Perceptrons
from mtdiff.policies.policy import Policy

if TYPE_CHECKING:
    from mtdiff.data.normalizer import Normalizer
    from mtdiff.data.trajectories import TrajectoryDataset

Heads = Literal["per_task", "shared"]

Network = TypeVar("Network", bound=nn.Module)


class TaskBatch:
    """The tasks of a batch, and the grid (T, n) in which every sample lies in its task's row; n is the most of one.

    Args:
        task: numbers (B,) in 0 .. T - 1.
        num_tasks: T.
    """

    def __init__(self, task: Tensor, num_tasks: int):
        self.task, self.num_tasks = task, num_tasks

    @functools.cached_property
    def _grid(self) -> tuple[int, Tensor | None]:
        """n, and the place of every sample; None where the samples lie in the order of the grid already."""
        counts = torch.bincount(self.task, minlength=self.num_tasks)
        most, order = int(counts.max()), self.task.argsort(stable=True)
        rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[self.task[order]]
        places = torch.empty_like(order).scatter_(0, order, self.task[order] * most + rank)
        ordered = len(order) == most * self.num_tasks and torch.equal(places, order.sort().values)
        return most, None if ordered else places

    def spread(self, x: Tensor) -> Tensor:
        """Lay x (B, D) out as (T, n, D), with zeros where a task has fewer."""
        most, places = self._grid
        if places is None:
            return x.view(self.num_tasks, most, -1)
        grid = x.new_zeros(self.num_tasks * most, x.shape[1])
        return grid.index_copy(0, places, x).view(self.num_tasks, most, -1)

    def collect(self, grid: Tensor) -> Tensor:
        """Take what belongs to the samples, (E, B), out of (E, T, n)."""
        places = self._grid[1]
        return grid.flatten(1) if places is None else grid.flatten(1).index_select(1, places)

    def repeat(self, count: int) -> TaskBatch:
        """The tasks of a batch in which every sample comes `count` times, one after the other."""
        repeated = TaskBatch(self.task.repeat_interleave(count), self.num_tasks)
        if "_grid" in vars(self):
            most, places = self._grid
            if places is not None:
                each = torch.arange(count, device=places.device)
                places = (places[:, None] * count + each).flatten()
            vars(repeated)["_grid"] = most * count, places
        return repeated

    def mean(self, values: Tensor) -> Tensor:
        """Return for every sample the mean of `values` (B,) over all samples of its task."""
        total = values.new_zeros(self.num_tasks).index_add(0, self.task, values)
        count = torch.bincount(self.task, minlength=self.num_tasks).clamp(min=1)
        return (total / count)[self.task]


class Critics(nn.Module):
    """E estimates of a value, of every task by networks of its own, or of all by one that reads the task's number.

    Args:
        inputs: width of what is judged.
        hidden: widths of the hidden layers.
        num_tasks: T.
        heads: "per_task" or "shared".
        estimates: E.
    """

    def __init__(self, *, inputs: int, hidden: Sequence[int], num_tasks: int, heads: Heads, estimates: int):
        super().__init__()
        self.estimates, self.num_tasks = estimates, num_tasks if heads == "per_task" else 1
        told = 0 if heads == "per_task" else num_tasks
        self.layers = Perceptrons(members=estimates * self.num_tasks, sizes=[inputs + told, *hidden, 1])
        self.told = told

    def forward(self, x: Tensor, tasks: TaskBatch, *, frozen: bool = False) -> Tensor:
        """Return the estimates (E, B) for x (B, D); with `frozen` gradients reach x and not the weights."""
        if self.told:
            x = torch.cat([x, one_hot(tasks.task, self.told).to(x.dtype)], dim=1)
            return self.layers.each(x.expand(self.estimates, *x.shape), frozen=frozen).squeeze(-1)
        grid = tasks.spread(x)
        every = grid.expand(self.estimates, *grid.shape).flatten(0, 1)
        said = self.layers.each(every, frozen=frozen).view(self.estimates, *grid.shape[:2])
        return tasks.collect(said)


class Batch(NamedTuple):
    """A batch of transitions as the losses read them: state and next_state (B, O), action (B, A) in [-1, 1]."""

    state: Tensor
    action: Tensor
    next_state: Tensor
    tasks: TaskBatch


class ValuePolicy(Policy):
    """A policy that learns values of single actions from rewards.

    Critics know the task by its number, which training always has, and nothing else of the conditions: these belong
    to the network that acts. Every task's rewards are divided by their range, so that tasks weigh alike; nothing is
    subtracted, because where an episode may end, a shift of rewards changes what is best. Nothing is earned after an
    episode that the task itself ended. One that was only cut off goes on: its last state's value is estimated. That
    includes recordings that stop soon after success: they claim neither that nothing more is to be earned there nor
    what, and the critics extend the last steps' rewards. A critic's target is kept between what earning the least and
    the most reward of the task for ever would be worth, so that such an estimate cannot run away.
    """

    horizon = 1

    def window(self) -> dict[str, Any]:
        return {"outcome": True}

    def measure(self, normalizer: Normalizer, dataset: TrajectoryDataset) -> None:
        task = np.repeat(dataset.task_index, dataset.lengths + 1)
        acted = np.ones(len(task), bool)
        acted[dataset.offsets[1:] - 1] = False  # the row of an episode's last state has no reward
        for number in range(len(self.reward_scale)):
            rewards = dataset.rewards[acted & (task == number)].astype(np.float64)
            low, high = (float(rewards.min()), float(rewards.max())) if len(rewards) else (0.0, 0.0)
            scale = 1 / (high - low) if high > low else 1.0
            self.reward_scale[number] = scale
            limits = torch.tensor([min(low, 0.0), max(high, 0.0)], dtype=torch.float64)
            self.value_limits[number] = limits * scale / (1 - self.discount)
        self.action_loc.copy_(normalizer.action_loc)
        self.action_scale.copy_(normalizer.action_scale)

    def updated(self, updates: int) -> None:
        with torch.no_grad():
            for name in self._followed:
                targets = list(getattr(self, f"{name}_target").parameters())
                torch._foreach_lerp_(targets, list(getattr(self, name).parameters()), self.tau)

    def _remember(
        self,
        *,
        roles: Sequence[Role | Mapping[str, Any]],
        width: int,
        length: int,
        num_tasks: int,
        action_dim: int,
        discount: float,
        tau: float,
        **hidden: Sequence[int],
    ) -> None:
        """Check and keep what all such policies are told; make the buffers that `measure` fills."""
        at_least(1, length=length, width=width)
        for name, widths in hidden.items():
            if not widths or min(widths) < 1:
                got = ", ".join(map(str, widths)) or "none"
                raise ValueError(f"{name}: must be one or more widths of at least 1, got {got}")
        fraction(discount=discount)
        unit(tau=tau)
        positive(tau=tau)
        self.register_to_config(roles=[vars(role) for role in role_list(roles)])
        self.length, self.num_tasks, self.discount, self.tau = length, num_tasks, discount, tau
        self.pools = Pools(role_list(roles), width)
        self.register_buffer("reward_scale", torch.ones(num_tasks))
        self.register_buffer("value_limits", torch.tensor([-torch.inf, torch.inf]).repeat(num_tasks, 1))
        self.register_buffer("action_loc", torch.zeros(action_dim))
        self.register_buffer("action_scale", torch.ones(action_dim))
        self._followed: list[str] = []

    def _target(self, name: str, network: Network) -> Network:
        """Keep a network, and beside it one that follows it: `<name>_target`."""
        setattr(self, name, network)
        setattr(self, f"{name}_target", copy.deepcopy(network).requires_grad_(False))
        self._followed.append(name)
        return network

    def _batch(self, fields: Mapping[str, Tensor]) -> Batch:
        actions = fields["actions"][:, 0] * self.action_scale + self.action_loc
        tasks = TaskBatch(fields["task"], self.num_tasks)
        return Batch(fields["history"].flatten(1), actions, fields["next_history"].flatten(1), tasks)

    def _see(self, states: Tensor, condition: Condition) -> Tensor:
        """What the acting network reads: states (B, O) and, side by side, what it is told (B, C)."""
        told = self.pools(condition)
        if not isinstance(told, Tensor):
            told = states.new_zeros(len(states), self.config.width)
        return torch.cat([states, told], dim=1)

    def _learnt(self, fields: Mapping[str, Tensor], next_value: Tensor) -> Tensor:
        """(B,) what critics learn: r + discount (1 - terminated) next_value, within the task's limits."""
        task = fields["task"]
        reward = fields["reward"][:, 0] * self.reward_scale[task]
        target = reward + self.discount * (1 - fields["terminated"][:, 0]) * next_value
        low, high = self.value_limits[task].unbind(1)
        return torch.minimum(torch.maximum(target, low), high)

    def _model_actions(self, actions: Tensor) -> Tensor:
        """Actions (B, A) in [-1, 1] as an answer (B, 1, A) in model space."""
        return ((actions - self.action_loc) / self.action_scale)[:, None]
