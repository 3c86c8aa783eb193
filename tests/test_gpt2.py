"""The GPT-2 denoiser: its block is GPT-2's, its tokens are the paper's."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from mtdiff.backbones import GPT2Backbone
from mtdiff.backbones.gpt2 import Block, order_tokens
from mtdiff.conditioning import Condition, Conditioning
from mtdiff.conditioning.encoder import Role

WIDTH, HEADS, LAYERS, HORIZON, CHANNELS = 16, 4, 2, 6, 3
TASK = Role(name="task", num_tokens=4, lifetime="episode")
RETURN = Role(name="return", num_tokens=1, lifetime="episode", added=True)
HISTORY = Role(name="history", num_tokens=2, lifetime="plan")
ROLES = [TASK, RETURN, HISTORY]


def scramble(module: nn.Module, seed: int = 0) -> None:
    """Give every parameter a value of its own, so that nothing hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def backbone(roles: list[Role] | None = None, **arguments: Any) -> GPT2Backbone:
    torch.manual_seed(0)
    model = GPT2Backbone(
        width=WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        channels=CHANNELS,
        horizon=HORIZON,
        roles=ROLES if roles is None else roles,
        **arguments,
    ).eval()
    scramble(model)
    return model


def condition(roles: list[Role], batch: int = 2, seed: int = 1) -> Condition:
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        role.name: torch.randn(batch, role.num_tokens, WIDTH, generator=generator)
        for role in sorted(roles, key=lambda role: role.name)
    }
    added = [drawn[role.name][:, 0] for role in roles if role.added]
    return Condition(tokens={role.name: drawn[role.name] for role in roles}, added=sum(added) if added else None)


def noisy(length: int = HORIZON, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, length, CHANNELS, generator=generator), torch.tensor([3, 150])[:batch]


@pytest.mark.parametrize("causal", [True, False])
def test_block_equals_gpt2s(causal: bool) -> None:
    config = GPT2Config(n_embd=WIDTH, n_head=HEADS, n_inner=40, activation_function="gelu_new")
    config._attn_implementation = "eager"
    theirs = GPT2Block(config, layer_idx=0).eval()
    scramble(theirs)
    ours = Block(WIDTH, HEADS, 40, 0.1, "gelu_new").eval()
    with torch.no_grad():
        for mine, other in (
            (ours.qkv, theirs.attn.c_attn),
            (ours.attention_out, theirs.attn.c_proj),
            (ours.mlp[0], theirs.mlp.c_fc),
            (ours.mlp[2], theirs.mlp.c_proj),
        ):
            mine.weight.copy_(other.weight.T)  # GPT-2's Conv1D keeps (inputs, outputs)
            mine.bias.copy_(other.bias)
        ours.ln_1.load_state_dict(theirs.ln_1.state_dict())
        ours.ln_2.load_state_dict(theirs.ln_2.state_dict())
    x = torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(0))
    hidden = torch.ones(7, 7).triu(1).bool() if causal else torch.zeros(7, 7).bool()
    mask = torch.zeros(1, 1, 7, 7).masked_fill(hidden, float("-inf"))
    with torch.no_grad():
        expected = theirs(x, attention_mask=mask)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(x, causal), expected, rtol=0, atol=1e-5)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def two_layers(x: Tensor, layers: nn.Sequential) -> Tensor:
    hidden = layers[0].weight @ x + layers[0].bias
    hidden = hidden * torch.tanh(torch.log1p(torch.exp(hidden)))  # Mish
    return layers[2].weight @ hidden + layers[2].bias


def slow_block(tokens: list[Tensor], block: Block) -> list[Tensor]:
    """One pre-norm block with causal attention, token by token and head by head."""
    size = WIDTH // HEADS
    projected = [block.qkv.weight @ layer_norm(token, block.ln_1) + block.qkv.bias for token in tokens]
    out = []
    for n, token in enumerate(tokens):
        heads = []
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            query = projected[n][:WIDTH][part]
            scores = torch.stack(
                [
                    query @ projected[m][WIDTH : 2 * WIDTH][part] / math.sqrt(size)
                    if m <= n
                    else torch.tensor(float("-inf"))
                    for m in range(len(tokens))
                ]
            )
            weights = torch.exp(scores - scores.max())
            weights = weights / weights.sum()
            heads.append(sum(weights[m] * projected[m][2 * WIDTH :][part] for m in range(len(tokens))))
        token = token + block.attention_out.weight @ torch.cat(heads) + block.attention_out.bias
        out.append(token + two_layers(layer_norm(token, block.ln_2), block.mlp))
    return out


def slow_forward(model: GPT2Backbone, x: Tensor, timestep: Tensor, given: Condition, group: int = 1) -> Tensor:
    """The paper's formula, written out: tokens = LN(h_T * [h_P, h_T, h_R, h_H, h_A] + h_R + E_pos)."""
    results = []
    for b in range(len(x)):
        angles = [float(timestep[b]) * 10_000 ** (-i / (WIDTH // 2 - 1)) for i in range(WIDTH // 2)]
        waves = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        h_t = two_layers(torch.tensor(waves), model.timestep.layers)
        row = {name: list(tokens[b]) for name, tokens in given.tokens.items()}
        h_a = [two_layers(x[b, i : i + group].reshape(-1), model.embed) for i in range(0, x.shape[1], group)]
        sequence = [*row.get("task", []), h_t, *row.get("return", []), *row.get("history", []), *h_a]
        tokens = []
        for n, token in enumerate(sequence):
            total = h_t * token + model.positions[n]
            if "return" in row:
                total = total + row["return"][0]
            tokens.append(layer_norm(total, model.norm))
        for block in model.blocks:
            tokens = slow_block(tokens, block)
        last = [two_layers(layer_norm(token, model.final_norm), model.head) for token in tokens[-len(h_a) :]]
        results.append(torch.cat([token.reshape(group, CHANNELS) for token in last]))
    return torch.stack(results)


@torch.no_grad()
@pytest.mark.parametrize("roles", [[], [TASK], [RETURN], [HISTORY], [TASK, HISTORY], ROLES])
def test_forward_equals_the_papers_formula(roles: list[Role]) -> None:
    model, given = backbone(roles), condition(roles)
    x, timestep = noisy()
    expected = slow_forward(model, x, timestep, given)
    torch.testing.assert_close(model(x, timestep, given), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("group", [2, 3, 6])
@pytest.mark.parametrize("groups", [1, None])
def test_grouped_actions_share_a_token(group: int, groups: int | None) -> None:
    model, given = backbone(actions_per_token=group), condition(ROLES)
    assert model.granularity == group
    assert len(model.positions) == 4 + 1 + 1 + 2 + HORIZON // group
    x, timestep = noisy(group * groups if groups else HORIZON)
    expected = slow_forward(model, x, timestep, given, group)
    torch.testing.assert_close(model(x, timestep, given), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("group", [1, 2])
def test_later_actions_do_not_reach_earlier_ones(group: int) -> None:
    model, given = backbone(actions_per_token=group), condition(ROLES)
    x, timestep = noisy()
    before = model(x, timestep, given)
    for at in range(HORIZON):
        changed = x.clone()
        changed[:, at] += 1.0
        reached = (model(changed, timestep, given) != before).any(-1).any(0).tolist()
        first = at // group * group
        assert reached == [n >= first for n in range(HORIZON)]


@torch.no_grad()
def test_token_order_is_the_papers_for_any_order_of_roles() -> None:
    x, timestep = noisy()
    expected = None
    for roles in itertools.permutations(ROLES):
        assert order_tokens(roles) == [("task", 4), (None, 1), ("return", 1), ("history", 2)]
        model, given = backbone(list(roles)), condition(list(roles))
        out = model(x, timestep, given)
        expected = out if expected is None else expected
        assert torch.equal(out, expected)


def test_order_keeps_what_lasts_an_episode_in_front() -> None:
    extra = [
        Role(name="goal", num_tokens=1, lifetime="plan"),
        Role(name="map", num_tokens=9, lifetime="episode"),
        *ROLES,
    ]
    assert order_tokens(extra) == [
        ("map", 9), ("task", 4), (None, 1), ("return", 1), ("goal", 1), ("history", 2),
    ]  # fmt: skip
    assert order_tokens([]) == [(None, 1)]


@torch.no_grad()
def test_every_condition_changes_the_plan_but_an_added_one_reaches_every_token() -> None:
    model, given = backbone(), condition(ROLES)
    x, timestep = noisy()
    before = model(x, timestep, given)
    for name in given.tokens:
        other = Condition(tokens={**given.tokens, name: given.tokens[name] + 1}, added=given.added)
        assert float((model(x, timestep, other) - before).abs().min()) > 0
    assert given.added is not None
    other = Condition(tokens=given.tokens, added=given.added + torch.randn(WIDTH))
    assert float((model(x, timestep, other) - before).abs().min()) > 0


def test_a_fresh_model() -> None:
    torch.manual_seed(0)
    model = GPT2Backbone(width=64, num_layers=3, num_heads=4, channels=CHANNELS, horizon=HORIZON, roles=ROLES)
    assert not model.positions.any()
    assert model.positions.shape == (4 + 1 + 1 + 2 + HORIZON, 64)
    for block in model.blocks:
        assert float(block.qkv.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
        for last in (block.attention_out, block.mlp[2]):
            assert float(last.weight.detach().std()) == pytest.approx(0.02 / 6**0.5, rel=0.1)
        assert not any(layer.bias.any() for layer in (block.qkv, block.attention_out, block.mlp[0], block.mlp[2]))


def test_size_of_the_papers_planner() -> None:
    """Six layers of width 256 on Meta-World, H = 32, J = 20, L = 2; about 7 M with the encoders."""
    conditioning = Conditioning(
        roles={
            "task": {"name": "trajectory_prompt", "length": 20},
            "history": {"name": "history", "length": 2},
            "return": {"name": "target_return"},
        },
        state_dim=39,
        action_dim=4,
        width=256,
    )
    model = GPT2Backbone(channels=4, horizon=32, roles=conditioning.roles)
    assert (model.config.width, model.config.num_layers, model.config.num_heads) == (256, 6, 4)
    assert model.config.dropout == 0.1
    assert model.config.activation == "mish"
    count = sum(p.numel() for part in (model, conditioning) for p in part.parameters())
    assert 6.5e6 < count < 7.5e6
    assert len(model.positions) == 20 + 1 + 1 + 2 + 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 30}, "width: must be a multiple of num_heads=4, got 30"),
        ({"width": 15, "num_heads": 3}, "width: must be even for a timestep embedding, got 15"),
        ({"num_heads": 0}, "num_heads: must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers: must be at least 1, got 0"),
        ({"inner": 0}, "inner: must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout: must be at least 0 and below 1, got 1.0"),
        ({"actions_per_token": 4}, "actions_per_token: must divide the horizon 6, got 4"),
        ({"actions_per_token": 0}, "actions_per_token: must divide the horizon 6, got 0"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GPT2Backbone(**arguments, channels=CHANNELS, horizon=HORIZON, roles=ROLES)
