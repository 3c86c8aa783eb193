"""Decision transformers: who sees what, what is asked for, and that acting is what was trained."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conftest import TASKS
from small_parts import scramble

from mtdiff.compose import compose, windows
from mtdiff.errors import RecipeError
from mtdiff.hub import load
from mtdiff.pipelines import PolicyAgent
from mtdiff.policies.decision_transformer import first_steps, in_front
from mtdiff.recipe import load_recipe

SMALL = {"name": "decision_transformer", "width": 16, "num_layers": 2, "num_heads": 2, "length": 4, "dropout": 0.0}
PROMPT = {"name": "trajectory_prompt", "length": 4, "hidden": [12]}
KINDS = [
    {},
    {"tokens": "joint"},
    {"tokens": "joint", "action_tokens": False},
    {"horizon": 3, "step_embedding": "episode"},
    {"return_tokens": False, "step_embedding": "none"},
    {"action_tokens": False, "hidden": [8]},
    {"sparsity": 0.3},
]
HIDES_NOTHING = "action_dropout: must be 0 where action_tokens is false, got 0.1"
FIELDS = ("states", "actions", "returns", "steps")


def untrained(dataset, prompts, conditioning=None, **changes):
    values = {
        "pipeline": "policy",
        "seed": 0,
        "normalization": {},
        "conditioning": {"task": PROMPT} if conditioning is None else conditioning,
        "policy": SMALL | changes,
        "sampling": {"scheduler": None, "prompts_per_task": 1, "execute": 1, "target_return": 1.0},
        "training": {"updates": 20},
    }
    return compose(values, dataset, prompts)[0]


def build(*arguments, **changes):
    """As untrained, but with weights so large that everything matters."""
    pipe = untrained(*arguments, **changes)
    scramble(pipe.policy)
    return pipe


def every_row(pipe, dataset, prompts):
    """All windows of the first task's first episode, in order."""
    count = len(dataset[0])
    places = {name: torch.zeros(count, dtype=torch.float64) for name in ("demonstration", "start")}
    return windows(pipe, dataset, prompts).gather(
        {"task": torch.zeros(count, dtype=torch.long), "row": torch.arange(count), **places}
    )


def sequence(pipe, count=4, batch=3):
    """Random steps, and conditions for them."""
    random = torch.Generator().manual_seed(1)
    shown = {name: torch.randn(batch, count, n, generator=random) for name, n in zip(FIELDS, (5, 2, 1), strict=False)}
    shown["steps"] = torch.arange(count).expand(batch, -1)
    prompt = torch.randn(batch, 4, 7, generator=random)
    condition = pipe.conditioning({"prompt_states": prompt[..., :5], "prompt_actions": prompt[..., 5:]})
    return shown, {"condition": condition, "task": torch.tensor([0, 1, 0])}


@pytest.mark.parametrize("changes", KINDS, ids=str)
@torch.no_grad()
def test_no_action_is_predicted_from_itself_or_from_what_is_later(dataset, prompts, changes):
    pipe = build(dataset, prompts, **changes)
    shown, told = sequence(pipe)
    before = pipe.policy(**shown, **told)
    assert before.shape == (3, 4, pipe.policy.horizon, 2)
    for name in FIELDS[:3]:
        for step in range(4):
            changed = shown | {name: shown[name].clone()}
            changed[name][:, step] += 1.0
            moved = (pipe.policy(**changed, **told) != before).flatten(2).any(dim=2).all(dim=0).tolist()
            reads = changes.get("return_tokens", True) if name == "returns" else True
            reads = reads and (changes.get("action_tokens", True) if name == "actions" else True)
            first = step + (name == "actions")  # a step's own action is what is asked for
            assert moved == [reads and at >= first for at in range(4)], (name, step)


@pytest.mark.parametrize("changes", KINDS, ids=str)
@torch.no_grad()
def test_the_last_step_alone_is_the_same(dataset, prompts, changes):
    pipe = build(dataset, prompts, **changes)
    shown, told = sequence(pipe)
    whole, last = pipe.policy(**shown, **told), pipe.policy(**shown, **told, last=True)
    torch.testing.assert_close(last, whole[:, -1:], rtol=1e-5, atol=1e-6)


def test_what_lies_before_an_episode_is_put_behind():
    seen = torch.tensor([4, 1, 2])
    values = torch.arange(12.0).view(3, 4, 1)
    places = first_steps(seen, 4)
    arranged = in_front(values, places)[..., 0]
    assert arranged[0].tolist() == [0, 1, 2, 3]
    assert arranged[1, :1].tolist() == [7]
    assert arranged[2, :2].tolist() == [10, 11]


@pytest.mark.parametrize("changes", KINDS, ids=str)
@torch.no_grad()
def test_what_fills_a_window_before_an_episode_changes_nothing(dataset, prompts, changes):
    pipe = build(dataset, prompts, **changes)
    fields = every_row(pipe, dataset, prompts)
    fields = {name: value[:3] for name, value in fields.items()}  # of 1, 2 and 3 steps
    before = pipe.policy.losses(fields, pipe.conditioning(fields), {})
    filled = {name: value.clone() for name, value in fields.items()}
    for name in ("history", "past_actions", "past_rewards", "to_go"):
        for row, seen in enumerate(fields["seen"].tolist()):
            filled[name][row, : 4 - seen] = 9.0
    assert torch.equal(pipe.policy.losses(filled, pipe.conditioning(fields), {}), before)


@pytest.mark.parametrize("changes", KINDS, ids=str)
@torch.no_grad()
def test_it_acts_on_what_it_was_trained_on(dataset, prompts, changes):
    """An agent that walks an episode, asking for just what that had, predicts what training does in every window."""
    pipe = build(dataset, prompts, **changes)
    episode, scale = dataset[0], pipe.policy.scale
    low, high = float(scale.low[0]), float(scale.high[0])
    asked = (float(episode.rewards.sum()) - low) / (high - low)
    agent = PolicyAgent(pipe, target_return=asked)
    agent.reset([episode.task], [0])
    acted = []
    for state, action, reward in zip(episode.states[:-1], episode.actions, episode.rewards, strict=True):
        agent.act(state[None], np.array([0]))
        acted.append(agent._plans[0].copy())
        agent._actions[0, -1] = action  # as if it had acted as the data did
        agent._left[:] = 0
        agent.observe(np.array([reward]), np.array([0]))
    fields = every_row(pipe, dataset, prompts)
    prompt = pipe.prompts[episode.task][0]
    fields["prompt_states"] = pipe.normalizer.states(prompt.states).expand(len(acted), -1, -1)
    fields["prompt_actions"] = pipe.normalizer.actions(prompt.actions).expand(len(acted), -1, -1)
    first = first_steps(fields["seen"], 4)
    shown = (fields["history"], fields["past_actions"], scale(fields["to_go"], fields["task"]))
    steps = pipe.policy._numbers(fields["steps"], fields["seen"])
    of_training = pipe.policy(
        *(in_front(value, first) for value in shown), steps, pipe.conditioning(fields), task=fields["task"]
    )
    newest = of_training[torch.arange(len(acted)), fields["seen"] - 1][:, :1]
    expected = pipe.normalizer.physical_actions(newest)
    np.testing.assert_allclose(np.stack(acted), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_loss_is_the_mean_error_of_all_steps_that_there_are(dataset, prompts):
    """Against a loop over steps that cuts out what there is."""
    pipe = build(dataset, prompts, horizon=3)
    fields, episode = every_row(pipe, dataset, prompts), dataset[0]
    condition = pipe.conditioning(fields)
    losses = pipe.policy.losses(fields, condition, {})
    states = pipe.normalizer.states(torch.from_numpy(episode.states))
    actions = pipe.normalizer.actions(torch.from_numpy(episode.actions))
    to_go = torch.from_numpy(np.cumsum(episode.rewards[::-1])[::-1].copy()).float() / pipe.policy.scale.size[0]
    for t in range(len(episode)):
        since = max(0, t - 3)
        part = slice(since, t + 1)
        told = condition.rows(torch.tensor([t]))
        predicted = pipe.policy(
            states[None, part], actions[None, part], to_go[None, part, None], torch.arange(since, t + 1)[None], told
        )[0]
        total = 0.0
        for row, at in enumerate(range(since, t + 1)):
            for ahead in range(3):
                if at + ahead < len(episode) and at + ahead <= t + 2:
                    total += float((predicted[row, ahead] - actions[at + ahead]).square().mean())
        assert float(losses[t]) == pytest.approx(total / 12, rel=1e-4)


@torch.no_grad()
def test_hidden_actions_are_not_seen_in_training_and_seen_in_acting(dataset, prompts):
    pipe = build(dataset, prompts, action_dropout=0.5)
    drawn = pipe.policy.draw(400, torch.Generator().manual_seed(0))["hidden"]
    assert drawn.shape == (400, 4)
    assert 0.4 < drawn.float().mean() < 0.6
    shown, told = sequence(pipe)
    hidden = torch.tensor([[True, False, False, False]] * 3)
    changed = shown | {"actions": shown["actions"].clone()}
    changed["actions"][:, 0] += 1.0
    assert torch.equal(pipe.policy(**shown, **told, hidden=hidden), pipe.policy(**changed, **told, hidden=hidden))
    fields = every_row(pipe, dataset, prompts)
    everything = {"hidden": torch.ones(len(fields["seen"]), 4, dtype=torch.bool)}
    condition = pipe.conditioning(fields)
    losses = [pipe.policy.losses(fields, condition, drawn) for drawn in (everything, {})]
    assert torch.equal(*losses)
    pipe.policy.train()
    assert not torch.equal(pipe.policy.losses(fields, condition, everything), losses[0])


def test_steps_past_the_longest_episode_count_as_its_last(dataset, prompts):
    pipe = build(dataset, prompts, step_embedding="episode")
    assert int(pipe.policy.longest) == 19
    shown, told = sequence(pipe)
    late = [pipe.policy(**shown | {"steps": torch.full((3, 4), step)}, **told) for step in (18, 19, 300)]
    assert torch.equal(late[1], late[2])
    assert not torch.equal(late[0], late[1])


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_it_reloads_to_the_same_actions(dataset, prompts, changes, tmp_path):
    pipe = build(dataset, prompts, **changes)
    pipe.save_pretrained(tmp_path / "saved")
    again, rng = load(tmp_path / "saved"), np.random.default_rng(0)
    known = {
        "history": rng.normal(size=(2, 3, 5)),
        "past_actions": rng.uniform(-1, 1, size=(2, 2, 2)),
        "past_rewards": rng.uniform(size=(2, 2)),
        "prompt": list(TASKS),
        "task": list(TASKS),
    }
    assert torch.equal(pipe(**known).actions, again(**known).actions)


@torch.no_grad()
def test_it_can_be_told_nothing_and_an_episodes_return_beside_its_own(dataset, prompts):
    states = np.random.default_rng(0).normal(size=(1, 2, 5))
    alone = build(dataset, None, {})
    assert not any(parameter.numel() == 0 for parameter in alone.policy.parameters())
    assert alone(history=states).actions.shape == (1, 1, 2)
    label = {"return": {"name": "target_return", "hidden": [8], "dropout": 0.1}}
    told = build(dataset, None, label, return_tokens=False)
    low, high = (told(history=states, target_return=asked).actions for asked in (0.0, 1.0))
    assert not torch.equal(low, high)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 18, "num_heads": 4}, "width: must be a multiple of num_heads=4, got 18"),
        ({"length": 0}, "length: must be at least 1, got 0"),
        ({"action_tokens": False, "action_dropout": 0.1}, HIDES_NOTHING),
        ({"sparsity": 1.0}, "sparsity: must be at least 0 and below 1, got 1.0"),
        ({"mask_every": 0}, "mask_every: must be at least 1, got 0"),
        ({"agreement": -1.0}, "agreement: must be at least 0, got -1.0"),
        ({"released": -0.1}, "released: must be at least 0 and below 1, got -0.1"),
    ],
)  # fmt: skip
def test_faulty_arguments_are_refused(dataset, prompts, changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(dataset, prompts, **changes)


def test_a_return_may_be_asked_for_only_where_returns_are_shown():
    recipe = "baselines/mtdt"
    assert load_recipe(recipe, ["sampling.target_return=0.5"]).get("sampling.target_return") == 0.5
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe, ["sampling.target_return=0.5", "policy.return_tokens=false"])
    assert "sampling.target_return: must be 1.0 without a condition that shows a return, got 0.5" in str(error.value)


RECIPES = ["baselines/mtdt", "baselines/prompt_dt", "baselines/harmo_dt"]
RECIPES += ["maze2d/prompt_dt_maps8", "maze2d/prompt_dt_maps64"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_data_of_the_planner(name):
    planner = name.replace("prompt_dt", "planner") if "maze" in name else "metaworld/planner_mt10"
    ours, theirs = load_recipe(name).values, load_recipe(planner).values
    assert ours["pipeline"] == "policy" and ours["policy"]["name"] == "decision_transformer"
    assert all(ours[section] == theirs[section] for section in ("suite", "data", "normalization", "seed"))
    if name.endswith(("prompt_dt", "harmo_dt")):
        assert ours["conditioning"]["task"] == theirs["conditioning"]["task"]
