"""MTDiff's denoiser: a GPT-2 stack over prompt, timestep, return, history and noisy x (fig. 3, appendix A)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mtdiff.backbones.backbone import Backbone, TimestepEmbedding, role_list
from mtdiff.conditioning.encoder import ACTIVATIONS, Activation, Condition, Role
from mtdiff.errors import at_least, fraction
from mtdiff.registry import BACKBONES


class Block(nn.Module):
    """A pre-norm GPT-2 block; with "gelu_new" and equal weights it equals transformers' `GPT2Block`."""

    def __init__(self, width: int, num_heads: int, inner: int, dropout: float, activation: str):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), ACTIVATIONS[activation](), nn.Linear(inner, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, causal: bool, last: int | None = None) -> Tensor:
        """Mix x (B, N, C); returns the `last` rows only, all by default, which costs less than cutting them off."""
        rows = x.shape[1] if last is None else last
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, C / heads)
            for part in self._project(self.ln_1(x), rows)
        )
        mask = None
        if causal and rows < x.shape[1]:
            mask = torch.ones(rows, x.shape[1], dtype=torch.bool, device=x.device).tril(x.shape[1] - rows)
        mixed = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal and mask is None,
        )
        x = x[:, -rows:] + self.drop(self.attention_out(mixed.transpose(1, 2).flatten(2)))
        return x + self.drop(self.mlp(self.ln_2(x)))

    def _project(self, x: Tensor, rows: int) -> Iterable[Tensor]:
        """Keys and values of all rows, queries of the last ones."""
        if rows == x.shape[1]:
            return self.qkv(x).chunk(3, dim=-1)
        width = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        query = nn.functional.linear(x[:, -rows:], weight[:width], bias[:width])
        return query, *nn.functional.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)


@BACKBONES.register("gpt2", runtime=("channels", "horizon", "roles"))
class GPT2Backbone(Backbone):
    """The paper's transformer: every token is multiplied by the timestep's embedding.

    tokens = LN(h_T * [h_P, h_T, h_R, h_H, h_A] + h_R + E_pos), where h_R is there only if a role is `added`;
    then GPT-2 blocks, and a two-layer head on the tokens of x. With causal attention the first actions do not
    depend on later ones.

    Args:
        width: C, embedding width; divisible by `num_heads`, even.
        num_layers: number of blocks.
        num_heads: attention heads.
        inner: hidden width of a block's feed-forward part; 4 `width` by default.
        dropout: of attention, residuals and embeddings, in training.
        activation: of the feed-forward parts; "mish" is the paper's, "gelu_new" GPT-2's own, "gelu" the cheapest.
        actions_per_token: consecutive entries of x that share one token; more is cheaper. The horizon must be
            a multiple of it. 1 in the paper.
        channels: D, from the representation.
        horizon: H, from the representation.
        roles: the conditions, from the conditioning.
    """

    causal = True

    @register_to_config
    def __init__(
        self,
        *,
        width: int = 256,
        num_layers: int = 6,
        num_heads: int = 4,
        inner: int | None = None,
        dropout: float = 0.1,
        activation: Activation = "mish",
        actions_per_token: int = 1,
        channels: int,
        horizon: int,
        roles: Sequence[Role | Mapping[str, Any]],
    ):
        super().__init__()
        at_least(1, width=width, num_layers=num_layers, num_heads=num_heads)
        fraction(dropout=dropout)
        if inner is not None:
            at_least(1, inner=inner)
        if width % num_heads:
            raise ValueError(f"width: must be a multiple of num_heads={num_heads}, got {width}")
        if actions_per_token < 1 or horizon % actions_per_token:
            raise ValueError(f"actions_per_token: must divide the horizon {horizon}, got {actions_per_token}")
        self.granularity = actions_per_token
        self.order = token_order(role_list(roles))
        # A saved configuration must be plain JSON.
        self.register_to_config(roles=[dict(vars(role)) for role in role_list(roles)])
        inner = inner or 4 * width
        self.timestep = TimestepEmbedding(width, 2 * width)
        self.embed = nn.Sequential(nn.Linear(actions_per_token * channels, width), nn.Mish(), nn.Linear(width, width))
        tokens = sum(count for _, count in self.order) + horizon // actions_per_token
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, num_heads, inner, dropout, activation) for _ in range(num_layers))
        self.final_norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.Mish(), nn.Linear(width, actions_per_token * channels))
        # GPT-2's initial weights: the ends of residual branches are scaled down by the depth.
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                ends_branch = name.endswith(("attention_out", "mlp.2"))
                nn.init.normal_(module.weight, std=0.02 / (2 * num_layers) ** 0.5 if ends_branch else 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        embedded = self.timestep(timestep)  # (B, C)
        grouped = x.unflatten(1, (-1, self.granularity)).flatten(2)  # (B, H / g, g D)
        pieces = [embedded[:, None] if name is None else condition.tokens[name] for name, _ in self.order]
        tokens = torch.cat([*pieces, self.embed(grouped)], dim=1) * embedded[:, None]  # (B, N, C)
        if condition.added is not None:
            tokens = tokens + condition.added[:, None]
        tokens = self.drop(self.norm(tokens + self.positions[: tokens.shape[1]]))
        for block in self.blocks[:-1]:
            tokens = block(tokens, self.causal)
        tokens = self.blocks[-1](tokens, self.causal, last=grouped.shape[1])  # nobody reads the other rows
        out = self.head(self.final_norm(tokens))  # (B, H / g, g D)
        return out.unflatten(-1, (self.granularity, -1)).flatten(1, 2)


def token_order(roles: Sequence[Role]) -> list[tuple[str | None, int]]:
    """Order tokens as the paper does: task, timestep (None), return, history; x follows.

    What lasts an episode comes first, so that under causal attention it never has to be computed again.
    """
    episode = [role for role in roles if role.lifetime == "episode"]
    plan = [role for role in roles if role.lifetime == "plan"]
    before = [(role.name, role.num_tokens) for role in episode if not role.added]
    after = [(role.name, role.num_tokens) for role in [*(role for role in episode if role.added), *plan]]
    return [*before, (None, 1), *after]
