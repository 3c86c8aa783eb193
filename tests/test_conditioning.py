"""The contract of condition encoders, for each in the registry and each of its choices."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from small_parts import (
    ACTION,
    BATCH,
    MODEL,
    SIZES,
    STATE,
    WIDTH,
    all_variants,
    build_conditioning,
    draw,
    scramble,
    small,
)
from torch.nn.functional import scaled_dot_product_attention

from mtdiff.activations import ACTIVATIONS
from mtdiff.conditioning import Conditioning, Encoder
from mtdiff.registry import CONDITIONING

every_encoder = pytest.mark.parametrize("spec", all_variants(CONDITIONING))


def only(conditioning: Conditioning) -> Encoder:
    return conditioning.encoder(conditioning.roles[0].name)


@torch.no_grad()
def test_pooling_is_attention_over_keys_and_values_of_all_steps() -> None:
    conditioning = build_conditioning({"name": "trajectory_prompt", "length": 5, "pool": 3, "hidden": [6]})
    scramble(conditioning)
    encoder, fields = only(conditioning), draw(conditioning)
    shown = torch.cat([fields["prompt_states"], fields["prompt_actions"]], dim=-1)
    steps = encoder.embed(encoder.norm(shown)) + encoder.order
    queries = encoder.queries.expand(BATCH, -1, -1)
    expected = scaled_dot_product_attention(queries, encoder.keys(steps), encoder.values(steps))
    torch.testing.assert_close(encoder(fields), expected)
    assert encoder.keys.bias.abs().min() > 0


@torch.no_grad()
@every_encoder
def test_encoder_gives_the_tokens_it_announces(spec: Any) -> None:
    conditioning = build_conditioning(spec)
    (role,), fields = conditioning.roles, draw(conditioning)
    condition = conditioning(fields)
    assert condition.tokens.keys() == {role.name}
    tokens = condition.tokens[role.name]
    assert tokens.shape == (BATCH, role.num_tokens, WIDTH)
    assert tokens.dtype == torch.float32
    assert role.lifetime in ("episode", "plan")
    if role.added:
        assert torch.equal(condition.added, tokens[:, 0])
    else:
        assert condition.added is None
    assert set(only(conditioning).reads) <= fields.keys()
    assert not (tokens == tokens[:1]).all()


@every_encoder
def test_every_parameter_of_an_encoder_learns(spec: Any) -> None:
    conditioning = build_conditioning(spec)
    tokens = only(conditioning)(draw(conditioning), torch.tensor([True, False, False, False]))
    (tokens * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, parameter in conditioning.named_parameters():
        assert parameter.grad is not None, name
        # A bias may have none by design: softmax does not feel one that all keys share.
        assert parameter.ndim < 2 or parameter.grad.any(), name


@torch.no_grad()
@every_encoder
def test_encoder_reads_no_more_than_it_says(spec: Any) -> None:
    conditioning = build_conditioning(spec)
    encoder, fields = only(conditioning), draw(conditioning)
    told = {name: fields[name] for name in encoder.reads}
    assert torch.equal(encoder(told), encoder(fields))
    for name in encoder.reads:
        changed = told | {name: told[name] + 0.5}
        # A layer norm does not feel a shift of everything; unequal changes it does.
        changed[name][..., 0] += 1.0
        assert not torch.equal(encoder(changed), encoder(told)), name


@torch.no_grad()
@every_encoder
def test_withheld_condition_is_the_null_token_and_nothing_else(spec: Any) -> None:
    conditioning = build_conditioning(spec)
    encoder, name = only(conditioning), conditioning.roles[0].name
    fields, others = draw(conditioning, seed=0), draw(conditioning, seed=1)
    drop = torch.tensor([True, False, True, False])
    tokens = encoder(fields, drop)
    assert torch.equal(tokens[drop], encoder.null.expand(2, encoder.num_tokens, WIDTH))
    assert torch.equal(tokens[~drop], encoder(fields)[~drop])
    assert not torch.equal(encoder(fields)[drop], tokens[drop])
    mixed = {
        key: torch.where(drop.view(-1, *[1] * (fields[key].ndim - 1)), others[key], fields[key])
        for key in encoder.reads
    }
    assert torch.equal(encoder(mixed, drop), tokens)
    assert torch.equal(conditioning(fields, {name: drop}).tokens[name], tokens)
    assert torch.equal(encoder(fields, torch.zeros(BATCH, dtype=torch.bool)), encoder(fields))


@every_encoder
def test_null_token_starts_at_zero_and_only_where_it_is_needed(spec: Any) -> None:
    part = CONDITIONING[spec["name"]]
    sizes = {key: value for key, value in SIZES.items() if key in part.runtime}
    assert not part.build({k: v for k, v in spec.items() if k != "name"} | {"dropout": 0.1}, **sizes).null.any()
    never = part.build({k: v for k, v in spec.items() if k != "name"} | {"dropout": 0.0}, **sizes)
    assert never.null is None
    assert not build_conditioning(spec, dropout=0.0).droppable
    assert list(build_conditioning(spec, dropout=0.1).droppable.values()) == [0.1]


@every_encoder
def test_withholding_what_was_never_withheld(spec: Any) -> None:
    conditioning = build_conditioning(spec, dropout=0.0)
    message = (
        f"{type(only(conditioning)).__name__} cannot be withheld: it was trained with dropout 0. "
        "Give it a dropout above 0, or sample with guidance_scale=1.0"
    )
    drop = {conditioning.roles[0].name: torch.ones(BATCH, dtype=torch.bool)}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        conditioning(draw(conditioning), drop)


@every_encoder
def test_missing_field(spec: Any) -> None:
    conditioning = build_conditioning(spec)
    encoder = only(conditioning)
    name, needs = type(encoder).__name__, ", ".join(encoder.reads)
    with pytest.raises(ValueError, match=f"^{name} needs {needs}; got nothing$"):
        encoder({})
    with pytest.raises(ValueError, match=f"^{name} needs {needs}; got a, b$"):
        encoder({"b": torch.zeros(1), "a": torch.zeros(1)})


def test_roles_that_ask_for_different_windows() -> None:
    roles = {"short": {"name": "history", "length": 2}, "long": {"name": "history", "length": 5}}
    with pytest.raises(ValueError, match=r"^conditioning.long: history is 5, another role has 2$"):
        Conditioning(roles=roles, **MODEL).window()


def test_several_added_roles_are_summed() -> None:
    spec = small(CONDITIONING["target_return"])
    conditioning = Conditioning(roles={"one": spec, "two": spec}, **MODEL)
    scramble(conditioning)
    condition = conditioning({"return": torch.rand(BATCH, 1)})
    expected = condition.tokens["one"][:, 0] + condition.tokens["two"][:, 0]
    torch.testing.assert_close(condition.added, expected)


def test_prompt_of_another_length() -> None:
    conditioning = build_conditioning(small(CONDITIONING["trajectory_prompt"]))
    fields = {"prompt_states": torch.zeros(1, 4, STATE), "prompt_actions": torch.zeros(1, 4, ACTION)}
    with pytest.raises(ValueError, match=r"^prompt: must have 3 steps, got 4$"):
        conditioning(fields)


@pytest.mark.parametrize("size", [8, 5000, 2**19])  # torch's own, one piece, three pieces
def test_mish_is_mish_with_and_without_gradients(size: int) -> None:
    act, mish = ACTIVATIONS["mish"](), torch.nn.functional.mish
    ends = torch.tensor([-1e4, -88.0, 0.0, 20.0, 88.0, 1e4])
    x = torch.cat([torch.linspace(-60, 60, size), ends]).view(2, -1).T  # not contiguous
    exact = x.double().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    (mish(exact) * weights).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(act(x).double(), mish(exact), rtol=1e-6, atol=1e-7)
        assert act(x.bfloat16()).dtype == torch.bfloat16
    leaf = x.clone().requires_grad_()
    found = act(leaf)
    torch.testing.assert_close(found.double(), mish(exact), rtol=1e-6, atol=1e-7)
    (found * weights).sum().backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)
