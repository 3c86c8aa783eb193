"""The sampling loop, against closed forms of a denoiser that makes no error: see `exact_denoiser`."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from exact_denoiser import (
    BUILDERS,
    COUNT,
    DETERMINISTIC,
    MU,
    ORDERS,
    PREDICTION_TYPES,
    SOLVERS,
    STD,
    STOCHASTIC,
    Gaussian,
    begin,
    marginal,
)
from torch import Tensor

from mtdiff.diffusion import draw_noise, sample
from mtdiff.schedulers import Solver, ddim, ddpm, dpm_solver, probe, vp_betas


@pytest.mark.parametrize("name", BUILDERS)
def test_prediction_types_give_the_same_samples(name: str) -> None:
    solver = SOLVERS[name]
    _, noise = begin(solver, count=100)
    results = [sample(Gaussian(solver, kind), solver, noise, prediction_type=kind) for kind in PREDICTION_TYPES]
    for other in results[1:]:
        # Single precision; alpha is 0.08 where x0 is recovered from noise, which costs a digit.
        torch.testing.assert_close(other, results[0], rtol=0, atol=2e-5)


def end_of_path(name: str, timesteps: int, standardised: Tensor) -> Tensor:
    """Where the probability flow takes `standardised`; DEIS stops at the smallest sigma, not at 0."""
    alpha, sigma = 1.0, 0.0
    if name.lower().startswith("deis"):
        cumulative = 1 - vp_betas(timesteps)[0]
        alpha, sigma = cumulative**0.5, (1 - cumulative) ** 0.5
    mean, std = marginal(alpha, sigma)
    return mean + std * standardised


def path_error(name: str, count: int, timesteps: int = 1000) -> float:
    """Root mean square distance from the exact end of the path, in units of s."""
    solver = probe(BUILDERS[name](timesteps), count)
    standardised, noise = begin(solver, count=500)
    got = sample(Gaussian(solver), solver, noise)
    return float(((got - end_of_path(name, timesteps, standardised)) / STD).square().mean().sqrt())


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_solvers_follow_the_probability_flow(name: str) -> None:
    order = ORDERS.get(name, 1)
    errors = [path_error(name, count) for count in (10, 20, 40)]
    assert errors == sorted(errors, reverse=True)
    # Twice the timesteps leave 1/2, 1/4, 1/8 of the error for order 1, 2, 3, once higher terms do not matter.
    rates = [earlier / later for earlier, later in itertools.pairwise(errors)]
    assert min(rates) > {1: 1.8, 2: 2.4, 3: 5.0}[order]
    assert errors[-1] < {1: 0.06, 2: 0.012, 3: 0.001}[order]


def test_both_kinds_of_scheduler_are_tried() -> None:
    assert {*ORDERS} <= {*DETERMINISTIC}
    assert {"ddpm", "SDE-DPM++"} <= {*STOCHASTIC}


def test_ten_timesteps_uniform_in_lambda_are_more_accurate_than_uniform_in_k() -> None:
    errors = {}
    for spacing in ("lambda", "timestep"):
        solver = probe(dpm_solver(spacing=spacing), 10)
        standardised, noise = begin(solver, count=500)
        off = sample(Gaussian(solver), solver, noise) - (MU + STD * standardised)
        errors[spacing] = float((off / STD).square().mean().sqrt())
    assert errors["lambda"] < errors["timestep"] / 2


@pytest.mark.parametrize("name", BUILDERS)
def test_samples_have_the_mean_and_spread_of_the_data(name: str) -> None:
    solver = probe(BUILDERS[name](200), 100)
    _, noise = begin(solver, seed=1)
    got = sample(Gaussian(solver), solver, noise).flatten(0, 1)
    # Five standard errors of 4000 samples, and 3 % of s for what 100 timesteps still miss.
    assert ((got.mean(0) - MU).abs() < STD * (5 / COUNT**0.5 + 0.005)).all()
    assert ((got.std(0) / STD - 1).abs() < 5 / (2 * COUNT) ** 0.5 + 0.03).all()
    correlation = torch.corrcoef(got.T)[0, 1]
    assert abs(float(correlation)) < 5 / COUNT**0.5


def test_ancestral_sampling_has_the_spread_of_its_own_chain() -> None:
    """DDPM over all timesteps: mean and variance of the chain by hand, from the betas alone."""
    timesteps = 100
    solver = probe(ddpm(num_train_timesteps=timesteps), timesteps)
    betas = torch.tensor(vp_betas(timesteps), dtype=torch.float64)
    cumulative = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)])
    alpha, sigma = float(cumulative[-1].sqrt()), float((1 - cumulative[-1]).sqrt())
    mean, std = marginal(alpha, sigma)
    mean, variance = mean.double(), std.double() ** 2
    for k in range(timesteps, 0, -1):
        now, before, beta = cumulative[k], cumulative[k - 1], betas[k - 1]
        to_x0, to_x = before.sqrt() * beta / (1 - now), (1 - beta).sqrt() * (1 - before) / (1 - now)
        gain = now.sqrt() * STD**2 / (now * STD**2 + 1 - now)
        slope = to_x + to_x0 * gain
        mean = slope * mean + to_x0 * (MU - gain * now.sqrt() * MU)
        variance = slope**2 * variance + beta * (1 - before) / (1 - now)
    _, noise = begin(solver, seed=2)
    got = sample(Gaussian(solver), solver, noise).flatten(0, 1)
    assert ((got.mean(0) - mean).abs() < 5 * variance.sqrt() / COUNT**0.5).all()
    assert ((got.std(0) / variance.sqrt() - 1).abs() < 5 / (2 * COUNT) ** 0.5).all()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_ddim_has_the_spread_of_its_own_chain(eta: float, temperature: float) -> None:
    """Variance of the chain by hand from the betas; a temperature multiplies it, whatever share of it is new noise."""
    timesteps, count = 100, 10
    solver = probe(ddim(num_train_timesteps=timesteps, eta=eta), count)
    cumulative = torch.cumprod(1 - torch.tensor(vp_betas(timesteps), dtype=torch.float64), 0)
    levels = [*cumulative.flip(0)[:: timesteps // count], torch.ones((), dtype=torch.float64)]
    variance = marginal(float(levels[0].sqrt()), float((1 - levels[0]).sqrt()))[1].double() ** 2
    for now, after in itertools.pairwise(levels):
        fresh = eta**2 * (1 - after) / (1 - now) * (1 - now / after)
        gain = now.sqrt() * STD**2 / (now * STD**2 + 1 - now)  # slope of the exact estimate of x0
        keep = (1 - after - fresh).clamp(min=0).sqrt()
        slope = after.sqrt() * gain + keep * (1 - now.sqrt() * gain) / (1 - now).sqrt()
        variance = slope**2 * variance + fresh
    _, noise = begin(solver, seed=3)
    got = sample(Gaussian(solver), solver, noise, temperature=temperature).flatten(0, 1)
    expected = (temperature * variance).sqrt()
    assert ((got.std(0) / expected - 1).abs() < 5 / (2 * COUNT) ** 0.5).all()


@pytest.mark.parametrize("temperature", [0.25, 0.5])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_temperature_is_the_variance_of_the_samples(name: str, temperature: float) -> None:
    """In the initial noise alone or in every call: the denoiser of a Gaussian is linear, so both come to the same."""
    solver = probe(BUILDERS[name](200), 100)
    _, noise = begin(solver, seed=4)
    got = sample(Gaussian(solver), solver, noise, temperature=temperature).flatten(0, 1)
    # Five standard errors, and 3 % of s for what 100 timesteps still miss.
    assert ((got.std(0) / (temperature**0.5 * STD) - 1).abs() < 5 / (2 * COUNT) ** 0.5 + 0.03).all()


def linear(x: Tensor, i: int) -> Tensor:
    """A prediction without a constant, so that samples are a weighted sum of the noises."""
    return (0.4 + 0.05 * i) * x.flip(-1)[None]


def impulses(solver: Solver) -> Tensor:
    """Noise in one place at a time: sample b of the batch sees entry b of the noise and nothing else."""
    return torch.eye(len(solver) + 1)[:, :, None, None].expand(-1, -1, 1, 2)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("temperature", [0.25, 0.5, 2.0])
def test_temperature_scales_the_noise_of_every_call(name: str, temperature: float) -> None:
    solver = SOLVERS[name]
    noise = impulses(solver)
    plain = sample(linear, solver, noise)
    if solver.stochastic:
        assert (plain.abs().amax((1, 2)) > 0).tolist() == [True, *(value != 0 for value in solver.c)]
    cool = sample(linear, solver, noise, temperature=temperature)
    torch.testing.assert_close(cool, plain * temperature**0.5, rtol=1e-6, atol=0)
    both = sample(linear, solver, noise, temperature=temperature, initial_temperature=1.0)
    torch.testing.assert_close(both[0], plain[0], rtol=0, atol=0)
    torch.testing.assert_close(both[1:], cool[1:], rtol=0, atol=0)
    first = sample(linear, solver, noise, initial_temperature=temperature)
    torch.testing.assert_close(first[0], cool[0], rtol=0, atol=0)
    torch.testing.assert_close(first[1:], plain[1:], rtol=0, atol=0)


@pytest.mark.parametrize("name", BUILDERS)
def test_temperature_zero_gives_the_path_of_the_mean(name: str) -> None:
    solver = SOLVERS[name]
    got = sample(Gaussian(solver), solver, begin(solver, count=8)[1], temperature=0.0)
    assert torch.equal(got, got[:1].expand_as(got))
    assert float((got - sample(Gaussian(solver), solver, begin(solver, seed=5, count=8)[1])).abs().max()) > 0.01


def two_branches(solver: Solver, prediction_type: str) -> Any:
    """Conditional and unconditional Gaussian denoisers that differ, told as `prediction_type`."""

    def predict(x: Tensor, i: int) -> Tensor:
        alpha, sigma = solver.alpha[i], solver.sigma[i]
        conditional = Gaussian(solver)(x, i)[0]
        x0 = torch.stack([conditional, 0.6 * conditional - 0.1])
        noise = (x - alpha * x0) / sigma
        return {"sample": x0, "epsilon": noise, "v_prediction": alpha * noise - sigma * x0}[prediction_type]

    return predict


@pytest.mark.parametrize("name", BUILDERS)
def test_guidance_of_one_is_the_conditional_branch(name: str) -> None:
    solver = SOLVERS[name]
    _, noise = begin(solver, count=50)
    alone = sample(Gaussian(solver), solver, noise)
    both = sample(two_branches(solver, "sample"), solver, noise, guidance_scale=1.0)
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-5)
    none = sample(two_branches(solver, "sample"), solver, noise, guidance_scale=0.0)
    unconditional = sample(lambda x, i: two_branches(solver, "sample")(x, i)[1:], solver, noise)
    torch.testing.assert_close(none, unconditional, rtol=0, atol=0)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("name", BUILDERS)
def test_guidance_is_applied_to_x0_and_then_clamped(name: str, prediction_type: str) -> None:
    solver, scale = SOLVERS[name], 2.5
    bounds = torch.tensor([[-0.4, 0.5], [-0.9, 0.1]])
    _, noise = begin(solver, count=50)

    def by_hand(x: Tensor, i: int) -> Tensor:
        conditional, unconditional = two_branches(solver, "sample")(x, i)
        x0 = unconditional + scale * (conditional - unconditional)
        return torch.maximum(torch.minimum(x0, bounds[:, 1]), bounds[:, 0])[None]

    got = sample(
        two_branches(solver, prediction_type),
        solver,
        noise,
        prediction_type=prediction_type,
        guidance_scale=scale,
        bounds=bounds,
    )
    torch.testing.assert_close(got, sample(by_hand, solver, noise), rtol=0, atol=5e-5)


def test_clamping_comes_after_guidance_channel_by_channel() -> None:
    """One call of DDPM returns its estimate of x0 itself."""
    solver = probe(ddpm(), 1)
    bounds = torch.tensor([[-1.0, 1.0], [-0.2, 3.0], [-1.0, 1.0]])

    def predict(x: Tensor, i: int) -> Tensor:
        return torch.tensor([[[[4.0, -2.0, 0.5]]], [[[5.0, -2.5, 0.25]]]])

    got = sample(predict, solver, torch.zeros(2, 1, 1, 3), guidance_scale=3.0, bounds=bounds)
    # Guided: 5 + 3 (-1), -2.5 + 3 (0.5), 0.25 + 3 (0.25). Clamping first would give other numbers.
    torch.testing.assert_close(got, torch.tensor([[[1.0, -0.2, 1.0]]]))
    free = sample(predict, solver, torch.zeros(2, 1, 1, 3), guidance_scale=3.0)
    torch.testing.assert_close(free, torch.tensor([[[2.0, -1.0, 1.0]]]))


@pytest.mark.parametrize("name", BUILDERS)
def test_samples_end_inside_the_bounds(name: str) -> None:
    solver = SOLVERS[name]
    bounds = torch.tensor([[-0.1, 0.2], [0.0, 0.3]])
    got = sample(Gaussian(solver), solver, begin(solver, count=200)[1], bounds=bounds)
    # DEIS ends at its smallest sigma, 0.025, not at zero, and never returns a clamped x0 as it is.
    slack = 0.1 if name.lower().startswith("deis") else 1e-6
    assert (got >= bounds[:, 0] - slack).all()
    assert (got <= bounds[:, 1] + slack).all()


@pytest.mark.parametrize("name", BUILDERS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    solver = SOLVERS[name]
    _, noise = begin(solver, count=6)
    together = sample(two_branches(solver, "epsilon"), solver, noise, prediction_type="epsilon", guidance_scale=1.5)
    alone = sample(
        two_branches(solver, "epsilon"), solver, noise[:, 2:3], prediction_type="epsilon", guidance_scale=1.5
    )
    torch.testing.assert_close(alone, together[2:3], rtol=0, atol=1e-5)


def test_noise_depends_on_a_samples_generator_alone() -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = draw_noise((4, 3), generators(5, 6, 7), 11)
    assert together.shape == (11, 3, 4, 3)
    assert torch.equal(draw_noise((4, 3), generators(6), 11), together[:, 1:2])
    assert torch.equal(draw_noise((4, 3), generators(7, 5), 11), together[:, [2, 0]])
    assert not torch.equal(together[:, 0], together[:, 1])
    torch.manual_seed(3)
    first = draw_noise((4, 3), [None, None], 2)
    torch.manual_seed(3)
    assert torch.equal(draw_noise((4, 3), [None, None], 2), first)
    one = torch.Generator().manual_seed(1)
    assert not torch.equal(*draw_noise((4, 3), [one, one], 1)[0])


@pytest.mark.parametrize("name", BUILDERS)
def test_too_little_noise(name: str) -> None:
    solver = SOLVERS[name]
    if not solver.stochastic:
        assert sample(linear, solver, torch.randn(1, 2, 1, 2)).shape == (2, 1, 2)
        return
    with pytest.raises(ValueError, match=r"^noise: a stochastic scheduler needs 21 tensors, got 20$"):
        sample(linear, solver, torch.randn(20, 2, 1, 2))
