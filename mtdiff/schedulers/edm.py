"""EDM's noise (Karras et al. 2022): the process that SynthER (Lu et al. 2023) is trained with."""

from __future__ import annotations

import math
from statistics import NormalDist

from diffusers import DDPMScheduler

from mtdiff.errors import at_least
from mtdiff.registry import SCHEDULERS

LEAST, MOST = 0.001, 1000  # diffusers multiplies 1 - beta_k in single precision, which must tell sigma_0 from none


@SCHEDULERS.register("edm")
def edm(*, num_train_timesteps: int = 1024, p_mean: float = -1.2, p_std: float = 1.2) -> DDPMScheduler:
    r"""Log-normal noise levels and EDM's preconditioned network, in variance-preserving coordinates.

    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022, with
    sigma_data = 1, which standardised data have. With x = x_sigma / sqrt(1 + sigma^2) and abar = 1 / (1 + sigma^2),
    EDM's denoiser

        D(x_sigma) = c_skip x_sigma + c_out F(c_in x_sigma),   c_skip = abar, c_out = sqrt(1 - abar), c_in = sqrt(abar)

    is sqrt(abar) x - sqrt(1 - abar) v with v = -F(x): the network predicts the velocity. Its weight
    lambda(sigma) = 1 / c_out^2 leaves the plain squared error of v. And ln sigma ~ N(p_mean, p_std^2) is what uniform
    timesteps draw if sigma_k is the (k + 1/2) / K quantile; K = 1024 reaches from 0.006 to 16. So this is a schedule
    for the one loss and the one sampling loop, and any solver samples over it.

    What differs from SynthER's EDM: the network is told k, the rank of sigma, instead of ln(sigma) / 4. There
    sampling goes from sigma 80 to 0.002 with Heun's method and noise added on the way (churn); here from the largest
    sigma_k to 0 with a solver of ours, and with this part itself by ancestral steps that are uniform in k. The spacing
    "lambda" of `dpm_solver` serves up to some 40 sampling timesteps: of more, the first two fall on one k.

    Args:
        num_train_timesteps: K, diffusion timesteps of training, at least 1.
        p_mean: mean of ln sigma.
        p_std: standard deviation of ln sigma, above 0. No sigma_k may be below 0.001 or above 1000.
    """
    at_least(1, num_train_timesteps=num_train_timesteps)
    if not p_std > 0:
        raise ValueError(f"p_std: must be above 0, got {p_std}")
    quantile = NormalDist(p_mean, p_std).inv_cdf
    logs = [quantile((k + 0.5) / num_train_timesteps) for k in range(num_train_timesteps)]
    if not (math.log(LEAST) <= logs[0] and logs[-1] <= math.log(MOST)):
        low, high = (f"e^{log:.3g}" for log in (logs[0], logs[-1]))
        raise ValueError(f"p_mean, p_std: every sigma must be between {LEAST} and {MOST}, got {low} to {high}")
    scheduler = DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        trained_betas=edm_betas([math.exp(log) for log in logs]),
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        variance_type="fixed_small",
        clip_sample=False,
    )
    scheduler.register_to_config(use_lu_lambdas=True)
    return scheduler


def edm_betas(sigmas: list[float]) -> list[float]:
    r"""Return beta_1 .. beta_K of the variance-preserving process whose noise levels are `sigmas`, ascending.

    1 - beta_k = abar_k / abar_{k-1} with abar = 1 / (1 + sigma^2), and abar = 1 before the first.
    """
    squares = [sigma * sigma for sigma in sigmas]
    return [(now - before) / (1 + now) for before, now in zip([0.0, *squares[:-1]], squares, strict=True)]
