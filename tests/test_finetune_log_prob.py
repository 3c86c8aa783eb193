"""Probabilities of recorded chains, against torch's own distributions and chains that are stepped one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exact_denoiser import PREDICTION_TYPES
from torch import Tensor
from torch.distributions import Normal

from mtdiff.diffusion import deviations, log_prob, sample, transitions
from mtdiff.schedulers import ddim, ddpm, dpm_solver, probe

SHAPE = (3, 4, 2)  # B, H, D
GAUSSIAN = {
    "ddpm": probe(ddpm(num_train_timesteps=20), 20),
    "ddpm in 5 of 20": probe(ddpm(num_train_timesteps=20), 5),
    "ddim": probe(ddim(num_train_timesteps=20, eta=0.7), 10),
    "dpm_solver": probe(dpm_solver(num_train_timesteps=20, stochastic=True), 6),
}
BOUNDS = torch.tensor([[-0.5, 0.5], [-2.0, 2.0]])


class Net:
    """Any function of x, the call and the sample; it counts how often it is called."""

    def __init__(self, calls: int):
        generator = torch.Generator().manual_seed(7)
        self.weight = torch.randn(calls, *SHAPE, generator=generator).requires_grad_()
        self.count = 0

    def one(self, x: Tensor, i: int) -> Tensor:
        return torch.tanh(x + self.weight[i])[None]

    def every(self, x: Tensor, i: Tensor) -> Tensor:
        self.count += 1
        return torch.tanh(x + self.weight[i, torch.arange(SHAPE[0]).repeat(len(x) // SHAPE[0])])


def recorded(name: str, **options: Any) -> tuple[Any, Net, Tensor, Tensor]:
    solver = GAUSSIAN[name]
    net, noise = Net(len(solver)), torch.randn(len(solver) + 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        chain = sample(net.one, solver, noise, chain=True, **options)
    return solver, net, noise, chain


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("name", GAUSSIAN)
def test_it_is_the_density_of_the_noise_that_was_drawn(name: str, prediction_type: str, temperature: float) -> None:
    options: dict[str, Any] = {
        "prediction_type": prediction_type, "temperature": temperature, "std_floor": 0.1, "bounds": BOUNDS,
    }  # fmt: skip
    solver, net, noise, chain = recorded(name, **options)
    found = log_prob(net.every, solver, chain, **options)
    stds = torch.tensor(deviations(solver, temperature, 0.1))[:, None, None, None]
    expected = Normal(0.0, stds).log_prob(stds * noise[1:]).sum((-2, -1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-3)
    assert net.count == 1  # the network was evaluated once, for all calls and samples


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_it_agrees_with_a_loop_over_calls(name: str) -> None:
    solver, net, _, chain = recorded(name, bounds=BOUNDS, std_floor=0.2)
    stds = deviations(solver, std_floor=0.2)
    rows = []
    for i in range(len(solver)):
        x0 = net.one(chain[i], i)[0].clamp(BOUNDS[:, 0], BOUNDS[:, 1])
        mean = solver.a[i][0] * chain[i] + solver.b[i][0] * x0
        rows.append(Normal(mean, stds[i]).log_prob(chain[i + 1]).sum((-2, -1)))
    found = log_prob(net.every, solver, chain, bounds=BOUNDS, std_floor=0.2)
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-4, atol=1e-4)
    ours = torch.autograd.grad(found.sum(), net.weight)[0]
    theirs = torch.autograd.grad(torch.stack(rows).sum(), net.weight)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GAUSSIAN)
@pytest.mark.parametrize("last", [1, 2, 3])
def test_the_last_calls_are_the_last_rows_of_all(name: str, last: int) -> None:
    solver, net, _, chain = recorded(name, std_floor=0.1)
    whole = log_prob(net.every, solver, chain, std_floor=0.1)
    part = log_prob(net.every, solver, chain, std_floor=0.1, last=last)
    assert part.shape == (last, SHAPE[0])
    torch.testing.assert_close(part, whole[-last:])


def test_a_solver_of_second_order_sees_the_estimate_before() -> None:
    """Its last mean depends on two predictions, so a single call is weighed by two."""
    solver, net, _, chain = recorded("dpm_solver", std_floor=0.1)
    mean = transitions(net.every, solver, chain, std_floor=0.1, last=2).mean
    grad = torch.autograd.grad(mean[-2].sum(), net.weight)[0].flatten(1).abs().sum(1)
    assert (grad > 0).tolist() == [False] * 3 + [True, True, False]


def test_the_floor_is_in_the_noise_and_in_its_density_alike() -> None:
    """DDPM's last call draws nothing: with a floor it does, and the rest keeps its own spread where it is larger."""
    solver = GAUSSIAN["ddpm"]
    assert solver.c[-1] == 0.0
    stds = deviations(solver, 1.0, 0.1)
    assert stds[-1] == 0.1 and stds[0] == solver.c[0] > 0.1
    _, net, noise, chain = recorded("ddpm", std_floor=0.1)
    mean = transitions(net.every, solver, chain, std_floor=0.1).mean
    torch.testing.assert_close(chain[-1] - mean[-1], 0.1 * noise[-1], rtol=1e-4, atol=1e-6)


def test_without_a_floor_nothing_has_changed() -> None:
    solver, net, noise, chain = recorded("ddpm", temperature=0.5)
    with torch.no_grad():
        assert torch.equal(sample(net.one, solver, noise, temperature=0.5), chain[-1])
    assert torch.equal(chain[0], noise[0] * 0.5**0.5)


def test_a_call_without_noise_has_no_density() -> None:
    solver, net, _, chain = recorded("ddpm")
    with pytest.raises(ValueError, match="^std_floor: must be above 0, because call 20 of 20 draws no noise, got 0.0$"):
        log_prob(net.every, solver, chain)


@pytest.mark.parametrize("last", [0, 21])
def test_calls_that_there_are_not(last: int) -> None:
    solver, net, _, chain = recorded("ddpm", std_floor=0.1)
    message = f"^last: must be between 1 and the 20 sampling timesteps, got {last}$"
    with pytest.raises(ValueError, match=message):
        log_prob(net.every, solver, chain, std_floor=0.1, last=last)


def test_a_divergence_is_torchs_between_gaussians() -> None:
    solver, net, _, chain = recorded("ddpm", std_floor=0.1)
    one = transitions(net.every, solver, chain, std_floor=0.1)
    with torch.no_grad():
        net.weight += 0.3
    other = transitions(net.every, solver, chain, std_floor=0.1)
    std = one.std[:, None, None, None]
    expected = torch.distributions.kl_divergence(Normal(one.mean, std), Normal(other.mean, std)).sum((-2, -1))
    torch.testing.assert_close(one.divergence(other), expected, rtol=1e-4, atol=1e-5)
