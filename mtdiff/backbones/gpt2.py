"""MTDiff's denoiser: a GPT-2 stack over prompt, timestep, return, history and noisy x (fig. 3, appendix A)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mtdiff.activations import ACTIVATIONS, Activation
from mtdiff.backbones.backbone import Backbone, Prefix, TimestepEmbedding, role_list
from mtdiff.backbones.gpt2_pieces import SplitEmbedding, SplitHead
from mtdiff.backbones.gpt2_prefix import Decoder, KeyValuePrefix, compute_prefix
from mtdiff.conditioning.encoder import Condition, Role, mlp
from mtdiff.diffusion import Predict
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

    def extend(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        start: int,
        mask: Tensor | None,
        packed: tuple[Tensor, Tensor],
        *,
        read: bool,
    ) -> Tensor | None:
        """Mix n tokens that follow `start` others, whose keys and values are known, and note those of the new ones.

        Args:
            x: (B, n, C).
            keys: (B, heads, N, C / heads), of which the first `start` are filled; the next n are written.
            values: likewise.
            start: how many tokens come before.
            mask: (n, start + n), true where a token may look; None for a single token.
            packed: what `packed` returned.
            read: whether the result is wanted, and not only the keys and values.
        """
        qkv, widen = packed
        batch, count, width = x.shape
        stop, skip = start + count, 0 if read else width  # whoever reads nothing needs no queries
        projected = nn.functional.linear(self.ln_1(x), qkv[skip:], self.qkv.bias[skip:])
        heads = projected.view(batch, count, -1, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        keys[:, :, start:stop], values[:, :, start:stop] = heads[-2], heads[-1]
        if not read:
            return None
        mixed = scaled_dot_product_attention(heads[0], keys[:, :, :stop], values[:, :, :stop], attn_mask=mask)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, count, width))
        first, activation, second = self.mlp
        assert isinstance(first, nn.Linear)
        return x + second(activation(nn.functional.linear(self.ln_2(x), widen, first.bias)))

    def packed(self) -> tuple[Tensor, Tensor]:
        """The weights of the two widening layers, laid out for few rows: a CPU multiplies 2 to 3 times as fast."""
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        return self.qkv.weight.t().contiguous().t(), first.weight.t().contiguous().t()

    def _project(self, x: Tensor, rows: int) -> Iterable[Tensor]:
        """Keys and values of all rows, queries of the last ones."""
        if rows == x.shape[1]:
            return self.qkv(x).chunk(3, dim=-1)
        width = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        query = nn.functional.linear(x[:, -rows:], weight[:width], bias[:width])
        return query, *nn.functional.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)


@BACKBONES.register("gpt2", runtime=("channels", "horizon", "roles", "pieces"))
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
        attention: "causal": an entry of x sees those before it (the paper, "decoder-only"); "bidirectional": all
            of x. Only with causal attention do plans cost what is executed of them, and prompts once an episode.
        token_order: of the conditions' tokens: the "paper"'s prompt, timestep, return, history, or the
            "released_code"'s, in which timestep and return come first.
        linear_ends: embed x and read the result with one linear layer each, as the released code does.
        actions_per_token: consecutive entries of x that share one token; more is cheaper. The horizon must be
            a multiple of it. 1 in the paper.
        split_tokens: give each piece of an entry of x, such as state, action and reward, a token of its own, as the
            released code does for transitions.
        channels: D, from the representation.
        horizon: H, from the representation.
        roles: the conditions, from the conditioning.
        pieces: what an entry of x is made of, from the representation: name to width.

    Attributes:
        order: the roles (None: the timestep) in the order of their tokens, with the number of tokens of each.
        leading: how many of them stay the same for a whole episode; they come first.
        lead: tokens of those.
        following: tokens of the others.
    """

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
        attention: Literal["causal", "bidirectional"] = "causal",
        token_order: Literal["paper", "released_code"] = "paper",
        linear_ends: bool = False,
        actions_per_token: int = 1,
        split_tokens: bool = False,
        channels: int,
        horizon: int,
        roles: Sequence[Role | Mapping[str, Any]],
        pieces: Mapping[str, int] | Sequence[tuple[str, int]] | None = None,
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
        if split_tokens and actions_per_token > 1:
            raise ValueError(f"split_tokens: must be false where actions_per_token is not 1, got {actions_per_token}")
        self.granularity, self.causal = actions_per_token, attention == "causal"
        known = role_list(roles)
        self.order = order_tokens(known, token_order)
        lasting = {None, *(role.name for role in known if role.lifetime == "episode")}
        self.leading = sum(name in lasting for name, _ in self.order)
        self.lead = sum(count for _, count in self.order[: self.leading])
        self.following = sum(count for _, count in self.order[self.leading :])
        # A saved configuration must be plain JSON.
        pieces = dict(pieces or {"x": channels})
        # As pairs: a mapping would be sorted by name when it is saved.
        self.register_to_config(roles=[dict(vars(role)) for role in known], pieces=list(map(list, pieces.items())))
        inner = inner or 4 * width
        self.timestep = TimestepEmbedding(width, 2 * width)
        ends = [] if linear_ends else [width]
        self.embed: nn.Module = mlp([actions_per_token * channels, *ends, width])
        if split_tokens:
            self.embed = SplitEmbedding(pieces, [*ends, width])
        self.tokens_per_entry = len(pieces) if split_tokens else 1
        tokens = self.lead + self.following + self.count_tokens(horizon)
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, num_heads, inner, dropout, activation) for _ in range(num_layers))
        self.final_norm = nn.LayerNorm(width)
        self.head: nn.Module = mlp([width, *ends, actions_per_token * channels])
        if split_tokens:
            self.head = SplitHead(pieces, [width, *ends])
        # GPT-2's initial weights: the ends of residual branches are scaled down by the depth.
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                ends_branch = name.endswith(("attention_out", "mlp.2"))
                nn.init.normal_(module.weight, std=0.02 / (2 * num_layers) ** 0.5 if ends_branch else 0.02)
                nn.init.zeros_(module.bias)

    @property
    def stack(self) -> list[Block]:
        """The blocks, from the first to the last."""
        return list(self.blocks)  # type: ignore[arg-type]

    def packed(self) -> list[tuple[Tensor, Tensor]]:
        """`Block.packed` of all blocks."""
        return [block.packed() for block in self.stack]

    def forward(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        embedded = self.timestep(timestep)  # (B, C)
        grouped = x.unflatten(1, (-1, self.granularity)).flatten(2)  # (B, H / g, g D)
        pieces = [embedded[:, None] if name is None else condition.tokens[name] for name, _ in self.order]
        tokens = torch.cat([*pieces, self.embed(grouped)], dim=1)  # (B, N, C)
        tokens = self.enter(tokens, embedded[:, None], condition.added, start=0)
        for block in self.blocks[:-1]:
            tokens = block(tokens, self.causal)
        last = self.count_tokens(x.shape[1])
        return self.leave(self.blocks[-1](tokens, self.causal, last=last))  # nobody reads other rows

    def count_tokens(self, entries: int) -> int:
        """Tokens of `entries` entries of x."""
        return -(-entries // self.granularity) * self.tokens_per_entry

    def enter(self, pieces: Tensor, embedded: Tensor, added: Tensor | None, start: int) -> Tensor:
        """What the first block gets for tokens (..., n, C), of which the first has the place `start`.

        Args:
            pieces: embeddings h_P, h_T, h_R, h_H or h_A.
            embedded: h_T, broadcast over them.
            added: (B, C), or None.
            start: tokens before these.
        """
        tokens = pieces * embedded
        if added is not None:
            tokens = tokens + added[:, None]
        return self.drop(self.norm(tokens + self.positions[start : start + tokens.shape[-2]]))

    def leave(self, tokens: Tensor) -> Tensor:
        """Turn what the last block gives for x's tokens (B, n, C) into predictions (B, n g, D)."""
        return self.head(self.final_norm(tokens)).unflatten(-1, (self.granularity, -1)).flatten(1, 2)

    def prefix(
        self,
        condition: Condition,
        timesteps: Sequence[int],
        branches: int = 1,
        *,
        batch: int,
        room: int | None = None,
        memory: int | None = None,
    ) -> Prefix:
        if not self.causal:
            return super().prefix(condition, timesteps, branches, batch=batch)
        places = self.count_tokens(room or self.config.horizon)
        return compute_prefix(self, condition, timesteps, branches, batch=batch, room=places, memory=memory)

    def prepare(
        self, condition: Condition, timesteps: Sequence[int], branches: int = 1, prefix: Prefix | None = None
    ) -> Predict:
        if not self.causal:
            return super().prepare(condition, timesteps, branches, prefix)
        assert prefix is None or isinstance(prefix, KeyValuePrefix)
        return Decoder(self, condition, timesteps, branches, prefix)


def order_tokens(roles: Sequence[Role], order: str = "paper") -> list[tuple[str | None, int]]:
    """Order tokens: task, timestep (None), return, history in the paper, and x follows.

    What lasts an episode comes first, so that under causal attention it never has to be computed again.
    """
    episode = [role for role in roles if role.lifetime == "episode"]
    plan = [(role.name, role.num_tokens) for role in roles if role.lifetime == "plan"]
    plain = [(role.name, role.num_tokens) for role in episode if not role.added]
    added = [(role.name, role.num_tokens) for role in episode if role.added]
    timestep: list[tuple[str | None, int]] = [(None, 1)]
    return [*plain, *timestep, *added, *plan] if order == "paper" else [*timestep, *added, *plain, *plan]
