"""The variance-preserving noise schedule of MTDiff (He et al. 2023, section 2.2; Song et al. 2021)."""

from __future__ import annotations

import math
from typing import Any, Literal

PredictionType = Literal["sample", "epsilon", "v_prediction"]


def vp_betas(num_train_timesteps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> list[float]:
    r"""Return beta_1 .. beta_K of the variance-preserving schedule.

    beta_k = 1 - exp(-beta_min / K - (beta_max - beta_min)(2k - 1) / (2 K^2)). The product of (1 - beta_k)
    telescopes to exp(-(beta_min + beta_max) / 2) for every K, so one pair of limits serves 5 timesteps
    and 200 alike.

    Args:
        num_train_timesteps: K, at least 1.
        beta_min: lower limit of the noise rate, at least 0.
        beta_max: upper limit of the noise rate, above `beta_min`.

    Raises:
        ValueError: if K is below 1 or the limits are not 0 <= beta_min < beta_max.
    """
    if num_train_timesteps < 1:
        raise ValueError(f"num_train_timesteps: must be at least 1, got {num_train_timesteps}")
    if not 0 <= beta_min < beta_max:
        raise ValueError(f"beta_min, beta_max: need 0 <= beta_min < beta_max, got {beta_min}, {beta_max}")
    steps = num_train_timesteps
    rate = [beta_min / steps + (beta_max - beta_min) * (2 * k - 1) / (2 * steps**2) for k in range(1, steps + 1)]
    return [-math.expm1(-value) for value in rate]


def vp_config(
    num_train_timesteps: int, beta_min: float, beta_max: float, prediction_type: PredictionType
) -> dict[str, Any]:
    """Return the diffusers configuration that every builder shares.

    `use_lu_lambdas` means nothing to DDPM, yet it stays in the saved configuration, where a later
    `DPMSolverMultistepScheduler.from_config` finds it: few sampling timesteps are more accurate spread evenly
    over the log signal-to-noise ratio than over k, whose last step from there to the data is too coarse.
    """
    return {
        "num_train_timesteps": num_train_timesteps,
        "trained_betas": vp_betas(num_train_timesteps, beta_min, beta_max),
        "prediction_type": prediction_type,
        "timestep_spacing": "trailing",
        "use_lu_lambdas": True,
    }
