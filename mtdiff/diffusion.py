"""The one training loss and the one sampling loop of the library.

Shapes: B batch, H horizon, D channels of the diffused element, S sampling timesteps, G guidance branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from mtdiff.schedulers.solver import Solver

Loss = Literal["mse", "huber"]

Predict = Callable[[Tensor, int], Tensor]
"""`predict(x, i)`: x of shape (B, H, D) at call `i` to predictions of shape (G, B, H, D).

G is 1, or 2 when guided: the conditional branch first, the unconditional one second.
"""


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

    Returns:
        x_0 of shape (B, H, D).
    """
    if solver.stochastic and len(noise) < len(solver) + 1:
        raise ValueError(f"noise: a stochastic scheduler needs {len(solver) + 1} tensors, got {len(noise)}")
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
        if solver.c[i]:
            x = x + solver.c[i] * spread * noise[i + 1]
        xs.append(x)
    return x
