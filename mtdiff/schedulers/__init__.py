"""Noise schedulers by name: typed builders over diffusers' classes, one file per family.

The mathematics stays in diffusers. A builder fixes what diffusers leaves open (the noise schedule, the
spacing of the sampling timesteps) and returns a plain diffusers scheduler, so
`pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)` works as users know it.
"""

from mtdiff.schedulers.ddim import ddim
from mtdiff.schedulers.ddpm import ddpm
from mtdiff.schedulers.deis import deis
from mtdiff.schedulers.dpm_solver import dpm_solver
from mtdiff.schedulers.edm import edm
from mtdiff.schedulers.noise import over_noise
from mtdiff.schedulers.solver import Solver, probe
from mtdiff.schedulers.unipc import unipc
from mtdiff.schedulers.vp import PredictionType, vp_betas

__all__ = [
    "PredictionType", "Solver", "ddim", "ddpm", "deis", "dpm_solver", "edm", "over_noise", "probe", "unipc", "vp_betas",
]  # fmt: skip
