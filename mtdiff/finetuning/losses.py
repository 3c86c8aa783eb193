"""What fine-tuning minimises: PPO's clipped surrogate for every timestep, and regularisers beside it.

Shapes: T learnt timesteps, B plans.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 20.0  # of a log-ratio: far outside every clip, and its exponential is finite


def surrogate(log_prob: Tensor, before: Tensor, advantage: Tensor, clip: float) -> Tensor:
    r"""PPO's clipped objective, per timestep of the denoising (Schulman et al., 2017; SODP's L_Imp), to be minimised.

    max(-A rho, -A clip(rho, 1 - eps, 1 + eps)) with rho = p(a^{k-1} | a^k, s) / p_old(a^{k-1} | a^k, s).

    Args:
        log_prob: under the weights of now, (T, B).
        before: under the weights that drew them, (T, B).
        advantage: A, (B,), the same for all timesteps of a plan.
        clip: eps.

    Returns:
        (T, B).
    """
    ratio = (log_prob - before).clamp(-_LARGEST, _LARGEST).exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def clipped_share(log_prob: Tensor, before: Tensor, clip: float) -> Tensor:
    """Share of ratios that are outside the clip."""
    return ((log_prob - before).clamp(-_LARGEST, _LARGEST).exp() - 1).abs().gt(clip).float().mean()
