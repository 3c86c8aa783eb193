"""The one training loss, the one sampling loop of the library, and the probability of what that loop did.

Shapes: B batch, H horizon, D channels of the diffused element, S sampling timesteps, G guidance branches, T of the S
calls, the last ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from mtdiff.schedulers.solver import Solver, x_0_of

Loss = Literal["mse", "huber"]

Predict = Callable[[Tensor, int], Tensor]
"""`predict(x, i)`: x of shape (B, H, D) at call `i` to predictions of shape (G, B, H, D).

G is 1, or 2 when guided: the conditional branch first, the unconditional one second.
"""

PredictAll = Callable[[Tensor, Tensor], Tensor]
"""`predict(x, i)`: x of shape (T B, H, D), all B samples at the first of T calls, then at the second ...; the number
of its call for each row, i (T B,); to predictions (T B, H, D)."""


class Denoiser(nn.Module):
    """A backbone and its conditioning as the one module that is trained."""

    def __init__(self, backbone: nn.Module, conditioning: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.conditioning = conditioning

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        fields: Mapping[str, Tensor],
        drop: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Predict from x (B, H, D) at `timestep` (B,) under the conditions in `fields`; returns (B, H, D)."""
        return self.backbone(x, timestep, self.conditioning(fields, drop))


def target_of(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, prediction_type: str) -> Tensor:
    """What the backbone should predict: x0, the noise, or the velocity alpha noise - sigma x0."""
    if prediction_type == "sample":
        return x0
    if prediction_type == "epsilon":
        return noise
    return alpha * noise - sigma * x0


def denoising_loss(
    denoiser: Callable[..., Tensor],
    scheduler: Any,
    *,
    x0: Tensor,
    weight: Tensor,
    fields: Mapping[str, Tensor],
    timestep: Tensor,
    noise: Tensor,
    drop: Mapping[str, Tensor] | None = None,
    loss: Loss = "mse",
) -> Tensor:
    """Weighted mean error of denoising (MTDiff eq. 10), one value per sample of the batch.

    Args:
        denoiser: called as `denoiser(x, timestep, fields, drop)`.
        scheduler: a diffusers scheduler; its `alphas_cumprod` and `prediction_type` define the process.
        x0: clean elements, (B, H, D), in model space.
        weight: loss weights, (B, H, D); 0 where x0 is padding.
        fields: conditions, batch first.
        timestep: diffusion timesteps in 0 .. K - 1, (B,).
        noise: standard normal, (B, H, D).
        drop: per role, a (B,) mask of samples whose condition is withheld.
        loss: of an error e: its square, "mse", or "huber": e^2 / 2 where |e| < 1 and |e| - 1/2 elsewhere.

    Returns:
        Losses of shape (B,). Padded entries count as zero error, so that the mean over any split of a batch
        is the mean over the whole.
    """
    cumulative = scheduler.alphas_cumprod.to(device=x0.device, dtype=x0.dtype)[timestep]
    alpha, sigma = cumulative.sqrt()[:, None, None], (1 - cumulative).sqrt()[:, None, None]
    prediction = denoiser(alpha * x0 + sigma * noise, timestep, fields, drop)
    target = target_of(x0, noise, alpha, sigma, scheduler.config.prediction_type)
    if loss == "huber":
        errors = smooth_l1_loss(prediction.float(), target, reduction="none")
    else:
        errors = (prediction.float() - target).square()
    return (weight * errors).mean(dim=(1, 2))


def draw_timesteps(size: int, timesteps: int, *, bias: float = 0.0, generator: torch.Generator) -> Tensor:
    """Draw timesteps of training, 0 .. K - 1, with a density that grows as (k / K)^bias.

    Args:
        size: how many.
        timesteps: K.
        bias: at least 0, where all are equally likely.
        generator: on the CPU.

    Returns:
        (size,), integers.
    """
    if not bias:
        return torch.randint(timesteps, (size,), generator=generator)
    # The quantiles of a density u^bias on [0, 1] are u^(1 / (bias + 1)).
    drawn = torch.rand(size, generator=generator, dtype=torch.float64) ** (1 / (bias + 1))
    return (drawn * timesteps).long().clamp_(max=timesteps - 1)


def draw_noise(shape: Sequence[int], generators: Sequence[torch.Generator | None], count: int) -> Tensor:
    """Draw `count` standard normal tensors for every sample from that sample's own generator; returned on the CPU.

    A sample's noise depends on its generator alone, never on which other samples share the batch.

    Args:
        shape: (H, D) of one sample.
        generators: one per sample, B of them; None draws from torch's global generator.
        count: how many tensors a sample needs: 1, or S + 1 for a stochastic scheduler.

    Returns:
        Noise of shape (count, B, H, D).
    """
    drawn = [
        torch.randn(count, *shape, generator=generator, device=generator.device if generator else "cpu").cpu()
        for generator in generators
    ]
    return torch.stack(drawn, dim=1)


def sample(
    predict: Predict,
    solver: Solver,
    noise: Tensor,
    *,
    prediction_type: str = "sample",
    guidance_scale: float = 1.0,
    bounds: Tensor | None = None,
    temperature: float = 1.0,
    initial_temperature: float | None = None,
    std_floor: float = 0.0,
    chain: bool = False,
) -> Tensor:
    """Turn noise into samples: S calls of `predict`, one weighted sum after each.

    At every call the prediction is turned into an estimate of x0, the branches are combined
    (x0_uncond + guidance_scale (x0_cond - x0_uncond), the classifier-free guidance of MTDiff section 3.2), and
    the estimate is clamped to `bounds`, whatever the backbone predicts and whichever scheduler is used.

    Args:
        predict: see `Predict`.
        solver: the coefficients of a scheduler, from `mtdiff.schedulers.probe`.
        noise: (1, B, H, D) for a deterministic solver, (S + 1, B, H, D) for a stochastic one; the first is x_K.
        prediction_type: "sample", "epsilon" or "v_prediction".
        guidance_scale: 1 trusts the conditional branch alone.
        bounds: lower and upper limits of every channel of x0, (D, 2), or None.
        temperature: factor on the variance of the noise of every call (0.5 in the paper).
        initial_temperature: factor on the variance of x_K; by default `temperature`.
        std_floor: least standard deviation of the noise of every call, the last one included, which DDPM leaves
            without any. Above 0 it needs as much noise as a stochastic solver.
        chain: return every x, not the last alone: what `log_prob` can weigh.

    Returns:
        x_0 of shape (B, H, D), or the chain x_K ... x_0 of shape (S + 1, B, H, D).
    """
    stds = deviations(solver, temperature, std_floor)
    if any(stds) and len(noise) < len(solver) + 1:
        kind = "scheduler" if solver.stochastic else "sampler"
        raise ValueError(f"noise: a stochastic {kind} needs {len(solver) + 1} tensors, got {len(noise)}")
    spread = temperature**0.5
    x = noise[0] * (spread if initial_temperature is None else initial_temperature**0.5)
    xs, x0s = [x], []
    for i in range(len(solver)):
        estimates = solver.to_x0(predict(x, i).float(), x, i, prediction_type)
        x0 = estimates[0]
        if len(estimates) == 2:
            x0 = estimates[1] + guidance_scale * (x0 - estimates[1])
        if bounds is not None:
            x0 = torch.clamp(x0, bounds[:, 0], bounds[:, 1])
        x0s.append(x0)
        x = solver.combine(i, xs, x0s)
        if stds[i]:
            x = x + stds[i] * noise[i + 1]
        xs.append(x)
    return torch.stack(xs) if chain else x


def deviations(solver: Solver, temperature: float = 1.0, std_floor: float = 0.0) -> list[float]:
    """Standard deviation of the fresh noise of every call, S numbers."""
    return [max(value * temperature**0.5, std_floor) for value in solver.c]


class Transitions(NamedTuple):
    """The Gaussians that the last T calls drew from: mean (T, B, H, D) and standard deviation (T,)."""

    mean: Tensor
    std: Tensor

    def log_prob(self, chain: Tensor) -> Tensor:
        """Log-probability (T, B) of what a chain (S + 1, B, H, D) drew from them, summed over H and D."""
        std = self.std[:, None, None, None]
        deviation = (chain[-len(self.mean) :] - self.mean) / std
        return -(0.5 * deviation.square() + std.log() + 0.5 * math.log(2 * math.pi)).sum(dim=(-2, -1))

    def divergence(self, other: Transitions) -> Tensor:
        """Kullback-Leibler divergence (T, B) from `other`, whose standard deviations are the same."""
        deviation = (self.mean - other.mean) / self.std[:, None, None, None]
        return 0.5 * deviation.square().sum(dim=(-2, -1))


def transitions(
    predict: PredictAll,
    solver: Solver,
    chain: Tensor,
    *,
    last: int | None = None,
    prediction_type: str = "sample",
    bounds: Tensor | None = None,
    temperature: float = 1.0,
    std_floor: float = 0.0,
) -> Transitions:
    """Find what the last calls of a recorded chain drew from, under the weights of now: one call of `predict` for all.

    The estimates of x0 are clamped and combined, and the noise is scaled, just as `sample` does, without guidance.

    Args:
        predict: see `PredictAll`.
        solver: as in `sample`, likewise `prediction_type`, `bounds`, `temperature` and `std_floor`.
        chain: what `sample(..., chain=True)` returned, (S + 1, B, H, D).
        last: T, how many calls, 1 to S; all by default.
        prediction_type: see `solver`.
        bounds: see `solver`.
        temperature: see `solver`.
        std_floor: see `solver`.

    Raises:
        ValueError: T is out of range, or a call draws no noise, so that what it did has no density.
    """
    count = len(solver)
    last = count if last is None else last
    if not 1 <= last <= count:
        raise ValueError(f"last: must be between 1 and the {count} sampling timesteps, got {last}")
    stds = deviations(solver, temperature, std_floor)[-last:]
    if min(stds) <= 0:
        raise ValueError(
            f"std_floor: must be above 0, because call {count - last + stds.index(min(stds)) + 1} of {count} draws "
            f"no noise, got {std_floor}"
        )
    a, b = (weights[-last:].to(chain) for weights in solver.matrices)
    first = int((b != 0).any(0).nonzero()[0])  # a solver of higher order looks back at earlier estimates
    calls = torch.arange(first, count, device=chain.device)
    x = chain[first:-1]
    told = calls.repeat_interleave(x.shape[1])
    alpha, sigma = (torch.tensor(v, device=x.device)[calls, None, None, None] for v in (solver.alpha, solver.sigma))
    prediction = predict(x.flatten(0, 1), told).float().view_as(x)
    x0 = x_0_of(prediction, x, alpha, sigma, prediction_type)
    if bounds is not None:
        x0 = torch.clamp(x0, bounds[:, 0], bounds[:, 1])
    mean = torch.tensordot(a, chain[:-1], dims=1) + torch.tensordot(b[:, first:], x0, dims=1)
    return Transitions(mean, torch.tensor(stds, device=chain.device))


def log_prob(predict: PredictAll, solver: Solver, chain: Tensor, **options: Any) -> Tensor:
    """Log-probability (T, B) of each of the last T calls of a chain under the weights of now; see `transitions`."""
    return transitions(predict, solver, chain, **options).log_prob(chain)
