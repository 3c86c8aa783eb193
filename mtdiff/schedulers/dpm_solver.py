"""DPM-Solver++ (Lu et al. 2022): the same samples in ten timesteps instead of two hundred."""

from __future__ import annotations

from typing import Literal

from diffusers import DPMSolverMultistepScheduler

from mtdiff.registry import SCHEDULERS
from mtdiff.schedulers.vp import PredictionType, vp_config


@SCHEDULERS.register("dpm_solver")
def dpm_solver(
    *,
    num_train_timesteps: int = 200,
    beta_min: float = 0.1,
    beta_max: float = 10.0,
    prediction_type: PredictionType = "sample",
    solver_order: Literal[1, 2, 3] = 2,
    spacing: Literal["lambda", "timestep"] = "lambda",
    stochastic: bool = False,
) -> DPMSolverMultistepScheduler:
    """Multistep DPM-Solver++ for 5 to 20 sampling timesteps, and its stochastic variant for more.

    The deterministic one adds no noise on the way, so a temperature acts through the initial noise alone; in the
    stochastic one it acts in every call.

    Args:
        num_train_timesteps: K, diffusion timesteps of training.
        beta_min: lower limit of the variance-preserving noise rate.
        beta_max: upper limit of the variance-preserving noise rate.
        prediction_type: what the backbone predicts: "sample" (x0), "epsilon" or "v_prediction".
        solver_order: order of the multistep formula.
        spacing: sampling timesteps uniform in half the log signal-to-noise ratio ("lambda"), or in k.
        stochastic: SDE-DPM-Solver++, which solves the reverse diffusion with its noise instead of the flow without.
    """
    config = vp_config(num_train_timesteps, beta_min, beta_max, prediction_type)
    config["use_lu_lambdas"] = spacing == "lambda"
    algorithm = "sde-dpmsolver++" if stochastic else "dpmsolver++"
    return DPMSolverMultistepScheduler(
        **config, solver_order=solver_order, algorithm_type=algorithm, final_sigmas_type="zero"
    )
