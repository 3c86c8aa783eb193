"""Solver coefficients, read off a diffusers scheduler once, so that one small loop serves every scheduler.

Every scheduler used here is linear: the next x is a weighted sum of the present and earlier x, of the present
and earlier predictions of x0, and of fresh noise z,

    x[i+1] = sum_m a[i][m] x[i-m] + sum_m b[i][m] x0[i-m] + c[i] z.

The weights are found by feeding unit vectors through the scheduler's own `step` and are then checked against
it on random numbers, so a scheduler that does not fit is refused, never sampled wrongly.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_LINEAR = ("DDPM", "DDIM", "DEISMultistep", "UniPCMultistep", "DPMSolverMultistep")  # diffusers', less "Scheduler"
_NEGLIGIBLE = 1e-7  # what single-precision tables leave of a weight that is zero


@dataclass(frozen=True, kw_only=True)
class Solver:
    """The S sampling timesteps of one scheduler, as plain numbers.

    Attributes:
        timesteps: what the backbone is told at each of the S calls.
        alpha: signal scale at each call: x = alpha x0 + sigma eps.
        sigma: noise scale at each call.
        a: weights of x at this call and before, newest first.
        b: weights of the predictions of x0, newest first.
        c: standard deviation of the fresh noise at temperature 1.
    """

    timesteps: tuple[int, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[tuple[float, ...], ...]
    c: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def stochastic(self) -> bool:
        """Whether any call draws fresh noise."""
        return any(value != 0.0 for value in self.c)

    def combine(self, i: int, xs: list[Tensor], x0s: list[Tensor]) -> Tensor:
        """The mean of x at call `i + 1`, from the x and the x0 of the calls so far, newest last."""
        total = self.a[i][0] * xs[-1] + self.b[i][0] * x0s[-1]
        for weights, values in ((self.a[i], xs), (self.b[i], x0s)):
            for m in range(1, len(weights)):
                total = total + weights[m] * values[-1 - m]
        return total

    def to_x0(self, prediction: Tensor, x: Tensor, i: int, prediction_type: str) -> Tensor:
        """Turn the backbone's prediction at call `i` into an estimate of x0, of the same shape."""
        return x_0_of(prediction, x, self.alpha[i], self.sigma[i], prediction_type)

    @functools.cached_property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """`a` and `b` as matrices (S, S): row i weighs x and x0 of all calls, so that every mean is one product."""
        found = torch.zeros(2, len(self), len(self), dtype=torch.float64)
        for matrix, rows in zip(found, (self.a, self.b), strict=True):
            for i, weights in enumerate(rows):
                for m, weight in enumerate(weights):
                    matrix[i, i - m] = weight
        return found[0], found[1]


def x_0_of(prediction: Tensor, x: Tensor, alpha: Any, sigma: Any, prediction_type: str) -> Tensor:
    """Turn what a backbone predicts of x = alpha x0 + sigma eps into an estimate of x0."""
    if prediction_type == "sample":
        return prediction
    if prediction_type == "epsilon":
        return (x - sigma * prediction) / alpha
    return alpha * x - sigma * prediction


_CACHE: dict[tuple, Solver] = {}


def probe(scheduler: Any, num_inference_steps: int) -> Solver:
    """Read the coefficients of `num_inference_steps` sampling timesteps off a diffusers scheduler.

    Args:
        scheduler: any diffusers scheduler that is linear and works on a variance-preserving x.
        num_inference_steps: S, between 1 and the scheduler's number of training timesteps.

    Raises:
        ValueError: if S is out of range, or the scheduler is not of the form above.
    """
    name = type(scheduler).__name__
    limit = scheduler.config.num_train_timesteps
    if not 1 <= num_inference_steps <= limit:
        raise ValueError(
            f"num_inference_steps: must be between 1 and the {limit} timesteps of training, got {num_inference_steps}"
        )
    key = (name, num_inference_steps, repr(sorted((k, repr(v)) for k, v in scheduler.config.items())))
    if key not in _CACHE:
        _CACHE[key] = _probe(scheduler, num_inference_steps)
    return _CACHE[key]


def _fresh(scheduler: Any, prediction_type: str, num_inference_steps: int) -> Any:
    off = {key: False for key in ("clip_sample", "thresholding") if key in scheduler.config}
    copy = type(scheduler).from_config(scheduler.config, prediction_type=prediction_type, **off)
    copy.set_timesteps(num_inference_steps, device="cpu")
    return copy


class _Stepper:
    """Calls `scheduler.step` with noise that is known: handed over, or drawn from a known seed.

    Every call has noise of its own, so that a scheduler which uses the noise of an earlier call is found out.
    """

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self.accepts = inspect.signature(scheduler.step).parameters

    def __call__(self, i: int, output: Tensor, x: Tensor) -> Tensor:
        extra: dict[str, Any] = {}
        if "variance_noise" in self.accepts:
            extra["variance_noise"] = self.noise(i, x.shape[-1])
        elif "generator" in self.accepts:
            extra["generator"] = torch.Generator().manual_seed(i)
        if "eta" in self.accepts and "_eta" in self.scheduler.config:
            extra["eta"] = self.scheduler.config["_eta"]
        return self.scheduler.step(output, self.scheduler.timesteps[i], x, **extra, return_dict=False)[0]

    def noise(self, i: int, size: int) -> Tensor:
        """The noise that call `i` of `step` on a vector of `size` numbers sees."""
        return torch.randn(1, size, generator=torch.Generator().manual_seed(i), dtype=torch.float64)


def _probe(scheduler: Any, num_inference_steps: int) -> Solver:
    count, name = num_inference_steps, type(scheduler).__name__
    try:
        by_x0, by_eps = (_fresh(scheduler, kind, count) for kind in ("sample", "epsilon"))
        timesteps = [int(t) for t in by_x0.timesteps]
        first = float(by_x0.scale_model_input(torch.ones(1), by_x0.timesteps[0]))
        if abs(first - 1) + abs(float(by_x0.init_noise_sigma) - 1) > 1e-6:
            raise ValueError("it rescales x")
        if len(timesteps) != count:
            raise ValueError(f"it makes {len(timesteps)} calls")
        solver = _coefficients(by_x0, by_eps, timesteps)
        _check(solver, _fresh(scheduler, "sample", count))
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError, NameError) as error:
        # diffusers spaces timesteps by a rounded quotient, and for some numbers comes out with one too many.
        known = name.removesuffix("Scheduler") in _LINEAR
        advice = "Take another number" if known else "DDPM, DDIM, DEIS, UniPC and DPMSolverMultistep can"
        raise ValueError(
            f"scheduler {name} cannot be used with {count} sampling timesteps: {error}. {advice}."
        ) from error
    if not _meets_its_grid(solver):
        raise ValueError(
            f"scheduler {name} with {count} sampling timesteps steps to other noise levels than those it visits; "
            f"take a number that divides the {scheduler.config.num_train_timesteps} timesteps of training"
        )
    return solver


def _coefficients(by_x0: Any, by_eps: Any, timesteps: list[int]) -> Solver:
    """Step through unit vectors: one coordinate per x, one per prediction, one more for the noise alone."""
    count = len(timesteps)
    size = 2 * count + 1
    step_x0, step_eps = _Stepper(by_x0), _Stepper(by_eps)
    a, b, c, alpha, sigma = [], [], [], [], []
    for i in range(count):
        noise = step_x0.noise(i, size)
        x, output = torch.zeros(2, 1, size, dtype=torch.float64)
        x[0, i], output[0, count + i] = 1.0, 1.0
        moved, by_noise = step_x0(i, output, x)[0], step_eps(i, output, x)[0]
        c.append(_settle(float(moved[-1] / noise[0, -1])))
        moved, by_noise = moved - c[-1] * noise[0], by_noise - c[-1] * noise[0]
        a.append(_trim(moved[: i + 1].flip(0).tolist()))
        b.append(_trim(moved[count : count + i + 1].flip(0).tolist()))
        # Told that the same output is noise, the scheduler uses x0 = (x - sigma eps) / alpha: solve for both.
        weight, rest = float(moved[count + i]), float(by_noise[i] - moved[i])
        if abs(weight) > _NEGLIGIBLE and abs(rest) > _NEGLIGIBLE:
            alpha.append(weight / rest)
            sigma.append(-float(by_noise[count + i]) / rest)
        else:
            cumulative = float(by_x0.alphas_cumprod[timesteps[i]])
            alpha.append(cumulative**0.5)
            sigma.append((1 - cumulative) ** 0.5)
    return Solver(
        timesteps=tuple(timesteps), alpha=tuple(alpha), sigma=tuple(sigma), a=tuple(a), b=tuple(b), c=tuple(c)
    )


def _settle(weight: float) -> float:
    return weight if abs(weight) > _NEGLIGIBLE else 0.0


def _trim(weights: list[float]) -> tuple[float, ...]:
    """Drop the oldest weights that are zero, and always keep the newest."""
    settled = [_settle(weight) for weight in weights]
    while len(settled) > 1 and settled[-1] == 0.0:
        settled.pop()
    return tuple(settled)


def _check(solver: Solver, scheduler: Any) -> None:
    """Run random numbers through the scheduler and through the coefficients; they must agree."""
    generator = torch.Generator().manual_seed(1)
    xs = [torch.randn(1, 8, generator=generator, dtype=torch.float64)]
    predictions = list(torch.randn(len(solver), 1, 8, generator=generator, dtype=torch.float64))
    step = _Stepper(scheduler)
    for i in range(len(solver)):
        theirs = step(i, predictions[i], xs[i])
        ours = solver.combine(i, xs, predictions[: i + 1]) + solver.c[i] * step.noise(i, 8)
        if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5):
            off = float((ours - theirs).abs().max())
            raise ValueError(f"its steps are not linear in x, x0 and noise (off by {off:.2g})")
        xs.append(theirs)
    if any(later > earlier + 1e-6 for earlier, later in itertools.pairwise(solver.sigma)):
        raise ValueError("it adds noise instead of removing it")


def _meets_its_grid(solver: Solver) -> bool:
    """Whether every call leaves x at the noise level that the next call believes it to have.

    A constant estimate of x0 moves x along the process, so its signal scale must become the next call's. diffusers'
    DDIM fails where the number of sampling timesteps does not divide that of training: it steps by their quotient
    rounded down, and visits timesteps that are further apart.
    """
    return all(
        abs(sum(w * solver.alpha[i - m] for m, w in enumerate(solver.a[i])) + sum(solver.b[i]) - solver.alpha[i + 1])
        < 1e-3
        for i in range(len(solver) - 1)
    )
