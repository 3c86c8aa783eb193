"""DDPM (Ho et al. 2020): the ancestral sampler, and the process every planner is trained with."""

from __future__ import annotations

from diffusers import DDPMScheduler

from mtdiff.registry import SCHEDULERS
from mtdiff.schedulers.vp import PredictionType, vp_config


@SCHEDULERS.register("ddpm")
def ddpm(
    *,
    num_train_timesteps: int = 200,
    beta_min: float = 0.1,
    beta_max: float = 10.0,
    prediction_type: PredictionType = "sample",
) -> DDPMScheduler:
    """Ancestral sampling with the posterior variance; the schedule of training.

    The predicted x0 is clamped by the sampling loop, channel by channel, for every scheduler alike, so
    diffusers' own clipping is off.

    Args:
        num_train_timesteps: K, diffusion timesteps of training.
        beta_min: lower limit of the variance-preserving noise rate.
        beta_max: upper limit of the variance-preserving noise rate.
        prediction_type: what the backbone predicts: the clean x0 ("sample"), the noise ("epsilon",
            the paper's) or the velocity ("v_prediction").
    """
    config = vp_config(num_train_timesteps, beta_min, beta_max, prediction_type)
    lu_lambdas = config.pop("use_lu_lambdas")
    scheduler = DDPMScheduler(**config, variance_type="fixed_small", clip_sample=False)
    scheduler.register_to_config(use_lu_lambdas=lu_lambdas)
    return scheduler
