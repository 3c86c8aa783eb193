"""The noise schedule, what is stored with a scheduler, and the arguments of schedulers."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from mtdiff.registry import SCHEDULERS
from mtdiff.schedulers import ddim, ddpm, dpm_solver, probe, vp_betas

OURS = [name for name in SCHEDULERS if "beta_min" in SCHEDULERS[name].arguments]  # over MTDiff's noise


@pytest.mark.parametrize("timesteps", [1, 5, 20, 200, 1000])
def test_noise_schedule_telescopes(timesteps: int) -> None:
    betas = vp_betas(timesteps)
    assert len(betas) == timesteps
    assert all(0 < beta < 1 for beta in betas)
    assert betas == sorted(betas)
    assert math.prod(1 - beta for beta in betas) == pytest.approx(math.exp(-5.05), rel=1e-12)
    # diffusers multiplies in single precision.
    in_scheduler = float(ddpm(num_train_timesteps=timesteps).alphas_cumprod[-1])
    assert in_scheduler == pytest.approx(math.exp(-5.05), rel=1e-4)
    assert math.prod(1 - beta for beta in vp_betas(timesteps, 0.2, 4.0)) == pytest.approx(math.exp(-2.1), rel=1e-12)


def test_noise_schedule_is_the_papers() -> None:
    """Section 2.2, written as it stands there."""
    for k, beta in enumerate(vp_betas(200), start=1):
        rate = 0.1 / 200 + 0.5 * (10 - 0.1) * (2 * k - 1) / 200**2
        assert beta == pytest.approx(1 - math.exp(-rate), rel=1e-9)


@pytest.mark.parametrize("name", OURS)
def test_schedule_survives_saving_exactly(name: str, tmp_path: Any) -> None:
    scheduler = SCHEDULERS.build({"name": name, "num_train_timesteps": 200})
    scheduler.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert stored["trained_betas"] == vp_betas(200)
    loaded = type(scheduler).from_pretrained(tmp_path)
    assert loaded.config.trained_betas == vp_betas(200)
    assert torch.equal(loaded.alphas_cumprod, scheduler.alphas_cumprod)
    assert probe(loaded, 10) == probe(scheduler, 10)
    assert loaded.config.use_lu_lambdas is True


def test_swapped_in_solver_samples_uniformly_in_lambda(tmp_path: Any) -> None:
    ddpm().save_pretrained(tmp_path)
    for config in (ddpm().config, DDPMScheduler.from_pretrained(tmp_path).config):
        scheduler = DPMSolverMultistepScheduler.from_config(config)
        assert scheduler.config.use_lu_lambdas is True
        solver = probe(scheduler, 10)
        assert solver == probe(dpm_solver(), 10)
        rates = [math.log(alpha / sigma) for alpha, sigma in zip(solver.alpha, solver.sigma, strict=True)]
        gaps = [later - earlier for earlier, later in itertools.pairwise(rates)]
        assert max(gaps) == pytest.approx(min(gaps), rel=1e-3)
    uniform_in_k = probe(dpm_solver(spacing="timestep"), 10)
    assert uniform_in_k.timesteps == (199, 179, 159, 139, 119, 99, 79, 59, 39, 19)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train_timesteps": 0}, "num_train_timesteps: must be at least 1, got 0"),
        ({"beta_min": -0.1}, "beta_min, beta_max: need 0 <= beta_min < beta_max, got -0.1, 10.0"),
        (
            {"beta_min": 2.0, "beta_max": 1.0},
            "beta_min, beta_max: need 0 <= beta_min < beta_max, got 2.0, 1.0",
        ),
    ],
)
def test_schedule_arguments_out_of_range(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SCHEDULERS.build({"name": name, **arguments})


def test_eta_survives_saving_and_scales_the_noise_of_every_call(tmp_path: Any, capfd: Any) -> None:
    ddim(eta=0.25).save_pretrained(tmp_path)
    loaded = DDIMScheduler.from_pretrained(tmp_path)
    assert loaded.config["_eta"] == 0.25
    full = probe(ddim(eta=1.0), 10)
    assert probe(loaded, 10).c == pytest.approx([0.25 * c for c in full.c], rel=1e-5)
    assert not probe(ddim(), 10).stochastic
    assert capfd.readouterr().err == ""  # diffusers knows no eta in a configuration, and is not to say so
    assert not probe(DDIMScheduler.from_config(ddpm().config), 10).stochastic


@pytest.mark.parametrize("eta", [-0.1, 1.5, math.nan])
def test_eta_out_of_range(eta: float) -> None:
    with pytest.raises(ValueError, match=rf"^eta: must be between 0 and 1, got {eta}$"):
        ddim(eta=eta)
