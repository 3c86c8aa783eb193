"""DDIM (Song et al. 2021): DDPM's process with any share of its noise left out."""

from __future__ import annotations

from diffusers import DDIMScheduler

from mtdiff.registry import SCHEDULERS
from mtdiff.schedulers.vp import PredictionType, vp_config


@SCHEDULERS.register("ddim")
def ddim(
    *,
    num_train_timesteps: int = 200,
    beta_min: float = 0.1,
    beta_max: float = 10.0,
    prediction_type: PredictionType = "sample",
    eta: float = 0.0,
) -> DDIMScheduler:
    r"""First order; deterministic for eta 0, the ancestral sampler for eta 1.

    x_{k'} = sqrt(abar_{k'}) x0 + sqrt(1 - abar_{k'} - s^2) eps + s z, where s is eta times the standard deviation
    of DDPM's posterior. With eta 0 a temperature acts through the initial noise alone, otherwise in every call.
    The number of sampling timesteps must divide K: diffusers steps by their quotient rounded down.

    Args:
        num_train_timesteps: K, diffusion timesteps of training.
        beta_min: lower limit of the variance-preserving noise rate.
        beta_max: upper limit of the variance-preserving noise rate.
        prediction_type: what the backbone predicts: "sample" (x0), "epsilon" or "v_prediction".
        eta: share of DDPM's noise, as a standard deviation, in [0, 1].
    """
    config = vp_config(num_train_timesteps, beta_min, beta_max, prediction_type)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: must be between 0 and 1, got {eta}")
    lu_lambdas = config.pop("use_lu_lambdas")
    scheduler = DDIMScheduler(**config, clip_sample=False, set_alpha_to_one=True)
    # diffusers takes eta at every step and never stores it: here the configuration does, and `probe` hands it over.
    # Without the underscore diffusers would warn of a key it does not know.
    scheduler.register_to_config(use_lu_lambdas=lu_lambdas, _eta=float(eta))
    return scheduler
