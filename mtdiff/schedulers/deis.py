"""DEIS (Zhang and Chen 2023): an exponential integrator that extrapolates the noise in log rho."""

from __future__ import annotations

from typing import Literal

from diffusers import DEISMultistepScheduler

from mtdiff.registry import SCHEDULERS
from mtdiff.schedulers.vp import PredictionType, vp_config


@SCHEDULERS.register("deis")
def deis(
    *,
    num_train_timesteps: int = 200,
    beta_min: float = 0.1,
    beta_max: float = 10.0,
    prediction_type: PredictionType = "sample",
    solver_order: Literal[1, 2, 3] = 2,
) -> DEISMultistepScheduler:
    """Multistep exponential integrator in log rho, deterministic.

    Its timesteps are uniform in k, and in diffusers it stops at the noise of the first timestep of training, 0.025
    of a standard deviation for K = 200, not at none. A temperature acts through the initial noise alone.

    Args:
        num_train_timesteps: K, diffusion timesteps of training.
        beta_min: lower limit of the variance-preserving noise rate.
        beta_max: upper limit of the variance-preserving noise rate.
        prediction_type: what the backbone predicts: "sample" (x0), "epsilon" or "v_prediction".
        solver_order: order of the multistep formula.
    """
    config = vp_config(num_train_timesteps, beta_min, beta_max, prediction_type)
    lu_lambdas = config.pop("use_lu_lambdas")
    scheduler = DEISMultistepScheduler(**config, solver_order=solver_order)
    scheduler.register_to_config(use_lu_lambdas=lu_lambdas)
    return scheduler
