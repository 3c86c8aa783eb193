"""Schedulers: coefficients do what diffusers' own `step` does; the noise schedule; what is refused."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any, get_args

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from torch import Tensor

from mtdiff.diffusion import sample
from mtdiff.registry import SCHEDULERS
from mtdiff.schedulers import PredictionType, ddim, ddpm, dpm_solver, probe, vp_betas

PREDICTION_TYPES = get_args(PredictionType)
COUNTS = (1, 2, 5, 10, 50)
SHAPE = (2, 4, 3)  # (B, H, D)
OURS = [name for name in SCHEDULERS if "beta_min" in SCHEDULERS[name].arguments]  # over MTDiff's noise

# Classes that users swap in by `X.from_config(pipe.scheduler.config)`.
SWAPPED: dict[str, tuple[type, dict[str, Any]]] = {
    "DDIM": (DDIMScheduler, {}),
    "DPM++1": (DPMSolverMultistepScheduler, {"solver_order": 1}),
    "DPM++2": (DPMSolverMultistepScheduler, {"solver_order": 2}),
    "DPM++3": (DPMSolverMultistepScheduler, {"solver_order": 3}),
    "SDE-DPM++": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "DEIS": (DEISMultistepScheduler, {}),
    "UniPC": (UniPCMultistepScheduler, {}),
}

# Arguments that are not choices from a list, or act together.
MORE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ddim", {"eta": 0.5}),
    ("ddim", {"eta": 1.0}),
    ("dpm_solver", {"stochastic": True, "solver_order": 1}),
    ("dpm_solver", {"stochastic": True, "solver_order": 3}),
    ("dpm_solver", {"stochastic": True, "spacing": "timestep"}),
)


def builders() -> dict[str, Callable[..., Any]]:
    """Every scheduler over MTDiff's noise with defaults, and with each other choice of each of its arguments."""
    found: dict[str, Callable[..., Any]] = {}
    for name in OURS:
        part = SCHEDULERS[name]
        found[name] = part.build
        for argument in part.arguments.values():
            choices = (True, False) if argument.annotation is bool else get_args(argument.annotation)
            for choice in choices:
                if argument.name != "prediction_type" and choice != argument.default:
                    found[f"{name}-{argument.name}={choice}"] = _with(part, {argument.name: choice})
    for name, arguments in MORE:
        label = ",".join(f"{key}={value}" for key, value in arguments.items())
        found[f"{name}-{label}"] = _with(SCHEDULERS[name], arguments)
    for name, (kind, arguments) in SWAPPED.items():
        found[name] = _swap(kind, arguments)
    return found


def _with(part: Any, fixed: dict[str, Any]) -> Callable[..., Any]:
    return lambda values: part.build({**values, **fixed})


def _swap(kind: Any, arguments: dict[str, Any]) -> Callable[..., Any]:
    return lambda values: kind.from_config(ddpm(**values).config, **arguments)


BUILDERS = builders()


def wobble(x: Tensor, i: int) -> Tensor:
    """A prediction that depends on x and on the call, bounded as a network's would be."""
    return torch.tanh(x.roll(1, -1) * 0.7 - 0.3 * i + torch.arange(x.shape[-1]))


def own_loop(scheduler: Any, count: int, predict: Callable[[Tensor, int], Tensor], seed: int = 0) -> Tensor:
    """diffusers' way: `set_timesteps`, then `step` after `step`, with noise that `given_noise` repeats."""
    scheduler.set_timesteps(count)
    accepts = inspect.signature(scheduler.step).parameters
    noise = given_noise(count, seed)
    x = noise[0]
    for i, timestep in enumerate(scheduler.timesteps):
        extra: dict[str, Any] = {}
        if "variance_noise" in accepts:
            extra["variance_noise"] = noise[i + 1]
        elif "generator" in accepts:
            extra["generator"] = torch.Generator().manual_seed(1000 * seed + i + 1)
        if "eta" in accepts and "_eta" in scheduler.config:
            extra["eta"] = scheduler.config["_eta"]
        x = scheduler.step(predict(x, i), timestep, x, **extra).prev_sample
    return x


def given_noise(count: int, seed: int = 0) -> Tensor:
    return torch.stack(
        [torch.randn(SHAPE, generator=torch.Generator().manual_seed(1000 * seed + i)) for i in range(count + 1)]
    )


def ours(scheduler: Any, count: int, prediction_type: str, seed: int = 0) -> Tensor:
    solver = probe(scheduler, count)
    return sample(lambda x, i: wobble(x, i)[None], solver, given_noise(count, seed), prediction_type=prediction_type)


def assert_same(got: Tensor, expected: Tensor) -> None:
    # Single precision, and up to 50 calls whose predictions feed back: 1e-4 of the largest entry. A wrong
    # coefficient shows as 1e-2 and more.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("name", BUILDERS)
def test_sampling_equals_the_loop_of_diffusers(name: str, prediction_type: str) -> None:
    for count in COUNTS:
        scheduler = BUILDERS[name]({"prediction_type": prediction_type})
        expected = own_loop(scheduler, count, wobble)
        assert_same(ours(scheduler, count, prediction_type), expected)


@pytest.mark.parametrize("name", [*OURS, "ddim-eta=1.0", "dpm_solver-stochastic=True"])
def test_sampling_over_many_timesteps_equals_the_loop_of_diffusers(name: str) -> None:
    """Also over all of training's: DEIS's last call then moves nothing."""
    for count in (20, 200):
        scheduler = BUILDERS[name]({})
        assert_same(ours(scheduler, count, "sample"), own_loop(scheduler, count, wobble))


def test_ddim_with_all_the_noise_is_ddpm() -> None:
    """The same variances by two formulas of diffusers."""
    for count in (10, 200):
        ancestral, full = probe(ddpm(), count), probe(ddim(eta=1.0), count)
        assert full.timesteps == ancestral.timesteps
        assert full.c == pytest.approx(ancestral.c, abs=1e-4)
        for i in range(count):
            assert full.a[i] == pytest.approx(ancestral.a[i], abs=1e-4)
            assert full.b[i] == pytest.approx(ancestral.b[i], abs=1e-4)


def test_a_number_that_diffusers_cannot_space() -> None:
    message = "scheduler DDPMScheduler cannot be used with 199 sampling timesteps: it makes 200 calls. Take another"
    with pytest.raises(ValueError, match=rf"^{message} number\.$"):
        probe(ddpm(), 199)


@pytest.mark.parametrize("name", BUILDERS)
def test_probing_leaves_the_scheduler_as_it_was(name: str) -> None:
    scheduler = BUILDERS[name]({})
    before = (dict(scheduler.config), scheduler.timesteps.clone(), getattr(scheduler, "step_index", None))
    probe(scheduler, 8)
    assert dict(scheduler.config) == before[0]
    assert torch.equal(scheduler.timesteps, before[1])
    assert getattr(scheduler, "step_index", None) == before[2]


def test_a_scheduler_that_misses_its_own_grid_is_refused() -> None:
    scheduler = DDIMScheduler.from_config(ddpm().config)
    message = (
        "scheduler DDIMScheduler with 60 sampling timesteps steps to other noise levels than those it visits; "
        "take a number that divides the 200 timesteps of training"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        probe(scheduler, 60)
    for count in (8, 40, 50, 200):
        assert len(probe(scheduler, count)) == count


@pytest.mark.parametrize("name", BUILDERS)
def test_solver_stays_on_the_variance_preserving_process(name: str) -> None:
    for count in COUNTS:
        solver = probe(BUILDERS[name]({}), count)
        assert len(solver.timesteps) == len(solver) == count
        for alpha, sigma in zip(solver.alpha, solver.sigma, strict=True):
            assert alpha**2 + sigma**2 == pytest.approx(1, abs=1e-5)
        assert list(solver.sigma) == sorted(solver.sigma, reverse=True)
        # Sampling begins where training ends, or x_K would not be what the backbone knows.
        assert solver.alpha[0] ** 2 == pytest.approx(math.exp(-5.05), rel=1e-4)
        assert solver.timesteps[0] == 199
        assert solver.c[-1] == 0  # no noise on the result


@pytest.mark.parametrize("name", BUILDERS)
def test_a_constant_estimate_moves_x_along_the_process(name: str) -> None:
    """If every estimate is the same x0, the mean of x is alpha x0 after every call, whatever the order."""
    for count in COUNTS:
        solver = probe(BUILDERS[name]({}), count)
        end = (1 - vp_betas(200)[0]) ** 0.5 if name.lower().startswith("deis") else 1.0
        for i, alpha in enumerate([*solver.alpha[1:], end]):
            x = sum(weight * solver.alpha[i - m] for m, weight in enumerate(solver.a[i]))
            assert x + sum(solver.b[i]) == pytest.approx(alpha, abs=2e-5)


@pytest.mark.parametrize("name", [n for n in dir(diffusers.schedulers) if n.endswith("Scheduler")])
@pytest.mark.filterwarnings("ignore")
def test_any_scheduler_of_diffusers_is_sampled_rightly_or_refused(name: str) -> None:
    """Over 1000 timesteps, where SASolver's noise, for one, is used twice."""
    kind = getattr(diffusers.schedulers, name)
    if not issubclass(kind, SchedulerMixin):
        pytest.skip("needs a package that is not installed")
    try:
        scheduler = kind.from_config(ddpm(num_train_timesteps=1000).config)
    except TypeError as error:
        pytest.skip(f"not made from a planner's configuration: {error}")
    refusal = ""
    try:
        probe(scheduler, 10)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith(f"scheduler {name} cannot be used with 10 sampling timesteps: ")
        assert refusal.endswith(". DDPM, DDIM, DEIS, UniPC and DPMSolverMultistep can.")
        assert name not in {kind.__name__ for kind, _ in SWAPPED.values()} | {"DDPMScheduler"}
    else:
        assert_same(ours(scheduler, 10, "sample"), own_loop(scheduler, 10, wobble))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("EulerDiscreteScheduler", "it rescales x"),
        ("HeunDiscreteScheduler", "it rescales x"),
        ("PNDMScheduler", "it makes 19 calls"),
        ("DPMSolverMultistepInverseScheduler", "it adds noise instead of removing it"),
        (
            "FlowMatchEulerDiscreteScheduler",
            "'FlowMatchEulerDiscreteScheduler' object has no attribute 'scale_model_input'",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_refused_schedulers(name: str, reason: str) -> None:
    scheduler = getattr(diffusers, name).from_config(ddpm().config)
    message = (
        f"scheduler {name} cannot be used with 10 sampling timesteps: {reason}. "
        "DDPM, DDIM, DEIS, UniPC and DPMSolverMultistep can."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        probe(scheduler, 10)


@pytest.mark.parametrize("count", [-1, 0, 201])
@pytest.mark.parametrize("build", [ddpm, dpm_solver])
def test_number_of_sampling_timesteps_out_of_range(build: Callable[[], Any], count: int) -> None:
    message = f"num_inference_steps: must be between 1 and the 200 timesteps of training, got {count}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        probe(build(), count)


@pytest.mark.parametrize("build", [ddpm, dpm_solver])
def test_all_timesteps_of_training_can_be_sampled(build: Callable[..., Any]) -> None:
    solver = probe(build(num_train_timesteps=20), 20)
    assert len(solver) == 20
    assert solver.timesteps[0] == 19
    assert solver.timesteps[-1] == 0
