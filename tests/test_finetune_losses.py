"""What fine-tuning minimises, and how chunks are weighed, against slow and plain versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mtdiff.finetuning.advantages import generalized, less_mean_of_goal, returns_to_go, standardized
from mtdiff.finetuning.losses import clipped_share, surrogate

TIMESTEPS, PLANS, CLIP = 3, 5, 0.2


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_surrogate(now: torch.Tensor, before: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """PPO's objective as its paper writes it: min(r A, clip(r) A), entry by entry, negated."""
    rows = []
    for k in range(TIMESTEPS):
        row = []
        for b in range(PLANS):
            ratio = torch.exp(now[k, b] - before[k, b])
            clipped = torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
            row.append(-torch.min(ratio * advantage[b], clipped * advantage[b]))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_it_is_ppos_objective_for_every_timestep() -> None:
    before, advantage = numbers(0, TIMESTEPS, PLANS), numbers(1, PLANS)
    now = (before + 0.4 * numbers(2, TIMESTEPS, PLANS)).requires_grad_()
    ours, theirs = surrogate(now, before, advantage, CLIP), plain_surrogate(now, before, advantage)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss.sum(), now)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)
    assert (gradients[0] == 0).any() and (gradients[0] != 0).any()  # some are clipped, not all


def test_unchanged_weights_have_the_gradient_of_the_policy_gradient() -> None:
    """At ratio 1 the surrogate is -A, and its gradient that of -A log p, whatever the clip."""
    before, advantage = numbers(0, TIMESTEPS, PLANS), numbers(1, PLANS)
    now = before.clone().requires_grad_()
    loss = surrogate(now, before, advantage, CLIP)
    torch.testing.assert_close(loss, -advantage.expand(TIMESTEPS, PLANS))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), now)[0], -advantage.expand(TIMESTEPS, PLANS))
    assert float(clipped_share(now, before, CLIP)) == 0


def test_a_better_chunk_earns_no_more_beyond_the_clip_and_a_worse_one_is_pushed_back() -> None:
    before = torch.zeros(1, 4)
    ratio, advantage = torch.tensor([1.5, 0.5, 1.5, 0.5]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    now = ratio.log()[None].requires_grad_()
    loss = surrogate(now, before, advantage, CLIP)
    torch.testing.assert_close(loss[0], torch.tensor([-1.2, -0.5, 1.5, 0.8]))
    gradient = torch.autograd.grad(loss.sum(), now)[0][0]
    torch.testing.assert_close(gradient, torch.tensor([0.0, -0.5, 1.5, 0.0]))
    assert float(clipped_share(now, before, CLIP)) == 1


def test_a_ratio_beyond_all_bounds_stays_finite() -> None:
    now = torch.tensor([[500.0, -500.0]], requires_grad=True)
    loss = surrogate(now, torch.zeros(1, 2), torch.tensor([-1.0, 1.0]), CLIP)
    assert loss.isfinite().all() and torch.autograd.grad(loss.sum(), now)[0].isfinite().all()


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_returns_to_go_are_those_of_a_loop(discount: float) -> None:
    rewards = numbers(3, 4, 7)
    expected = torch.zeros(4, 7)
    for n in range(4):
        for t in range(7):
            expected[n, t] = sum(discount ** (j - t) * float(rewards[n, j]) for j in range(t, 7))
    torch.testing.assert_close(returns_to_go(rewards, discount), expected)


def test_a_chunk_is_compared_with_those_of_its_goal_at_its_time() -> None:
    values = torch.tensor([[1.0, 10.0, 5.0], [3.0, 20.0, 0.0], [7.0, 40.0, 9.0], [5.0, 0.0, 0.0]])
    acting = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    found = less_mean_of_goal(values, acting, torch.tensor([0, 0, 1, 1]))
    expected = [
        [-1.0, -5.0, -2.0],  # at the last chunk it is the only one of its goal: all that act then are the measure
        [1.0, 5.0, 0.0],
        [1.0, 40 - 70 / 3, 2.0],
        [-1.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_who_acts_alone_is_not_judged() -> None:
    acting = torch.tensor([[True, True], [True, False]])
    found = less_mean_of_goal(torch.tensor([[1.0, 9.0], [3.0, 0.0]]), acting, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))


def test_generalised_advantages_are_those_of_a_loop() -> None:
    rewards, values, chunks = numbers(4, 3, 6), numbers(5, 3, 6), torch.tensor([6, 3, 1])
    final = torch.tensor([0.7, 0.0, -0.4])  # truncated, terminated, truncated
    discount, decay = 0.9, 0.8
    expected, targets = torch.zeros(3, 6), torch.zeros(3, 6)
    for n in range(3):
        running = 0.0
        for t in reversed(range(int(chunks[n]))):
            following = float(final[n]) if t == int(chunks[n]) - 1 else float(values[n, t + 1])
            surprise = float(rewards[n, t]) + discount * following - float(values[n, t])
            running = surprise + discount * decay * running
            expected[n, t], targets[n, t] = running, running + float(values[n, t])
    found = generalized(rewards, values, final, chunks, discount=discount, decay=decay)
    torch.testing.assert_close(found, (expected, targets))


def test_truncation_is_no_termination() -> None:
    """A critic that knows the value of earning 1 for ever finds nothing to correct where an episode is cut."""
    discount = 0.9
    worth = 1 / (1 - discount)
    rewards, values, chunks = torch.ones(2, 4), torch.full((2, 4), worth), torch.tensor([4, 2])
    cut, _ = generalized(rewards, values, torch.full((2,), worth), chunks, discount=discount, decay=0.95)
    torch.testing.assert_close(cut, torch.zeros(2, 4), atol=1e-5, rtol=0)
    ended, _ = generalized(rewards, values, torch.zeros(2), chunks, discount=discount, decay=0.0)
    assert ended[0, 3] == pytest.approx(-discount * worth) and ended[1, 1] == pytest.approx(-discount * worth)


def test_advantages_are_scaled_and_not_moved() -> None:
    found = standardized(torch.tensor([1.0, 2.0, 3.0]))
    assert float(found.std(correction=0)) == pytest.approx(1) and float(found.mean()) == pytest.approx(
        2 / math.sqrt(2 / 3)
    )
    assert standardized(torch.full((4,), 2.5)).tolist() == np.zeros(4).tolist()  # nothing differs: nothing to learn
