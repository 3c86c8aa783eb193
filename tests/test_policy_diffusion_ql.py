"""MTDQL: its noise, its pull upwards, what it picks."""

import pytest
import torch
from value_policies import ACTION, acted, bandit, batch, episodes, of_task, pipeline, slopes, trainer

from mtdiff.policies.critics import TaskBatch


def told(pipe, states, condition):
    return torch.cat([states.flatten(1), pipe.policy.pools["task"](condition.tokens["task"].flatten(1))], dim=1)


def denoised(policy, actor, seen, noise):
    """Ancestral sampling in one state as the equations have it, step by step."""
    betas, x = policy.scheduler.betas, noise[0, 0]
    products = torch.cumprod(1 - betas, 0)
    count = len(betas)
    for call, k in enumerate(reversed(range(count))):
        hat = actor(x[None, None], torch.tensor([k]), actor.look(seen[None]))[0, 0]
        if policy.config.prediction_type == "epsilon":
            hat = (x - (1 - products[k]).sqrt() * hat) / products[k].sqrt()
        hat = hat.clamp(-1, 1)
        before = products[k - 1] if k else torch.tensor(1.0)
        mean = before.sqrt() * betas[k] / (1 - products[k]) * hat
        mean = mean + (1 - betas[k]).sqrt() * (1 - before) / (1 - products[k]) * x
        variance = (1 - before) / (1 - products[k]) * betas[k]
        x = mean + variance.sqrt() * noise[call + 1, 0] if k else mean
    return x


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
def test_the_loss_is_that_of_a_slow_second_version_and_reaches_what_it_should(prediction_type):
    data = episodes()
    pipe = pipeline("diffusion_ql", data, eta=2.0, prediction_type=prediction_type)
    policy, (fields, condition, drawn) = pipe.policy, batch(pipe, data)
    with torch.no_grad():
        for values in (*policy.critic_target.parameters(), *policy.actor_target.parameters()):
            values.add_(0.1 * torch.randn(values.shape, generator=torch.Generator().manual_seed(1)))
    task, tasks = fields["task"], TaskBatch(fields["task"], 2)
    s, s2, a = fields["history"].flatten(1), fields["next_history"].flatten(1), fields["actions"][:, 0]
    seen, later = told(pipe, s, condition), told(pipe, s2, condition)
    rows = range(len(task))
    assert policy.scheduler.alphas_cumprod[-1].item() == pytest.approx(0.0064, abs=1e-4)
    # critics
    next_actions = torch.stack([denoised(policy, policy.actor_target, later[i], drawn["next_chain"][i]) for i in rows])
    good = of_task(policy.critic_target, torch.cat([s2, next_actions], 1), task).amin(0)
    reward = fields["reward"][:, 0] * policy.reward_scale[task]
    target = reward + policy.discount * (1 - fields["terminated"][:, 0]) * good
    low, high = policy.value_limits[task].T
    critics = (policy.critic(torch.cat([s, a], 1), tasks) - target.clamp(low, high).detach()).square().sum(0)
    # actor
    product = policy.scheduler.alphas_cumprod[drawn["timestep"]][:, None]
    noisy = product.sqrt() * a + (1 - product).sqrt() * drawn["noise"][:, 0]
    predicted = policy.actor(noisy[:, None], drawn["timestep"], policy.actor.look(seen))[:, 0]
    wanted = a if prediction_type == "sample" else drawn["noise"][:, 0]
    cloning = (predicted - wanted).square().mean(1)
    own = torch.stack([denoised(policy, policy.actor, seen[i], drawn["chain"][i]) for i in rows])
    q = policy.critic(torch.cat([s, own], 1), tasks, frozen=True)
    climbs = torch.stack([q[0 if drawn["coin"][i] else 1, i] for i in rows])
    others = torch.stack([q[1 if drawn["coin"][i] else 0, i] for i in rows]).detach().abs()
    size = torch.stack([others[task == number].mean() for number in task])
    actor = cloning - 2.0 * climbs / size
    losses = policy.losses(fields, condition, drawn)
    torch.testing.assert_close(losses, critics + actor, rtol=1e-4, atol=1e-4)
    loss = losses.mean()
    torch.testing.assert_close(slopes(loss, policy.critic), slopes(critics.mean(), policy.critic))
    for module in (policy.actor, pipe.conditioning):
        assert slopes(loss, module).abs().sum() > 0
        torch.testing.assert_close(slopes(loss, module), slopes(actor.mean(), module), rtol=1e-3, atol=1e-5)
    assert not any(value.requires_grad for value in policy.actor_target.parameters())


def test_a_task_of_large_values_pulls_no_harder():
    data = episodes()
    pipe = pipeline("diffusion_ql", data)
    policy, given = pipe.policy, batch(pipe, data)
    before = slopes(policy.losses(*given).mean(), policy.actor)
    with torch.no_grad():  # the last layers of task two, which is every second member
        policy.critic.layers.weights[-1][1::2] *= 100
        policy.critic.layers.biases[-1][1::2] *= 100
    torch.testing.assert_close(slopes(policy.losses(*given).mean(), policy.actor), before, rtol=1e-3, atol=1e-5)
    pipe = pipeline("diffusion_ql", data, eta=0.0)
    cloned = slopes(pipe.policy.losses(*given).mean(), pipe.policy.actor)
    assert not torch.allclose(cloned, before)


def test_the_actor_that_targets_use_follows():
    policy = pipeline("diffusion_ql", episodes(), tau=0.5).policy
    with torch.no_grad():
        for value in policy.actor.parameters():
            value.add_(1.0)
    before = [value.clone() for value in policy.actor_target.parameters()]
    policy.updated(1)
    for old, new in zip(before, policy.actor_target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.5)


# Acting.


def likes_the_first_action(policy, factor=1e4):
    """Make the target critics say Q(s, a) = factor a_0 for task one and the opposite for task two."""
    with torch.no_grad():
        layers = policy.critic_target.layers
        for value in layers.parameters():
            value.zero_()
        for member in range(4):
            layers.weights[0][member, -ACTION, 0] = 1.0
            layers.biases[0][member] = 2.0
            layers.weights[1][member, 0, 0] = 1.0
            layers.weights[2][member, 0, 0] = factor * (1, -1)[member % 2]


@pytest.mark.parametrize("pick", ["argmax", "softmax"])
def test_it_picks_of_its_candidates_what_the_critics_like(pick):
    data = episodes()
    pipe = pipeline("diffusion_ql", data, candidates=20, pick=pick)
    likes_the_first_action(pipe.policy)
    states = torch.randn(3, 1, 3, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    fields = {"history": pipe.normalizer.states(states), "task": torch.tensor([0, 1, -1])}
    condition = pipe.conditioning({"task": torch.tensor([0, 1, 0])})
    with torch.no_grad():
        chosen = pipe.policy.act(fields, condition, generators)[:, 0]
        for i, sign in ((0, 1), (1, -1), (2, 0)):
            generator = torch.Generator().manual_seed(i)
            noise = torch.randn(6, 20, ACTION, generator=generator)
            seen = told(pipe, fields["history"], condition)[i]
            candidates = [denoised(pipe.policy, pipe.policy.actor, seen, noise[:, n, None]) for n in range(20)]
            best = max(candidates, key=lambda a: sign * a[0].item()) if sign else candidates[0]
            torch.testing.assert_close(chosen[i], best, atol=1e-4, rtol=1e-4)


def test_softmax_draws_by_the_exponentials_of_the_values():
    data = episodes()
    pipe = pipeline("diffusion_ql", data, candidates=2)
    likes_the_first_action(pipe.policy, factor=2.0)
    states, picked, expected = torch.zeros(300, 1, 3), [], []
    fields = {"history": states, "task": torch.zeros(300, dtype=torch.long)}
    condition = pipe.conditioning({"task": fields["task"]})
    with torch.no_grad():
        chosen = pipe.policy.act(fields, condition, [torch.Generator().manual_seed(i) for i in range(300)])[:, 0]
        seen = told(pipe, states, condition)[0]
        for i in range(300):
            noise = torch.randn(6, 2, ACTION, generator=torch.Generator().manual_seed(i))
            first, second = (denoised(pipe.policy, pipe.policy.actor, seen, noise[:, n, None]) for n in range(2))
            picked.append(float((chosen[i] - first).abs().sum() < (chosen[i] - second).abs().sum()))
            expected.append(torch.sigmoid(2 * (first[0] - second[0])).item())
    assert sum(picked) / 300 == pytest.approx(sum(expected) / 300, abs=0.08)
    likelier = [p for p, e in zip(picked, expected, strict=True) if e > 0.6]
    if likelier:
        assert sum(likelier) / len(likelier) > 0.5


@pytest.mark.slow
def test_it_finds_the_better_action(tmp_path):
    data = bandit()
    pipe = pipeline("diffusion_ql", data, hidden=(32, 32), critic_hidden=(32,), tau=0.1, candidates=8, pick="argmax")
    options = {"updates": 250, "batch_per_task": 32, "learning_rate": 1e-2, "checkpoint_every": 1000}
    trainer(tmp_path, pipe, data, **options).run()
    torch.testing.assert_close(acted(pipe, "one"), torch.full((2, 1), 0.8), atol=0.25, rtol=0)
    torch.testing.assert_close(acted(pipe, "two"), torch.full((2, 1), -0.8), atol=0.25, rtol=0)
