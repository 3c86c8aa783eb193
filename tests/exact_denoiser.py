"""A denoiser that makes no error, and the schedulers to sample it with.

x0 ~ N(mu, s^2), independently in every channel. Given alpha and sigma, the exact denoiser is

    E[x0 | x] = mu + alpha s^2 / v (x - alpha mu),   v = alpha^2 s^2 + sigma^2,

and the probability flow keeps the standardised value: (x - alpha mu) / sqrt(v) is the same at every timestep.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from mtdiff.registry import SCHEDULERS
from mtdiff.schedulers import PredictionType, Solver, ddpm, probe

PREDICTION_TYPES = get_args(PredictionType)
MU = torch.tensor([0.3, -0.5])
STD = torch.tensor([0.5, 0.6])
COUNT = 4000


def swapped(kind: Any, **arguments: Any) -> Any:
    return lambda timesteps: kind.from_config(ddpm(num_train_timesteps=timesteps).config, **arguments)


def registered(name: str, **arguments: Any) -> Any:
    return lambda timesteps: SCHEDULERS.build({"name": name, "num_train_timesteps": timesteps, **arguments})


BUILDERS: dict[str, Any] = {name: registered(name) for name in SCHEDULERS} | {
    "ddim-0.5": registered("ddim", eta=0.5),
    "ddim-1": registered("ddim", eta=1.0),
    "unipc-3": registered("unipc", solver_order=3),
    "sde": registered("dpm_solver", stochastic=True),
    "sde-3": registered("dpm_solver", stochastic=True, solver_order=3),
    "DDIM": swapped(DDIMScheduler),
    "DPM++1": swapped(DPMSolverMultistepScheduler, solver_order=1),
    "DPM++3": swapped(DPMSolverMultistepScheduler, solver_order=3),
    "SDE-DPM++": swapped(DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"),
    "DEIS": swapped(DEISMultistepScheduler),
    "UniPC": swapped(UniPCMultistepScheduler),
}
SOLVERS = {name: probe(build(200), 20) for name, build in BUILDERS.items()}
DETERMINISTIC = [name for name, solver in SOLVERS.items() if not solver.stochastic]
STOCHASTIC = [name for name, solver in SOLVERS.items() if solver.stochastic]

# Others: at least 1.
ORDERS = {
    "ddim": 1, "deis": 2, "dpm_solver": 2, "unipc": 2, "unipc-3": 2,
    "DDIM": 1, "DPM++1": 1, "DEIS": 2, "UniPC": 2, "DPM++3": 3,
}  # fmt: skip


class Gaussian:
    """The exact denoiser, told as x0, noise or velocity."""

    def __init__(self, solver: Solver, prediction_type: str = "sample"):
        self.solver, self.prediction_type = solver, prediction_type

    def __call__(self, x: Tensor, i: int) -> Tensor:
        alpha, sigma = self.solver.alpha[i], self.solver.sigma[i]
        x0 = MU + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MU)
        noise = (x - alpha * x0) / sigma
        told = {"sample": x0, "epsilon": noise, "v_prediction": alpha * noise - sigma * x0}
        return told[self.prediction_type][None]


def marginal(alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x at one timestep."""
    return alpha * MU, (alpha**2 * STD**2 + sigma**2).sqrt()


def begin(solver: Solver, seed: int = 0, count: int = COUNT) -> tuple[Tensor, Tensor]:
    """Standardised values (1, B, H, D), and noise whose first entry is the exact x_K that they stand for."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(solver) + 1, count, 1, 2, generator=generator)
    standardised = noise[0].clone()
    mean, std = marginal(solver.alpha[0], solver.sigma[0])
    noise[0] = mean + std * standardised
    return standardised, noise
