"""Planning as one writes it first: what `plan.py` compares mtdiff with.

Nothing is kept from one call of the network to the next, the conditional and the unconditional branch are two calls,
every token passes every layer, the whole horizon is denoised, Mish is torch's own, and the formulas are those of DDPM
(Ho et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, mish, scaled_dot_product_attention

from mtdiff.diffusion import Denoiser
from mtdiff.pipelines import PlannerPipeline


class NaivePlanner:
    """The network of a pipeline, read layer by layer, in a plain loop over DDPM's timesteps.

    Args:
        pipeline: a gpt2 planner over a prompt ("task"), a return ("return") and a history ("history").
        guidance_scale: of the conditional over the unconditional prediction.
        temperature: factor on the variance of all noise.
    """

    def __init__(self, pipeline: PlannerPipeline, *, guidance_scale: float, temperature: float):
        self.network_parts = Denoiser(pipeline.backbone, pipeline.conditioning).eval()
        self.bounds = pipeline.representation.bounds
        self.guidance_scale, self.temperature = guidance_scale, temperature
        betas = torch.tensor(pipeline.scheduler.config.trained_betas, dtype=torch.float64)
        cumulative = torch.cumprod(1 - betas, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), cumulative[:-1]])
        self.of_x0 = (before.sqrt() * betas / (1 - cumulative)).tolist()
        self.of_x = ((1 - betas).sqrt() * (1 - before) / (1 - cumulative)).tolist()
        self.deviation = ((1 - before) / (1 - cumulative) * betas).sqrt().tolist()

    def __len__(self) -> int:
        """Diffusion timesteps."""
        return len(self.of_x)

    def network(self, x: Tensor, timestep: int, fields: Mapping[str, Tensor], withheld: bool) -> Tensor:
        """Estimate x0 from x (B, H, A); `withheld` hides the return."""
        drop = {"return": torch.ones(len(x), dtype=torch.bool)} if withheld else None
        return plain_network(self.network_parts, x, torch.full((len(x),), timestep), fields, drop)

    @torch.no_grad()
    def plan(self, fields: Mapping[str, Tensor], noise: Tensor, timesteps: int | None = None) -> Tensor:
        """Denoise for all timesteps, or for the first `timesteps` of them only, to be timed.

        Args:
            fields: conditions in model space, batch first.
            noise: standard normal (K + 1, B, H, A); the first is x_K.
        """
        x = self.temperature**0.5 * noise[0]
        for call, k in enumerate(list(reversed(range(len(self))))[:timesteps]):
            conditional, unconditional = (self.network(x, k, fields, withheld) for withheld in (False, True))
            x0 = unconditional + self.guidance_scale * (conditional - unconditional)
            x0 = torch.clamp(x0, self.bounds[:, 0], self.bounds[:, 1])
            x = self.of_x0[k] * x0 + self.of_x[k] * x
            if k:
                x = x + self.temperature**0.5 * self.deviation[k] * noise[call + 1]
        return x


def plain_network(
    denoiser: Denoiser,
    x: Tensor,
    timestep: Tensor,
    fields: Mapping[str, Tensor],
    drop: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """What a causal gpt2 predicts for x (B, H, A) at `timestep` (B,), every token passing every layer."""
    net = denoiser.backbone
    condition, embedded = denoiser.conditioning(fields, drop), net.timestep(timestep)[:, None]
    actions = net.embed(x.unflatten(1, (-1, net.granularity)).flatten(2))
    before = [embedded if name is None else condition.tokens[name] for name, _ in net.order]
    tokens = torch.cat([*before, actions], dim=1) * embedded
    if condition.added is not None:
        tokens = tokens + condition.added[:, None]
    tokens = net.drop(net.norm(tokens + net.positions))
    for block in net.blocks:
        heads = block.qkv(block.ln_1(tokens)).unflatten(-1, (3, block.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = block.dropout if block.training else 0.0
        mixed = scaled_dot_product_attention(*heads, is_causal=True, dropout_p=dropout)
        tokens = tokens + block.drop(block.attention_out(mixed.transpose(1, 2).flatten(2)))
        widen, act, narrow = block.mlp
        act = mish if net.config.activation == "mish" else act
        tokens = tokens + block.drop(narrow(act(widen(block.ln_2(tokens)))))
    out = net.head(net.final_norm(tokens)[:, -actions.shape[1] :])
    return out.unflatten(-1, (net.granularity, -1)).flatten(1, 2)


class DiT(nn.Module):
    """A bidirectional diffusion transformer (Peebles & Xie 2023) over actions, its condition one vector.

    Blocks are modulated by adaLN-zero; position and timestep are sines and cosines.

    Args:
        channels: A.
        horizon: H, one token per action.
        width: C.
        num_layers: blocks.
        num_heads: attention heads.
    """

    def __init__(self, *, channels: int, horizon: int, width: int = 256, num_layers: int = 6, num_heads: int = 4):
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.timestep = nn.Sequential(nn.Linear(width, width), nn.Mish(), nn.Linear(width, width))
        self.register_buffer("positions", _waves(torch.arange(horizon), width))
        self.blocks = nn.ModuleList(DiTBlock(width, num_heads) for _ in range(num_layers))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, channels)

    def forward(self, x: Tensor, timestep: Tensor, vector: Tensor) -> Tensor:
        """Predict for x (B, H, A) at `timestep` (B,) under the condition `vector` (B, C)."""
        vector = vector + self.timestep(_waves(timestep, vector.shape[1]))
        tokens = self.embed(x) + self.positions
        for block in self.blocks:
            tokens = block(tokens, vector)
        shift, scale = self.modulation(vector)[:, None].chunk(2, dim=-1)
        return self.head(_modulated(tokens, shift, scale))


class DiTBlock(nn.Module):
    """Attention and a feed-forward part, each scaled, shifted and gated by the condition."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, tokens: Tensor, vector: Tensor) -> Tensor:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulation(vector)[:, None].chunk(6, dim=-1)
        heads = self.qkv(_modulated(tokens, shift, scale)).unflatten(-1, (3, self.num_heads, -1))
        mixed = scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))
        tokens = tokens + gate * self.attention_out(mixed.transpose(1, 2).flatten(2))
        return tokens + gate_mlp * self.mlp(_modulated(tokens, shift_mlp, scale_mlp))


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return layer_norm(tokens, tokens.shape[-1:]) * (1 + scale) + shift


def _waves(values: Tensor, width: int) -> Tensor:
    rates = 10_000.0 ** -(torch.arange(width // 2) / (width // 2))
    angles = values[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
