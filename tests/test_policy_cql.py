"""MTCQL against a slow second version, a closed form of its density, and a bandit."""

import math

import pytest
import torch
from slow_learners import mlp, networks
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from value_policies import ACTION, acted, bandit, batch, episodes, of_task, pipeline, slopes, trainer

from mtdiff.policies.critics import TaskBatch


def seen(pipe, states, condition):
    told = pipe.policy.pools["task"](condition.tokens["task"].flatten(1))
    return torch.cat([states.flatten(1), told], dim=1)


def squashed(policy, seen):
    """The policy's distribution in one state, or several, from its plain layers."""
    mean, log_std = mlp(networks(policy.actor.layers)[0], seen).chunk(2, dim=-1)
    return TransformedDistribution(Normal(mean, log_std.clamp(-5, 2).exp()), TanhTransform(cache_size=1))


def test_drawn_actions_and_densities_are_those_of_a_squashed_gaussian():
    data = episodes()
    pipe = pipeline("cql", data)
    fields, condition, drawn = batch(pipe, data)
    x = seen(pipe, fields["history"], condition)
    actions, density = pipe.policy.actor.draw(x, drawn["present"])
    mean, log_std = mlp(networks(pipe.policy.actor.layers)[0], x).chunk(2, dim=-1)
    for sample in range(len(x)):
        distribution = squashed(pipe.policy, x[sample])
        for draw in range(10):
            before = mean[sample] + log_std[sample].exp() * drawn["present"][sample, draw]
            torch.testing.assert_close(actions[sample, draw], before.tanh())
            expected = distribution.log_prob(before.tanh().clamp(-1 + 1e-7, 1 - 1e-7)).sum()
            torch.testing.assert_close(density[sample, draw], expected, atol=1e-2, rtol=1e-3)
    inside = torch.tensor([[0.5, -0.3]]).expand(len(x), ACTION)
    expected = squashed(pipe.policy, x).log_prob(inside).sum(1)
    torch.testing.assert_close(pipe.policy._density_of(x, inside), expected)
    tail = pipe.policy.actor.draw(x[:1], torch.full((1, 1, ACTION), 30.0))[1]
    assert tail.isfinite().all()  # where tanh rounds to 1


@pytest.mark.parametrize("cloning", [0.0, 0.5])
def test_the_loss_is_that_of_a_slow_second_version_and_reaches_what_it_should(cloning):
    data = episodes()
    pipe = pipeline("cql", data, alpha=3.0, actions=2, cloning=cloning)
    policy, (fields, condition, drawn) = pipe.policy, batch(pipe, data)
    with torch.no_grad():
        policy.log_temperature.fill_(-0.7)
        for values in policy.critic_target.parameters():
            values.add_(0.3 * torch.randn(values.shape, generator=torch.Generator().manual_seed(1)))
    task, tasks = fields["task"], TaskBatch(fields["task"], 2)
    s, s2, a = fields["history"].flatten(1), fields["next_history"].flatten(1), fields["actions"][:, 0]
    own, density = policy.actor.draw(seen(pipe, s, condition), drawn["present"])
    later, later_density = policy.actor.draw(seen(pipe, s2, condition), drawn["next"])
    # critics
    good = of_task(policy.critic_target, torch.cat([s2, later[:, 0]], 1), task).amin(0)
    reward = fields["reward"][:, 0] * policy.reward_scale[task]
    target = (reward + policy.discount * (1 - fields["terminated"][:, 0]) * good).detach()
    low, high = policy.value_limits[task].T
    target = target.clamp(low, high)
    data_q = policy.critic(torch.cat([s, a], 1), tasks)
    critics = (data_q - target).square().sum(0)
    for i in range(len(task)):
        terms: tuple[list, list] = [], []
        for tried, weight in (
            *((u, -math.log(4)) for u in drawn["uniform"][i]),  # the area of [-1, 1]^2
            *zip(own[i].detach(), density[i].detach(), strict=True),
            *zip(later[i].detach(), later_density[i].detach(), strict=True),
        ):
            q = policy.critic(torch.cat([s[i], tried])[None], TaskBatch(task[i : i + 1], 2))[:, 0]
            for terms_of, value in zip(terms, q, strict=True):
                terms_of.append((value - weight).exp())
        for e in range(2):
            critics[i] = critics[i] + 3.0 * (sum(terms[e]).log() - data_q[e, i])
    # policy
    value = of_task(policy.critic, torch.cat([s, own[:, 0]], 1), task).amin(0)
    temperature = math.exp(-0.7)
    actor = temperature * density[:, 0] - value
    if cloning:
        actor = actor - 0.5 * squashed(policy, seen(pipe, s, condition)).log_prob(a).sum(1)
    entropy = -policy.log_temperature.exp() * (density[:, 0] - ACTION).detach()
    losses = policy.losses(fields, condition, drawn)
    torch.testing.assert_close(losses, critics + actor + entropy, rtol=1e-4, atol=1e-4)
    loss = losses.mean()
    torch.testing.assert_close(slopes(loss, policy.critic), slopes(critics.mean(), policy.critic))
    entropy_slope = -temperature * (density[:, 0] - ACTION).mean()
    torch.testing.assert_close(torch.autograd.grad(loss, policy.log_temperature, retain_graph=True)[0], entropy_slope)
    told = slopes(loss, pipe.conditioning)
    assert told.abs().sum() > 0
    # What reaches the policy and its conditions is the policy's own part, through frozen critics.
    q = policy.critic(torch.cat([s, own[:, 0]], 1), tasks, frozen=True).amin(0)
    part = (temperature * density[:, 0] - q).mean()
    if cloning:
        part = part - 0.5 * policy._density_of(seen(pipe, s, condition), a).mean()
    for module in (policy.actor, pipe.conditioning):
        torch.testing.assert_close(slopes(loss, module), slopes(part, module))


def test_the_temperature_falls_where_the_policy_is_more_random_than_asked():
    """The entropy that is asked for is -A; a new policy's is higher."""
    data = episodes()
    pipe = pipeline("cql", data)
    pipe.policy.losses(*batch(pipe, data)).mean().backward()
    assert pipe.policy.log_temperature.grad > 0


@pytest.mark.slow
def test_the_policy_finds_the_better_action_and_the_critics_distrust_the_rest(tmp_path):
    data = bandit()
    pipe = pipeline("cql", data, alpha=0.2, actions=4, hidden=(32,), critic_hidden=(32,), tau=0.1)
    options = {"updates": 250, "batch_per_task": 32, "learning_rate": 1e-2, "checkpoint_every": 1000}
    trainer(tmp_path, pipe, data, **options).run()
    for task, good in (("one", 0.8), ("two", -0.8)):
        torch.testing.assert_close(acted(pipe, task), torch.full((2, 1), good), atol=0.25, rtol=0)
        tasks = TaskBatch(torch.full((3,), data.tasks.index(task)), 2)
        judged = torch.tensor([[0.0, good], [0.0, -0.4 * good / 0.8], [0.0, -good]])
        best, common, unseen = pipe.policy.critic(judged, tasks).mean(0).tolist()
        assert best > max(common, unseen)
