"""Plans with what an episode shares kept, against the plain loop that computes everything every time."""

import copy
import re

import numpy as np
import pytest
import torch

from mtdiff.backbones import Backbone
from mtdiff.compose import compose
from mtdiff.diffusion import draw_noise, sample
from mtdiff.errors import DataError
from mtdiff.pipelines import PlannerAgent
from mtdiff.pipelines.fields import read_fields
from mtdiff.schedulers import ddpm, dpm_solver, probe

TASKS = ["reach-v3", "push-v3", "reach-v3"]
HISTORY = np.random.default_rng(3).normal(size=(3, 3, 5)).astype(np.float32)
GIVEN = {"prompt": TASKS, "history": HISTORY, "target_return": [0.3, 0.9, 0.5], "task": TASKS}


def generators():
    return [torch.Generator().manual_seed(seed) for seed in range(3)]


def plainly(pipe, steps, scale, bounds=None):
    """The whole horizon, one call for each branch and timestep, nothing kept: actions (B, H, A)."""
    fields, batch = read_fields(pipe, GIVEN)
    withheld = dict.fromkeys(pipe.conditioning.droppable, torch.ones(batch, dtype=torch.bool))
    told = [pipe.conditioning(fields)] + ([pipe.conditioning(fields, withheld)] if scale != 1.0 else [])
    solver = probe(pipe.scheduler, steps)

    def predict(x, i):
        timestep = torch.full((batch,), solver.timesteps[i])
        return torch.stack([pipe.backbone(x, timestep, condition) for condition in told])

    noise = draw_noise((8, 2), generators(), len(solver) + 1 if solver.stochastic else 1)
    kind = pipe.scheduler.config.prediction_type
    with torch.no_grad():
        return sample(
            predict, solver, noise, prediction_type=kind, guidance_scale=scale, bounds=bounds, temperature=0.5
        )


def kept(pipe, steps, scale, count, bounds=None, memory=None):
    """The same through the backbone's prefix, `count` actions of it."""
    solver, guided, branches = probe(pipe.scheduler, steps), scale != 1.0, 1 + (scale != 1.0)
    noise = draw_noise((8, 2), generators(), len(solver) + 1 if solver.stochastic else 1)
    kind = pipe.scheduler.config.prediction_type
    with torch.inference_mode():
        fields, batch = read_fields(pipe, GIVEN)
        lasting = pipe.conditioning.branches(fields, guided=guided, lifetime="episode")
        entries = pipe._entries(count)
        prefix = pipe.backbone.prefix(lasting, solver.timesteps, branches, batch=batch, room=entries, memory=memory)
        if memory is not None:
            assert prefix.nbytes <= max(memory, lasting.nbytes)
        fresh = pipe.conditioning.branches(fields, guided=guided, lifetime="plan")
        for _ in range(2):  # a prefix serves many plans
            x = sample(
                pipe.backbone.prepare(fresh, solver.timesteps, branches, prefix), solver, noise[:, :, :entries],
                prediction_type=kind, guidance_scale=scale, bounds=bounds, temperature=0.5,
            )  # fmt: skip
        return x[:, :count]


SOLVERS = {"ddpm": (ddpm(num_train_timesteps=50), 50), "dpm_solver": (dpm_solver(num_train_timesteps=50), 5)}
BACKBONES = [
    {},
    {"token_order": "released_code", "linear_ends": True},
    {"attention": "bidirectional"},
    {"actions_per_token": 1},
]


@pytest.fixture
def build(values, dataset, prompts):
    def make(**backbone):
        values["backbone"].update(backbone, num_layers=2)
        pipe = compose(values, dataset, prompts)[0]
        for parameter in pipe.backbone.blocks.parameters():
            if parameter.ndim == 2:
                parameter.data *= 10
        pipe.backbone.head[-1].weight.data *= 8
        return pipe

    return make


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("scale", [1.0, 1.4])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda b: next(iter(b), "default"))
def test_the_same_samples_as_the_plain_loop(build, backbone, solver, scale, count):
    pipe = build(**backbone)
    pipe.scheduler, steps = SOLVERS[solver]
    bounds = pipe.representation.bounds
    expected = plainly(pipe, steps, scale, bounds)
    torch.testing.assert_close(kept(pipe, steps, scale, count, bounds), expected[:, :count], rtol=0, atol=1e-5)
    # Where the clamp does not hide an error either.
    wide = plainly(pipe, steps, scale)
    assert wide.abs().max() > 1
    torch.testing.assert_close(kept(pipe, steps, scale, count), wide[:, :count], rtol=1e-4, atol=1e-5)
    actions = pipe(**GIVEN, num_inference_steps=steps, guidance_scale=scale, num_actions=count, generator=generators())
    torch.testing.assert_close(actions.actions, expected[:, :count], rtol=0, atol=1e-5)


@pytest.mark.parametrize("memory", [0, 4_000, 40_000])
def test_what_does_not_fit_into_memory_is_computed_again(build, memory):
    pipe = build()
    pipe.scheduler, steps = SOLVERS["ddpm"]
    whole, part = kept(pipe, steps, 1.4, 2), kept(pipe, steps, 1.4, 2, memory=memory)
    torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)


def test_a_call_with_a_prefix_is_the_call_without(build):
    pipe = build()
    told = {key: GIVEN[key] for key in ("prompt", "target_return")}
    prefix = pipe.prefix(**told, num_inference_steps=5, guidance_scale=1.3, num_actions=4)
    assert (prefix.batch, prefix.num_actions) == (3, 4)
    whole = pipe(**told, history=HISTORY, num_inference_steps=5, guidance_scale=1.3, generator=generators()).actions
    for count in (None, 2):
        got = pipe(prefix=prefix, history=HISTORY, num_actions=count, generator=generators()).actions
        torch.testing.assert_close(got, whole[:, : count or 4], rtol=0, atol=1e-5)
    rows = torch.tensor([2, 0, 0])
    got = pipe(prefix=prefix.rows(rows), history=HISTORY[rows], generator=[generators()[i] for i in rows]).actions
    torch.testing.assert_close(got, whole[rows, :4], rtol=0, atol=1e-5)
    assert got.requires_grad is False and not got.is_inference()


def test_memory_is_that_of_keys_and_values(build):
    pipe = build()
    short, long = (pipe.prefix(prompt=TASKS, num_inference_steps=s, num_actions=2, guidance_scale=1.3) for s in (2, 4))
    layers, samples, tokens, width = 2, 2 * 3, 4 + 1 + 1 + 3 + 1, 16  # prompt, timestep, return, history, actions
    assert long.nbytes - short.nbytes == 2 * layers * 2 * samples * tokens * width * 4
    assert pipe.prefix(prompt=TASKS, guidance_scale=1.3, memory=0).nbytes < short.nbytes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "reach-v3"}, "prompt: is part of the prefix; give it to `pipe.prefix(...)` instead"),
        ({"target_return": 1.0}, "target_return: is part of the prefix; give it to `pipe.prefix(...)` instead"),
        ({"num_inference_steps": 7}, "num_inference_steps: this prefix was made for 4, got 7"),
        ({"guidance_scale": 2.0}, "guidance_scale: this prefix was made for 1.0, got 2.0"),
        ({"num_actions": 5}, "num_actions: this prefix was made for at most 4, got 5"),
        (
            {"generator": generators()[:2]},
            "generator: need one, or one for each of the 3 samples, got 2",
        ),
    ],
)
def test_what_contradicts_a_prefix(build, changes, message):
    pipe = build()
    prefix = pipe.prefix(prompt=TASKS, num_actions=4)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pipe(prefix=prefix, history=HISTORY, **changes)


def test_a_prefix_of_another_scheduler_or_batch(build):
    pipe = build()
    prefix = pipe.prefix(prompt=TASKS, num_actions=4)
    with pytest.raises(DataError, match=r"batch sizes must be equal or 1, got \{'history': 2, 'prefix': 3\}"):
        pipe(prefix=prefix, history=HISTORY[:2])
    pipe.scheduler = ddpm(num_train_timesteps=50)
    with pytest.raises(ValueError, match="prefix: was made for other sampling timesteps; make it again after"):
        pipe(prefix=prefix, history=HISTORY)


def episode(pipe, policy="episode", slots=range(3), steps=6, **options):
    """Actions by (step, slot) of an agent whose last slot leaves half-way."""
    pipe.register_to_config(prompt_policy=policy)
    agent = PlannerAgent(pipe, execute=2, guidance_scale=1.3, **options)
    agent.reset(TASKS, [5, 6, 7])
    actions = {}
    for step in range(steps):
        live = np.array([slot for slot in slots if slot < 2 or step < 3])
        for slot, action in zip(live, agent.act(HISTORY[live, step % 3], live), strict=True):
            actions[step, int(slot)] = action
    return agent, actions


@pytest.mark.parametrize(("policy", "like"), [("pool", "every_plan"), ("episode", "episode")])
def test_an_agent_plans_the_same_whatever_it_keeps(build, policy, like):
    pipe = build()
    agent, actions = episode(pipe, policy)
    _, expected = episode(pipe, like, prefix_memory=0)
    assert actions.keys() == expected.keys()
    for key, action in actions.items():
        np.testing.assert_allclose(action, expected[key], atol=1e-5)
    assert agent.prefix_bytes > 10_000
    assert [count for count, _ in agent.prefix_seconds] == [6 if policy == "pool" else 3]


def test_policies_draw_as_they_say(build):
    pipe = build()
    kept_one, redrawn = (episode(pipe, policy)[1] for policy in ("episode", "every_plan"))
    assert any(not np.allclose(kept_one[key], redrawn[key], atol=1e-4) for key in redrawn)


def test_slots_that_plan_at_different_times_keep_what_is_theirs(build):
    pipe = build()
    agent = PlannerAgent(pipe, execute=2)
    agent.reset(TASKS, [5, 6, 7])
    turns = [[0, 1, 2], [0], [0], [1, 2], [0], [0], [1, 2], [0, 1, 2]]
    got = [agent.act(HISTORY[slots, 0], np.array(slots)) for slots in turns]
    alone = PlannerAgent(pipe, execute=2)
    alone.reset(TASKS, [5, 6, 7])
    own = [alone.act(HISTORY[[0], 0], np.array([0]))[0] for slots in turns if 0 in slots]
    np.testing.assert_allclose(
        np.stack([a[0] for a, slots in zip(got, turns, strict=True) if 0 in slots]), own, atol=1e-5
    )
    assert len(agent.prefix_seconds) <= 3


def test_a_pipeline_keeps_nothing_between_calls(build):
    pipe = build()
    before = set(vars(pipe)) | set(vars(pipe.backbone))
    first = pipe(**GIVEN, generator=generators()).actions
    assert set(vars(pipe)) | set(vars(pipe.backbone)) == before
    for parameter in pipe.backbone.parameters():
        parameter.data *= 1.05
    changed = pipe(**GIVEN, generator=generators()).actions
    assert not torch.allclose(first, changed, atol=1e-4)
    torch.testing.assert_close(changed, plainly(pipe, 4, 1.0, pipe.representation.bounds), rtol=0, atol=1e-5)


def test_a_planner_told_by_number(values, dataset):
    values["conditioning"]["task"] = {"name": "one_hot", "dropout": 0.2}
    pipe = compose(values, dataset, None)[0]
    assert len(pipe.prompts) == 0
    pipe.backbone.blocks[0].qkv.weight.data *= 10
    agent = PlannerAgent(pipe, execute=8, guidance_scale=1.3)
    assert agent.prompted
    for tasks in (TASKS, TASKS[::-1]):
        agent.reset(tasks, [5, 6, 7])
        got = agent.act(HISTORY[:, 0], np.arange(3))
        for slot, task in enumerate(tasks):
            plan = pipe(
                task=task, history=HISTORY[slot, :1], guidance_scale=1.3,
                generator=torch.Generator().manual_seed(5 + slot),
            )  # fmt: skip
            np.testing.assert_allclose(got[slot], plan.actions[0, 0].numpy(), atol=1e-5)
    with pytest.raises(DataError) as error:
        pipe(task="reech-v3", history=HISTORY[0])
    known = ", ".join(dataset.tasks)
    assert str(error.value) == f"task: unknown task 'reech-v3'. Allowed: {known}. Did you mean 'reach-v3'?"
    with pytest.raises(DataError, match="task: this planner was trained with it, so a plan needs it; got nothing"):
        pipe(history=HISTORY[0])


def test_every_backbone_can_share_what_was_encoded(values, dataset, prompts):
    values["backbone"] = {"name": "residual_mlp", "width": 16, "num_layers": 1}
    pipe = compose(values, dataset, prompts)[0]
    for parameter in pipe.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert type(pipe.backbone).prefix is Backbone.prefix
    told = copy.copy(GIVEN)
    told.pop("task")
    plan = pipe(**told, guidance_scale=1.3, generator=generators()).actions
    prefix = pipe.prefix(prompt=TASKS, target_return=GIVEN["target_return"], guidance_scale=1.3)
    again = pipe(prefix=prefix, history=HISTORY, generator=generators()).actions
    torch.testing.assert_close(again, plan)
