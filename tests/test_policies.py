"""Policies: what acts without planning is told, trained, saved, asked and refused as a planner is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtdiff.compose import compose, windows
from mtdiff.data.returns import best_of_each_task
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.data.windows import Windows
from mtdiff.errors import DataError, RecipeError
from mtdiff.hub import load
from mtdiff.pipelines import AGENTS, PolicyAgent
from mtdiff.recipe import load_recipe
from mtdiff.sharing.card import model_card
from mtdiff.sharing.example import use
from mtdiff.sharing.subject import _TRAINED, Subject, _equal
from mtdiff.training import Trainer, Training
from mtdiff.training.checkpoints import MetricsFile

CLONING = {
    "pipeline": "policy",
    "seed": 0,
    "normalization": {},
    "conditioning": {"task": {"name": "one_hot"}},
    "policy": {"name": "cloning", "width": 8, "hidden": [16]},
    "sampling": {"scheduler": None, "prompts_per_task": 2, "execute": 1, "target_return": 1.0},
}


def with_policy(**changes):
    return {**CLONING, "policy": {**CLONING["policy"], **changes}}


def test_what_it_acts_on_is_what_it_was_trained_on(dataset, prompts):
    """An agent that walks through an episode asks the network for the very rows that training shows it."""
    values = with_policy(length=3)
    pipe, _ = compose(values, dataset, prompts)
    shown = windows(pipe, dataset, prompts)
    episode = dataset[0]
    agent = AGENTS["policy"](pipe)
    agent.reset([episode.task], [0])
    acted = [agent.act(state[None], np.array([0]))[0] for state in episode.states[:5]]
    assert dataset.tasks.index(episode.task) == 0  # so the first rows of the windows are of this episode
    places = {name: torch.zeros(5, dtype=torch.float64) for name in ("demonstration", "start")}
    steps = shown.gather({"task": torch.zeros(5, dtype=torch.long), "row": torch.arange(5), **places})
    with torch.no_grad():
        expected = pipe.policy(steps["history"], pipe.conditioning(steps))[:, 0]
    np.testing.assert_allclose(np.stack(acted), pipe.normalizer.physical_actions(expected), rtol=1e-5, atol=1e-6)


def test_windows_show_what_a_step_led_to_and_what_came_before(dataset):
    pipe, _ = compose(with_policy(), dataset, None)
    shown = Windows(dataset, pipe.normalizer, horizon=1, history=4, past=True, outcome=True)
    rows = torch.arange(len(shown))
    task = torch.zeros(len(shown), dtype=torch.long)
    zeros = torch.zeros(len(shown), dtype=torch.float64)
    fields = shown.gather({"row": rows, "task": task, "demonstration": zeros, "start": zeros})
    at = 0
    for number in range(len(dataset.tasks)):
        for episode in (dataset[e] for e in np.flatnonzero(dataset.task_index == number)):
            for t in range(len(episode)):
                seen = min(t + 1, 4)
                assert fields["seen"][at] == seen
                actions = torch.zeros(4, episode.actions.shape[1])
                actions[4 - seen :] = pipe.normalizer.actions(torch.from_numpy(episode.actions[t + 1 - seen : t + 1]))
                torch.testing.assert_close(fields["past_actions"][at], actions)
                to_go = [float(episode.rewards[s:].sum()) for s in range(t + 1 - seen, t + 1)]
                np.testing.assert_allclose(fields["to_go"][at, 4 - seen :, 0], to_go, rtol=1e-4, atol=1e-4)
                assert not fields["past_rewards"][at, : 4 - seen].any()
                after = pipe.normalizer.states(torch.from_numpy(episode.states[t + 1]))
                torch.testing.assert_close(fields["next_history"][at, -1], after)
                assert fields["reward"][at, 0] == episode.rewards[t]
                assert bool(fields["terminated"][at, 0]) == (episode.terminated and t == len(episode) - 1)
                at += 1
    assert at == len(shown)


def test_slots_that_begin_at_different_times_do_not_see_each_other(dataset, prompts):
    pipe, _ = compose(with_policy(length=3), dataset, prompts)
    rng = np.random.default_rng(0)
    states = rng.normal(size=(4, 2, dataset.states.shape[1])).astype(np.float32)
    alone = PolicyAgent(pipe)
    alone.reset([dataset.tasks[1]], [1])
    expected = [alone.act(states[t, 1:], np.array([0]))[0] for t in range(2)]
    both = PolicyAgent(pipe)
    both.reset([dataset.tasks[0], dataset.tasks[1]], [0, 1])
    both.act(states[2, :1], np.array([0]))
    both.act(states[3, :1], np.array([0]))
    for t in range(2):
        acted = both.act(states[t], np.array([0, 1]))
        np.testing.assert_allclose(acted[1], expected[t], rtol=1e-5, atol=1e-6)


def test_a_policy_reloads_to_the_same_actions(dataset, prompts, tmp_path):
    values = {**with_policy(length=2, horizon=3), "conditioning": {"task": {"name": "trajectory_prompt", "length": 4}}}
    pipe, _ = compose(values, dataset, prompts)
    pipe.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    history = torch.randn(5, 2, dataset.states.shape[1])
    tasks = [dataset.tasks[0]] * 5
    first, second = (one(history=history, prompt=list(tasks)).actions for one in (pipe, again))
    assert first.shape == (5, 3, dataset.actions.shape[1])
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert type(again).__name__ == "PolicyPipeline" and again.kind == "policy"


def test_cloning_learns_what_each_task_does(dataset, prompts, tmp_path):
    """One state, two tasks, two actions: only what it is told can tell."""
    tasks, count = ["a", "b"], 8
    states = np.zeros((count, 5, 3), np.float32)
    states += np.random.default_rng(0).normal(size=states.shape).astype(np.float32)
    data = TrajectoryDataset.from_arrays(
        states=list(states),
        actions=[np.full((4, 2), 0.5 if e % 2 else -0.5, np.float32) for e in range(count)],
        rewards=[np.zeros(4, np.float32)] * count,
        tasks=[tasks[e % 2] for e in range(count)],
    )
    pipe, _ = compose(CLONING, data, None)
    settings = Training(updates=150, batch_per_task=8, learning_rate=1e-2, validation=0, log_with=(), ema_decay=0.9)
    Trainer(pipe, None, windows(pipe, data, None), None, settings, seed=0, folder=tmp_path).run()
    acted = pipe(history=torch.zeros(2, 1, 3), task=["a", "b"]).actions[:, 0]
    torch.testing.assert_close(acted, torch.tensor([[-0.5, -0.5], [0.5, 0.5]]), atol=0.05, rtol=0)


def test_the_best_tenth_is_of_each_task(dataset):
    kept = best_of_each_task(dataset, 0.1)
    for number, task in enumerate(dataset.tasks):
        mine = dataset.returns[dataset.task_index == number]
        share = kept.returns[kept.task_index == kept.tasks.index(task)]
        assert sorted(share) == sorted(mine)[-max(1, round(0.1 * len(mine))) :]


def test_a_planner_s_recipe_becomes_a_policy_s():
    recipe = load_recipe(
        "metaworld/planner_mt10",
        ["pipeline=policy", "policy=cloning", "conditioning.history=null", "sampling.execute=1"],
    )
    assert recipe.get("policy.name") == "cloning"
    assert not {"backbone", "scheduler", "representation"} & set(recipe.values)
    assert "policy" not in load_recipe("metaworld/planner_mt10").values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["conditioning.history=history"],
            "conditioning.history: must be null, because a policy reads states itself, got history",
        ),
        (["sampling.execute=2"], "sampling.execute: must be at most policy.horizon=1, got 2"),
        (["backbone=gpt2"], "backbone: a policy has none. Leave it out, or take another 'pipeline'."),
        (["training.timestep_bias=-1"], "training.timestep_bias: should be at least 0, got -1.0."),
        (["training.best_episodes=0"], "training.best_episodes: should be above 0 and at most 1, got 0.0."),
        (["policy.hidden=[]"], "policy.hidden: must have at least one layer, got none"),
    ],
)
def test_what_a_policy_cannot_be_is_refused(changes, message):
    with pytest.raises(RecipeError) as refused:
        load_recipe("baselines/mtbc", changes)
    assert message in str(refused.value)


def test_a_planner_has_no_policy():
    with pytest.raises(RecipeError, match="policy: a planner has none"):
        load_recipe("metaworld/planner_mt10", ["policy=cloning"])


def test_what_a_policy_is_asked_is_checked(dataset):
    pipe, _ = compose(CLONING, dataset, None)
    width = dataset.states.shape[1]
    with pytest.raises(DataError, match=r"task: this policy was trained with it, so an action needs it; got nothing"):
        pipe(history=torch.zeros(1, width))
    with pytest.raises(DataError, match=rf"history: must have shape \(n, {width}\) or \(B, n, {width}\)"):
        pipe(history=torch.zeros(1, width + 1), task=dataset.tasks[0])
    with pytest.raises(DataError, match=r"past_actions: must be finite numbers of shape \(B, 1, \d+\)"):
        pipe(history=torch.zeros(2, width), task=dataset.tasks[0], past_actions=torch.zeros(1, 3, 1))
    with pytest.raises(ValueError, match="execute: must be between 1 and the horizon 1, got 2"):
        PolicyAgent(pipe, execute=2)


def test_the_card_of_a_policy_shows_lines_that_run(dataset, prompts, tmp_path):
    values = {**CLONING, "conditioning": {"task": {"name": "trajectory_prompt", "length": 4}}}
    pipe, _ = compose(values, dataset, prompts)
    card = model_card(Subject(pipeline=pipe), "user/cloner")
    assert (
        "Acts in" in card and "gives the next action at once" in card and "It acts with: policy CloningPolicy" in card
    )
    assert "Another solver" not in card and "- diffusion\n" not in card
    pipe.save_pretrained(tmp_path)
    code = use(pipe, str(tmp_path))
    names = {}
    exec(code, names)
    assert names["plan"].shape == (1, 1, dataset.actions.shape[1])


def test_a_loaded_policy_knows_whether_it_is_what_was_saved(dataset, prompts, tmp_path):
    pipe, _ = compose(CLONING, dataset, prompts)
    pipe.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert _equal(again, tmp_path, _TRAINED)
    with torch.no_grad():
        next(again.policy.parameters()).add_(1.0)
    assert not _equal(again, tmp_path, _TRAINED)


def test_best_weights_are_a_pipeline_of_their_own(dataset, prompts, tmp_path):
    pipe, _ = compose(CLONING, dataset, prompts)
    settings = Training(updates=6, batch_per_task=2, validate_every=2, log_with=(), learning_rate=1e-2)
    shown = windows(pipe, dataset, prompts)
    trainer = Trainer(pipe, None, shown, shown, settings, seed=0, folder=tmp_path)
    outcome = trainer.run()
    losses = {row["update"]: row["val_loss"] for row in MetricsFile.read(trainer.metrics.path) if "val_loss" in row}
    assert outcome["best_update"] == min(losses, key=losses.__getitem__)
    assert outcome["best_loss"] == min(losses.values())
    last = {name: value.clone() for name, value in pipe.policy.state_dict().items()}
    assert trainer.best.load(trainer.objective.module)
    same = all(torch.equal(value, last[name]) for name, value in pipe.policy.state_dict().items())
    assert same == (outcome["best_update"] == 6)


def test_arguments_that_came_later_do_not_change_names():
    recipe = load_recipe("metaworld/planner_mt10")
    filtered = load_recipe("metaworld/planner_mt10", ["training.best_episodes=0.1"])
    assert recipe.hash("data") == "32e3d407189f"  # of a run that was trained before the argument was there
    assert filtered.hash("data") != recipe.hash("data")
    several = load_recipe("maze2d/planner_maps8", ["suite.experts=6"])
    assert several.section_hash("suite", "data") != load_recipe("maze2d/planner_maps8").section_hash("suite", "data")
