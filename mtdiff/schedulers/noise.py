"""The noise that a model was trained with, and solvers that sample over it."""

from __future__ import annotations

from typing import Any

_NOISE = ("num_train_timesteps", "trained_betas", "prediction_type")


def over_noise(solver: Any, trained: Any) -> Any:
    """Return the solver `solver` over the noise of `trained`, whatever schedule that is.

    Args:
        solver: a diffusers scheduler; its own noise and prediction type are left behind.
        trained: the diffusers scheduler that a model was trained with, or any over the same noise.

    Raises:
        ValueError: `solver` cannot take another's noise.
    """
    taken = [key for key in _NOISE if key in getattr(solver, "config", {})]
    if missing := [key for key in _NOISE if key not in taken]:
        raise ValueError(
            "name: must be a diffusers scheduler that can sample over the noise of training, "
            f"got {type(solver).__name__}, which takes no {', '.join(missing)}"
        )
    known = trained.config
    noise = {
        "num_train_timesteps": known.num_train_timesteps,
        "trained_betas": known.get("trained_betas") or trained.betas.tolist(),
        "prediction_type": known.prediction_type,
    }
    return type(solver).from_config({**solver.config, **noise})
