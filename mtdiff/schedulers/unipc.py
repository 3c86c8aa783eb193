"""UniPC (Zhao et al. 2023): every prediction also corrects the step that led to it."""

from __future__ import annotations

from typing import Literal

from diffusers import UniPCMultistepScheduler

from mtdiff.registry import SCHEDULERS
from mtdiff.schedulers.vp import PredictionType, vp_config


@SCHEDULERS.register("unipc")
def unipc(
    *,
    num_train_timesteps: int = 200,
    beta_min: float = 0.1,
    beta_max: float = 10.0,
    prediction_type: PredictionType = "sample",
    solver_order: Literal[1, 2, 3] = 2,
) -> UniPCMultistepScheduler:
    """Multistep predictor and corrector, deterministic, for 5 to 20 sampling timesteps.

    Its timesteps are uniform in k. A temperature acts through the initial noise alone. B(h) is exp(h) - 1, "bh2" in
    diffusers: with "bh1" the last step, to no noise at all, would be infinite.

    Args:
        num_train_timesteps: K, diffusion timesteps of training.
        beta_min: lower limit of the variance-preserving noise rate.
        beta_max: upper limit of the variance-preserving noise rate.
        prediction_type: what the backbone predicts: "sample" (x0), "epsilon" or "v_prediction".
        solver_order: order of the predictor; the corrector's is one more.
    """
    config = vp_config(num_train_timesteps, beta_min, beta_max, prediction_type)
    lu_lambdas = config.pop("use_lu_lambdas")
    scheduler = UniPCMultistepScheduler(
        **config, solver_order=solver_order, solver_type="bh2", predict_x0=True, final_sigmas_type="zero"
    )
    scheduler.register_to_config(use_lu_lambdas=lu_lambdas)
    return scheduler
