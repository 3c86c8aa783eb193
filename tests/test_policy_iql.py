"""MTIQL, and what all policies that learn values share: rewards, targets, heads."""

import math
import re

import numpy as np
import pytest
import torch
from slow_learners import mlp, networks
from small_training import Crash, crash
from value_policies import (
    ACTION,
    TOLD,
    acted,
    bandit,
    batch,
    episodes,
    of_task,
    pipeline,
    slopes,
    trainer,
)

from mtdiff import PolicyPipeline, TrajectoryDataset
from mtdiff.policies.critics import Critics, TaskBatch
from mtdiff.registry import POLICIES

LEARNERS_OF_VALUES = ["iql", "cql", "diffusion_ql"]


# The loss.


def told_states(policy, fields, condition, name="history"):
    told = policy.pools["task"](condition.tokens["task"].flatten(1))
    return torch.cat([fields[name].flatten(1), told], dim=1)


def slow_parts(policy, fields, condition):
    """The three losses sample by sample: value, critics, cloning. Each reaches its own network alone."""
    config, task = policy.config, fields["task"]
    s, s2, a = fields["history"].flatten(1), fields["next_history"].flatten(1), fields["actions"][:, 0]
    both = torch.cat([s, a], 1)
    good = of_task(policy.critic_target, both, task).amin(0).detach()
    v, v2 = policy.value(s, TaskBatch(task, 2))[0], of_task(policy.value, s2, task)[0].detach()
    u = good - v
    value = torch.where(u > 0, config.expectile, 1 - config.expectile) * u**2
    reward = fields["reward"][:, 0] * policy.reward_scale[task]
    target = torch.where(fields["terminated"][:, 0] > 0, reward, reward + config.discount * v2)
    q = policy.critic(both, TaskBatch(task, 2))
    critics = (q[0] - target) ** 2 + (q[1] - target) ** 2
    weight = torch.tensor([min(math.exp(config.beta * x), config.max_weight) for x in u.tolist()])
    mean = torch.tanh(mlp(networks(policy.actor.mean)[0], told_states(policy, fields, condition)))
    normal = torch.distributions.Normal(mean, policy.actor.log_std.exp())
    return value, critics, -weight * normal.log_prob(a).sum(1)


def test_the_loss_is_the_sum_of_three_that_reach_their_own_network_alone():
    data = episodes()
    pipe = pipeline("iql", data, beta=8.0, max_weight=1.5)
    policy, (fields, condition, drawn) = pipe.policy, batch(pipe, data)
    with torch.no_grad():  # a target of its own, and advantages on both sides of max_weight
        for values in (*policy.critic_target.parameters(), policy.actor.log_std):
            values.add_(0.3 * torch.randn(values.shape, generator=torch.Generator().manual_seed(1)))
    losses = policy.losses(fields, condition, drawn)
    value, critics, cloning = slow_parts(policy, fields, condition)
    assert fields["terminated"].any()
    assert not fields["terminated"].all()
    torch.testing.assert_close(losses, value + critics + cloning)
    of = {policy.value: value, policy.critic: critics}
    for network, part in of.items():
        torch.testing.assert_close(slopes(losses.mean(), network), slopes(part.mean(), network))
    # The conditioning belongs to the policy: the other two read the task's number.
    told = slopes(losses.mean(), pipe.conditioning)
    assert told.abs().sum() > 0
    torch.testing.assert_close(told, slopes(cloning.mean(), pipe.conditioning))
    assert slopes(losses.mean(), policy.actor).abs().sum() > 0


@pytest.mark.parametrize("name", LEARNERS_OF_VALUES)
def test_targets_take_over_a_share_of_the_new_weights_and_no_gradient(name):
    data = episodes()
    pipe = pipeline(name, data, tau=0.25)
    policy = pipe.policy
    with torch.no_grad():
        for values in policy.critic.parameters():
            values.add_(1.0)
    before = [value.clone() for value in policy.critic_target.parameters()]
    policy.updated(1)
    for old, new, source in zip(before, policy.critic_target.parameters(), policy.critic.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * source)
        assert not new.requires_grad
    policy.losses(*batch(pipe, data)).mean().backward()
    assert all(value.grad is None for value in policy.critic_target.parameters())
    assert all(value.grad is not None for value in policy.critic.parameters())


# Heads.


@pytest.mark.parametrize("task", [[0, 0, 1, 1, 2, 2], [2, 0, 0, 1, 0], [1], [2, 2, 0, 1, 1, 0]])
@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_of_any_order_reaches_the_heads_of_its_tasks(task, count):
    critics = Critics(inputs=4, hidden=(5,), num_tasks=3, heads="per_task", estimates=2)
    x = torch.randn(len(task) * count, 4)
    tasks = TaskBatch(torch.tensor(task), 3)
    assert tasks.spread(x[: len(task)]).shape[:2] == (3, max(task.count(n) for n in range(3)))
    repeated = tasks.repeat(count)
    torch.testing.assert_close(critics(x, repeated), of_task(critics, x, repeated.task))
    sums = [sum(v for v, n in zip(range(len(task)), task, strict=True) if n == t) / task.count(t) for t in task]
    torch.testing.assert_close(tasks.mean(torch.arange(len(task)).float()), torch.tensor(sums))


@pytest.mark.parametrize("name", LEARNERS_OF_VALUES)
def test_a_shared_critic_reads_the_number_of_the_task(name):
    data = episodes()
    pipe = pipeline(name, data, heads="shared")
    x, numbers = torch.randn(4, 5), torch.tensor([1, 0, 0, 1])
    told = torch.cat([x, torch.eye(2)[numbers]], dim=1)
    critic = pipe.policy.critic
    torch.testing.assert_close(critic(x, TaskBatch(numbers, 2)), critic.layers(told)[:, :, 0])
    assert pipe.policy.losses(*batch(pipe, data)).shape == (10,)


def test_frozen_critics_pass_gradients_to_what_they_judge_alone():
    critics = Critics(inputs=4, hidden=(5,), num_tasks=2, heads="shared", estimates=2)
    x = torch.randn(3, 4, requires_grad=True)
    tasks = TaskBatch(torch.tensor([0, 1, 1]), 2)
    torch.testing.assert_close(critics(x, tasks, frozen=True), critics(x, tasks))
    critics(x, tasks, frozen=True).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(value.grad is None for value in critics.parameters())


# Rewards, ends.


@pytest.mark.parametrize("name", LEARNERS_OF_VALUES)
def test_every_task_has_rewards_of_one_range_and_values_within_what_can_be_earned(name):
    data = episodes()
    policy = pipeline(name, data).policy
    for number, task in enumerate(data.tasks):
        mine = [episode for episode in data if episode.task == task]
        rewards = np.concatenate([episode.rewards for episode in mine])
        scale = 1 / (rewards.max() - rewards.min())
        assert policy.reward_scale[number].item() == pytest.approx(scale)
        limits = [min(rewards.min(), 0) * scale * 10, max(rewards.max(), 0) * scale * 10]  # discount 0.9
        assert policy.value_limits[number].tolist() == pytest.approx(limits)
    fields = {"task": torch.tensor([1, 1]), "reward": torch.zeros(2, 1), "terminated": torch.zeros(2, 1)}
    targets = policy._learnt(fields, torch.tensor([1e9, -1e9]))
    torch.testing.assert_close(targets, policy.value_limits[1].flip(0))


def constant(terminated):
    """Three steps that earn 1 each."""
    states = [np.arange(4, dtype=np.float32)[:, None]] * 2
    return TrajectoryDataset.from_arrays(
        states=states, actions=[np.zeros((3, 1), np.float32)] * 2, rewards=[np.ones(3)] * 2, tasks=["one", "two"],
        terminated=[terminated] * 2,
    )  # fmt: skip


@pytest.mark.parametrize(("terminated", "worth"), [(True, [1.75, 1.5, 1.0]), (False, [2.0, 2.0, 2.0])])
def test_what_was_cut_off_goes_on_and_what_ended_does_not(terminated, worth, tmp_path):
    """A recording that stops at success says nothing of what comes after; its last reward is extended."""
    data = constant(terminated)
    pipe = pipeline("iql", data, discount=0.5, tau=0.5, critic_hidden=(32,))
    trainer(tmp_path, pipe, data, updates=250, learning_rate=2e-2, log_every=50, checkpoint_every=1000).run()
    states = pipe.normalizer.states(torch.tensor([[0.0], [1.0], [2.0]]))
    values = pipe.policy.value(states, TaskBatch(torch.zeros(3, dtype=torch.long), 2))[0]
    torch.testing.assert_close(values, torch.tensor(worth), atol=0.1, rtol=0)


def test_actions_are_learnt_and_given_in_model_space():
    data = episodes()
    pipe = pipeline("iql", data)
    policy = pipe.policy
    pipe.normalizer.action_loc.copy_(torch.tensor([0.2, -0.3]))
    pipe.normalizer.action_scale.copy_(torch.tensor([0.5, 2.0]))
    policy.measure(pipe.normalizer, data)
    physical = torch.tensor([[0.7, -0.9]])
    fields = batch(pipe, data)[0] | {"actions": pipe.normalizer.actions(physical)[:, None].expand(10, 1, ACTION)}
    torch.testing.assert_close(policy._batch(fields).action, physical.expand(10, ACTION))
    torch.testing.assert_close(pipe.normalizer.physical_actions(policy._model_actions(physical)[:, 0]), physical)


# As a whole.


@pytest.mark.slow
def test_where_cloning_takes_the_common_action_values_find_the_better_one(tmp_path):
    data = bandit()
    options = {"updates": 200, "batch_per_task": 32, "learning_rate": 1e-2, "log_every": 50, "checkpoint_every": 1000}
    pipe = pipeline("iql", data, beta=10.0, tau=0.1, hidden=(32,), critic_hidden=(32,))
    trainer(tmp_path / "iql", pipe, data, **options).run()
    torch.testing.assert_close(acted(pipe, "one"), torch.full((2, 1), 0.8), atol=0.1, rtol=0)
    torch.testing.assert_close(acted(pipe, "two"), torch.full((2, 1), -0.8), atol=0.1, rtol=0)
    pipe = pipeline("iql", data, beta=0.0)  # cloning: the mean, -0.1 and 0.1
    trainer(tmp_path / "bc", pipe, data, **options).run()
    torch.testing.assert_close(acted(pipe, "one"), torch.full((2, 1), -0.1), atol=0.15, rtol=0)


@pytest.mark.parametrize("name", LEARNERS_OF_VALUES)
def test_a_resumed_training_equals_an_uninterrupted_one(name, tmp_path):
    data = episodes()
    straight = pipeline(name, data)
    trainer(tmp_path / "straight", straight, data).run()
    broken = trainer(tmp_path / "broken", pipeline(name, data), data)
    follow = broken.objective.updated
    broken.objective.updated = lambda updates: crash() if updates == 8 else follow(updates)
    with pytest.raises(Crash):
        broken.run()
    resumed = pipeline(name, data)
    trainer(tmp_path / "broken", resumed, data).run(resume=True)
    for part in ("policy", "conditioning"):
        ours, theirs = getattr(straight, part).state_dict(), getattr(resumed, part).state_dict()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    untrained = pipeline(name, data).policy.state_dict()
    still = {key for key, value in straight.policy.state_dict().items() if torch.equal(value, untrained[key])}
    assert still == {"reward_scale", "value_limits", "action_loc", "action_scale"}


@pytest.mark.parametrize("told", [TOLD, {}], ids=["told", "untold"])
@pytest.mark.parametrize("name", LEARNERS_OF_VALUES)
def test_saved_and_loaded_it_acts_alike(name, told, tmp_path):
    data = episodes()
    pipe = pipeline(name, data, told=told)
    pipe.save_pretrained(tmp_path)
    loaded = PolicyPipeline.from_pretrained(tmp_path)
    states = torch.randn(3, 1, 3, generator=torch.Generator().manual_seed(0)).tolist()
    states = [row[0] for row in states]
    task = "two" if told else None
    assert torch.equal(acted(loaded, task, states), acted(pipe, task, states))
    before, after = pipe.policy.state_dict(), loaded.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(value.requires_grad for value in loaded.policy.critic_target.parameters())


SIZES = {"state_dim": 3, "action_dim": 2, "num_tasks": 2, "roles": []}
SHARED = [
    ({"length": 0}, "length: must be at least 1, got 0"),
    ({"width": 0}, "width: must be at least 1, got 0"),
    ({"hidden": []}, "hidden: must be one or more widths of at least 1, got none"),
    ({"critic_hidden": [8, 0]}, "critic_hidden: must be one or more widths of at least 1, got 8, 0"),
    ({"discount": 1.0}, "discount: must be at least 0 and below 1, got 1.0"),
    ({"tau": 0.0}, "tau: must be above 0, got 0.0"),
    ({"tau": 1.5}, "tau: must be between 0 and 1, got 1.5"),
]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        *((name, *case) for name in LEARNERS_OF_VALUES for case in SHARED),
        ("iql", {"expectile": 1.0}, "expectile: must be above 0 and below 1, got 1.0"),
        ("iql", {"beta": -1.0}, "beta: must be at least 0, got -1.0"),
        ("iql", {"max_weight": 0.0}, "max_weight: must be above 0, got 0.0"),
        ("cql", {"alpha": -1.0}, "alpha: must be at least 0, got -1.0"),
        ("cql", {"actions": 0}, "actions: must be at least 1, got 0"),
        ("cql", {"cloning": -0.5}, "cloning: must be at least 0, got -0.5"),
        ("diffusion_ql", {"eta": -1.0}, "eta: must be at least 0, got -1.0"),
        ("diffusion_ql", {"timesteps": 0}, "timesteps: must be at least 1, got 0"),
        ("diffusion_ql", {"candidates": 0}, "candidates: must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(name, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        POLICIES[name].build(arguments, **SIZES)
