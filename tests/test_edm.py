"""EDM's noise in our coordinates, against EDM as its paper writes it (Karras et al. 2022, table 1)."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, get_args

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor, nn

from mtdiff.compose import sampling_scheduler
from mtdiff.diffusion import denoising_loss, sample
from mtdiff.registry import SCHEDULERS
from mtdiff.schedulers import PredictionType, ddpm, edm, over_noise, probe

K = 1024
SIGMA_DATA = 1.0  # what SynthER takes for standardised data


class EDM:
    """A network F with EDM's preconditioning and loss. x and sigma are EDM's: x = y + sigma n."""

    def __init__(self, network: Callable[[Tensor], Tensor]):
        self.network = network

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        total = sigma**2 + SIGMA_DATA**2
        c_skip = SIGMA_DATA**2 / total
        c_out = sigma * SIGMA_DATA / total.sqrt()
        c_in = 1 / total.sqrt()
        return c_skip * x + c_out * self.network(c_in * x)

    def loss(self, y: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
        """lambda(sigma) |D(y + sigma n; sigma) - y|^2, the mean over the entries of each sample."""
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        return (weight * (self.denoise(y + sigma * n, sigma) - y) ** 2).mean(dim=(1, 2))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 3)).double()


def quantiles(timesteps: int = K) -> Tensor:
    """Of the log-normal that EDM draws sigma from, in double precision."""
    levels = NormalDist(-1.2, 1.2)
    return torch.tensor([math.exp(levels.inv_cdf((k + 0.5) / timesteps)) for k in range(timesteps)]).double()


def sigmas(scheduler: Any) -> Tensor:
    """EDM's sigma at every timestep, from the scheduler's own table."""
    kept = scheduler.alphas_cumprod.double()
    return ((1 - kept) / kept).sqrt()


def draw(count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y, n = torch.randn(2, count, 1, 3, generator=generator, dtype=torch.float64)
    return {"y": y, "n": n, "k": torch.randint(K, (count,), generator=generator)}


def test_timesteps_are_the_quantiles_of_the_log_normal() -> None:
    found = sigmas(edm())
    torch.testing.assert_close(found, quantiles(), rtol=1e-3, atol=0)
    assert [round(float(found[k]), 4) for k in (0, K - 1)] == pytest.approx([0.0058, 15.75], rel=1e-2)
    other = NormalDist(0.5, 0.8)
    expected = torch.tensor([math.exp(other.inv_cdf((k + 0.5) / 50)) for k in range(50)]).double()
    torch.testing.assert_close(sigmas(edm(num_train_timesteps=50, p_mean=0.5, p_std=0.8)), expected, rtol=1e-3, atol=0)


def test_uniform_timesteps_draw_what_edm_draws() -> None:
    """ln sigma of uniform timesteps: mean, spread and every decile of N(-1.2, 1.2^2)."""
    generator = torch.Generator().manual_seed(0)
    drawn = sigmas(edm())[torch.randint(K, (200_000,), generator=generator)].log()
    edms = -1.2 + 1.2 * torch.randn(200_000, generator=generator, dtype=torch.float64)
    assert float(drawn.mean()) == pytest.approx(-1.2, abs=0.015)
    assert float(drawn.std()) == pytest.approx(1.2, rel=0.01)
    levels = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    torch.testing.assert_close(drawn.quantile(levels), edms.quantile(levels), rtol=0, atol=0.025)


def test_the_velocity_is_edms_preconditioned_network() -> None:
    """The solver's estimate of x0 from v = -F is D, and it is told EDM's c_in x."""
    plain, drawn = network(), draw(200)
    solver = probe(edm(), 64)
    for i in range(len(solver)):
        sigma = torch.tensor(solver.sigma[i] / solver.alpha[i]).double()
        x = drawn["y"] + sigma * drawn["n"]
        ours = x / (1 + sigma**2).sqrt()
        got = solver.to_x0(-plain(ours), ours, i, "v_prediction")
        torch.testing.assert_close(got, EDM(plain).denoise(x, sigma), rtol=1e-4, atol=1e-5)


def test_the_loss_is_edms_for_the_same_noise() -> None:
    plain, drawn = network(), draw(500)
    scheduler = edm()
    seen = []

    def velocity(x: Tensor, *_: Any) -> Tensor:
        seen.append(x)
        return -plain(x)

    ours = denoising_loss(
        velocity, scheduler, x0=drawn["y"], noise=drawn["n"], weight=torch.ones(500, 1, 3), fields={},
        timestep=drawn["k"],
    )  # fmt: skip
    sigma = quantiles()[drawn["k"]][:, None, None]
    theirs = EDM(plain).loss(drawn["y"], drawn["n"], sigma)
    # The table of noise levels is in single precision.
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)
    exact = EDM(plain).loss(drawn["y"], drawn["n"], sigmas(scheduler)[drawn["k"]][:, None, None])
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen[0], (drawn["y"] + sigma * drawn["n"]) / (1 + sigma**2).sqrt(), rtol=0, atol=1e-3)


def test_the_losses_have_the_same_gradient() -> None:
    ours, theirs, drawn = network(), network(), draw(64)
    scheduler = edm()
    denoising_loss(
        lambda x, *_: -ours(x), scheduler, x0=drawn["y"], noise=drawn["n"], weight=torch.ones(64, 1, 3), fields={},
        timestep=drawn["k"],
    ).mean().backward()  # fmt: skip
    EDM(theirs).loss(drawn["y"], drawn["n"], sigmas(scheduler)[drawn["k"]][:, None, None]).mean().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


# Sampling: two unequal humps in a plane, standardised as data would be.
WEIGHTS = torch.tensor([0.3, 0.7])
CENTRES = torch.tensor([[-1.4, 0.9], [0.6, -0.4]])
SPREAD = torch.tensor([0.35, 0.25])


def velocity_of_mixture(solver: Any) -> Callable[[Tensor, int], Tensor]:
    """The exact prediction: E[x0 | x] is a mean of both humps' by how likely x is theirs."""

    def predict(x: Tensor, i: int) -> Tensor:
        alpha, sigma = solver.alpha[i], solver.sigma[i]
        variance = alpha**2 * SPREAD**2 + sigma**2
        offset = x[..., None, :] - alpha * CENTRES  # (B, H, 2 humps, 2)
        logits = WEIGHTS.log() - variance.log() - offset.square().sum(-1) / (2 * variance)
        means = CENTRES + alpha * (SPREAD**2 / variance)[:, None] * offset
        x0 = (logits.softmax(-1)[..., None] * means).sum(-2)
        return ((alpha * x - x0) / sigma)[None]

    return predict


@pytest.mark.parametrize(
    ("part", "steps"),
    [
        (None, 128), ({"name": "dpm_solver", "stochastic": True, "spacing": "timestep"}, 128),
        ({"name": "dpm_solver", "stochastic": True, "spacing": "timestep"}, 32), ({"name": "dpm_solver"}, 32),
        ({"name": "dpm_solver", "spacing": "timestep"}, 128), ({"name": "ddim"}, 128), ({"name": "deis"}, 128),
        ({"name": "unipc"}, 128),
    ],
)  # fmt: skip
def test_samples_of_a_mixture_have_its_moments(part: Any, steps: int) -> None:
    count = 8000
    solver = probe(sampling_scheduler(part, {"name": "edm"}), steps)
    noise = torch.randn(steps + 1, count, 1, 2, generator=torch.Generator().manual_seed(0))
    got = sample(velocity_of_mixture(solver), solver, noise, prediction_type="v_prediction")[:, 0]
    left = got[:, 0] < -0.4
    assert float(left.float().mean()) == pytest.approx(0.3, abs=0.03)  # five standard errors are 0.026
    mean = (WEIGHTS[:, None] * CENTRES).sum(0)
    assert ((got.mean(0) - mean).abs() < 0.06).all()
    for hump, own in enumerate((got[left], got[~left])):
        assert ((own.mean(0) - CENTRES[hump]).abs() < 0.035).all()
        assert ((own.std(0) / SPREAD[hump] - 1).abs() < 0.08).all()


def test_every_solver_samples_over_edms_noise() -> None:
    """It takes over betas, their number and what is predicted; the rest of it stays as it was asked for."""
    trained = edm(num_train_timesteps=64)
    for name in SCHEDULERS:
        scheduler = sampling_scheduler({"name": name}, {"name": "edm", "num_train_timesteps": 64})
        assert scheduler.config.trained_betas == trained.config.trained_betas
        assert scheduler.config.num_train_timesteps == 64
        assert scheduler.config.prediction_type == "v_prediction"
        assert torch.equal(scheduler.alphas_cumprod, trained.alphas_cumprod)
        solver = probe(scheduler, 8)
        assert solver.timesteps[0] == 63
        assert solver.sigma[0] / solver.alpha[0] == pytest.approx(float(sigmas(trained)[-1]), rel=1e-3)
        levels = [sigma / alpha for alpha, sigma in zip(solver.alpha, solver.sigma, strict=True)]
        assert all(later < earlier for earlier, later in itertools.pairwise(levels))
    third = sampling_scheduler({"name": "dpm_solver", "solver_order": 3, "stochastic": False}, {"name": "edm"})
    assert isinstance(third, DPMSolverMultistepScheduler) and third.config.solver_order == 3
    assert sampling_scheduler({"name": "ddim", "eta": 0.5}, {"name": "edm"}).config["_eta"] == 0.5


@pytest.mark.parametrize("kind", get_args(PredictionType))
def test_a_solver_over_anothers_noise_is_the_solver_built_with_it(kind: str) -> None:
    noise = {"num_train_timesteps": 40, "beta_min": 0.2, "beta_max": 7.0, "prediction_type": kind}
    for spec in ({"name": "dpm_solver", "solver_order": 3}, {"name": "unipc"}, {"name": "ddim", "eta": 0.5}):
        found = sampling_scheduler(spec, {"name": "ddpm", **noise})
        built = SCHEDULERS.build({**spec, **noise})
        mine, other = ({k: v for k, v in s.config.items() if k != "_use_default_values"} for s in (found, built))
        assert mine == other
        assert probe(found, 8) == probe(built, 8)


def test_the_noise_of_a_scheduler_of_diffusers_is_taken_over_too() -> None:
    linear = DPMSolverMultistepScheduler(num_train_timesteps=50, beta_schedule="squaredcos_cap_v2")
    found = over_noise(ddpm(), linear)
    torch.testing.assert_close(found.alphas_cumprod, linear.alphas_cumprod)
    assert found.config.prediction_type == "epsilon"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train_timesteps": 0}, "num_train_timesteps: must be at least 1, got 0"),
        ({"p_std": 0.0}, "p_std: must be above 0, got 0.0"),
        ({"p_std": 5.0}, "p_mean, p_std: every sigma must be between 0.001 and 1000, got e^-17.7 to e^15.3"),
        ({"p_mean": 1000.0}, "p_mean, p_std: every sigma must be between 0.001 and 1000, got e^996 to e^1e+03"),
        ({"p_mean": math.nan}, "p_mean, p_std: every sigma must be between 0.001 and 1000, got e^nan to e^nan"),
    ],
)
def test_noise_out_of_range_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        edm(**arguments)
