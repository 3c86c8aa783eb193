"""How much better a chunk was than others: the weight of its log-probability.

Shapes: N episodes, C chunks of the longest there can be. An episode with n plans has chunks 0 .. n - 1; beyond them its
rewards are those of being where it ended.
"""

from __future__ import annotations

import torch
from torch import Tensor


def returns_to_go(rewards: Tensor, discount: float) -> Tensor:
    """Sum of discount^j rewards[:, t + j] for every t; (N, C)."""
    count = rewards.shape[1]
    ahead = torch.arange(count)[None] - torch.arange(count)[:, None]  # (t, t + j)
    weights = torch.where(ahead >= 0, discount ** ahead.clamp(min=0).double(), 0.0)
    return (rewards.double() @ weights.T).to(rewards.dtype)


def less_mean_of_goal(values: Tensor, acting: Tensor, goal: Tensor) -> Tensor:
    """Values less their mean over the episodes of the same goal that act at the same time.

    Where an episode is the only one of its goal that still acts, all that act at that time are the measure; where it is
    alone among these too, nothing can be said and the difference is 0.

    Args:
        values: (N, C).
        acting: whether the episode made that plan, (N, C).
        goal: number of each episode's goal, (N,).
    """
    same = (goal[:, None] == goal[None]).to(values.dtype)  # (N, N)
    shown = acting.to(values.dtype)
    number, total = same @ shown, same @ (shown * values)
    everyone, whole = shown.sum(0, keepdim=True), (shown * values).sum(0, keepdim=True)
    mean = torch.where(number > 1, total / number.clamp(min=1), whole / everyone.clamp(min=1))
    return torch.where(acting, values - mean, 0.0)


def generalized(
    rewards: Tensor, values: Tensor, final: Tensor, chunks: Tensor, *, discount: float, decay: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates (Schulman et al., 2016), and the returns that a critic should learn; (N, C) each.

    Args:
        rewards: (N, C).
        values: what the critic says at every plan, (N, C); entries from an episode's end on are not read.
        final: value of where each episode ended, (N,): the critic's where it was truncated, 0 where it terminated.
        chunks: plans of each episode, (N,).
        discount: per chunk.
        decay: per chunk; 0 trusts the critic, 1 the rewards.
    """
    count = rewards.shape[1]
    place = torch.arange(count)[None]
    acting = place < chunks[:, None]
    following = torch.cat([values[:, 1:], values[:, :1]], dim=1)
    following = torch.where(place == chunks[:, None] - 1, final[:, None], following)
    surprise = torch.where(acting, rewards + discount * following - values, 0.0)
    advantage = returns_to_go(surprise, discount * decay)
    return torch.where(acting, advantage, 0.0), torch.where(acting, advantage + values, 0.0)


def standardized(values: Tensor) -> Tensor:
    """Values over their standard deviation, if they have any; their mean stays."""
    spread = values.std(correction=0)
    return values / spread if spread > 1e-8 else torch.zeros_like(values)
