"""Augmented batches: what is changed and what is not, against closed forms, and that training resumes exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtdiff.learners import IQL, RAD, S4RL, TD3BC, Learner, train_learner

KINDS = [TD3BC, IQL]


def batch(count: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {"state": (count, 5), "action": (count, 2), "reward": (count,), "next_state": (count, 5)}
    values = {name: torch.randn(shape, generator=generator) for name, shape in drawn.items()}
    values["action"].clamp_(-1, 1)
    return {**values, "terminated": torch.zeros(count)}


def learner(kind: type[Learner] = TD3BC) -> Learner:
    made = kind(state_dim=5, action_dim=2, hidden=(16, 16), seed=1)
    scales = torch.tensor([0.5, 1.0, 2.0, 4.0, 0.1])
    made.begin(torch.randn(200, 5, generator=torch.Generator().manual_seed(3)) * scales + 1, updates=10)
    return made


def test_rad_scales_a_transition_by_one_number() -> None:
    before, after = batch(2000), RAD(low=0.5, high=1.5)(learner(), batch(2000))
    z = after["state"] / before["state"]
    torch.testing.assert_close(z, z[:, :1].expand(-1, 5))
    torch.testing.assert_close(after["next_state"], before["next_state"] * z[:, :1])
    assert 0.5 <= z.min() < 0.52 and 1.48 < z.max() <= 1.5 and abs(z[:, 0].mean() - 1) < 0.02
    for name in ("action", "reward", "terminated"):
        assert torch.equal(after[name], before[name])


@pytest.mark.parametrize("kind", KINDS)
def test_s4rl_moves_states_along_the_critics_slope(kind: type[Learner]) -> None:
    made, before = learner(kind), batch(3)
    after = S4RL(step=0.01)(made, before)

    def value(standard: Tensor) -> float:
        """Q of the policy's action at one standardised state."""
        states = (standard * made.state_scale + made.state_loc)[None]
        return float(made.q(states, made.policy(states))[0].detach())

    for name in ("state", "next_state"):
        start = made.standard(before[name])
        moved = made.standard(after[name]) - start
        for row in range(3):
            for number in range(5):
                step = torch.zeros(5)
                step[number] = 5e-3
                slope = (value(start[row] + step) - value(start[row] - step)) / 1e-2
                assert float(moved[row, number]) == pytest.approx(0.01 * slope, abs=3e-5)
    assert torch.equal(after["action"], before["action"]) and not after["state"].requires_grad
    assert torch.equal(S4RL(step=0)(made, before)["state"], before["state"])


@pytest.mark.parametrize("augment", [RAD(), S4RL()])
def test_training_goes_on_as_if_it_had_never_stopped(augment: RAD | S4RL) -> None:
    data = {name: value.numpy() for name, value in batch(300).items()}
    whole, half, rest, plain = learner(), learner(), learner(), learner()
    train_learner(whole, data, updates=10, batch=32, augment=augment)
    train_learner(half, data, updates=4, batch=32, augment=augment)
    rest.load_state_dict(half.state_dict())
    train_learner(rest, data, updates=10, batch=32, augment=augment)
    train_learner(plain, data, updates=10, batch=32)
    states, expected = batch()["state"], whole.policy(batch()["state"])
    assert torch.equal(rest.policy(states), expected)
    assert not torch.equal(plain.policy(states), expected), "the batches were not augmented"


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^low, high: need 0 < low <= high, got 1\.5, 0\.5$"):
        RAD(low=1.5, high=0.5)
    with pytest.raises(ValueError, match=r"^step: must be at least 0, got -0\.1$"):
        S4RL(step=-0.1)
