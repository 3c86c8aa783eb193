"""TD3+BC and IQL against slow second versions of themselves, closed forms and dynamic programming."""

import math

import numpy as np
import pytest
import torch
from slow_learners import SlowIQL, SlowTD3BC, networks

from mtdiff import TrajectoryDataset
from mtdiff.learners import IQL, TD3BC, Batches, train_learner
from mtdiff.learners.iql import advantage_weight, expectile_loss

STATE, ACTION = 3, 2
SIZES = {"state_dim": STATE, "action_dim": ACTION}


def numbers(count=200, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "state": rng.normal(2, 3, (count, STATE)).astype(np.float32),
        "action": rng.uniform(-1, 1, (count, ACTION)).astype(np.float32),
        "reward": rng.normal(size=count).astype(np.float32),
        "next_state": rng.normal(2, 3, (count, STATE)).astype(np.float32),
        "terminated": rng.random(count) < 0.2,
        "truncated": np.zeros(count, bool),
    }


@pytest.fixture
def double():
    """Adam's first steps are signs, almost: single precision would tell little about small gradients."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# One update.


@pytest.mark.parametrize("kind", [TD3BC, IQL])
def test_updates_are_those_of_a_slow_second_version(kind, double):
    settings = {"hidden": (7, 5), "learning_rate": 0.01, "tau": 0.1, "discount": 0.9}
    learner = kind(**SIZES, **settings, **({"beta": 8.0, "max_weight": 2.0} if kind is IQL else {"policy_noise": 0.4}))
    slow = {TD3BC: SlowTD3BC, IQL: SlowIQL}[kind](learner)
    data = {
        name: torch.from_numpy(v) if v.dtype == bool else torch.from_numpy(v).double()
        for name, v in numbers(12).items()
    }
    learner.begin(data["state"], updates=8)
    generator = torch.Generator().set_state(learner.generator.get_state())
    before = learner.state_dict()
    for count in range(5):
        metrics = learner.update(data)
        loc, scale = data["state"].mean(0), data["state"].std(0, correction=0) + 1e-3
        rate = {"share_of_rate": 0.5 * (1 + math.cos(math.pi * count / 8))} if kind is IQL else {}
        noise = torch.randn(12, ACTION, generator=generator) if kind is TD3BC else None
        s, s2 = (data["state"] - loc) / scale, (data["next_state"] - loc) / scale
        slow.update(s, data["action"], data["reward"], s2, data["terminated"], noise, **rate)
    assert all(value.isfinite() for value in metrics.values())
    for name, expected in slow.expected().items():
        for ours, theirs in zip(networks(learner.networks.get_submodule(name)), expected, strict=True):
            for ours_layer, theirs_layer in zip(ours, theirs, strict=True):
                torch.testing.assert_close(ours_layer, theirs_layer, rtol=0, atol=1e-10)
    after = learner.state_dict()
    assert all(not torch.equal(after[k], before[k]) for k in after if k.startswith("networks."))
    if kind is IQL:
        torch.testing.assert_close(learner.networks["actor"].log_std, slow.log_std, rtol=0, atol=1e-10)


def q_is_the_action(learner):
    """Make the critics' targets say Q(s, a) = a, and the target policy 0.9."""
    with torch.no_grad():
        critic, actor = learner.networks["critic_target"], learner.networks["actor_target"]
        for value in (*critic.parameters(), *actor.parameters()):
            value.zero_()
        critic.weights[0][:, -1] = torch.tensor([1.0, -1.0])  # relu(a) - relu(-a)
        critic.weights[1][:] = torch.tensor([[1.0], [-1.0]])
        actor.biases[-1].fill_(math.atanh(0.9))


@pytest.mark.parametrize(("clip", "lowest", "highest"), [(0.5, 0.4, 1.0), (3.0, -1.0, 1.0), (0.0, 0.9, 0.9)])
def test_target_actions_are_shaken_by_clipped_noise_and_stay_in_bounds(clip, lowest, highest):
    learner = TD3BC(state_dim=1, action_dim=1, hidden=(2,), discount=0.5, policy_noise=100.0, noise_clip=clip)
    q_is_the_action(learner)
    target = learner._targets(torch.full((200,), 10.0), torch.zeros(200, 1), torch.ones(200))
    assert target.min().item() == pytest.approx(10 + 0.5 * lowest)
    assert target.max().item() == pytest.approx(10 + 0.5 * highest)
    assert (learner._targets(torch.ones(200), torch.zeros(200, 1), torch.zeros(200)) == 1).all()


def test_policy_and_targets_wait_for_the_critics():
    learner = TD3BC(**SIZES, hidden=(8,), policy_delay=3)
    batches = Batches([(numbers(), 1)], batch=8)
    for count in range(1, 7):
        before = learner.state_dict()
        learner.update(batches.draw(count))
        after = learner.state_dict()
        moved = {k.split(".")[1] for k in after if k.startswith("networks") and not torch.equal(before[k], after[k])}
        assert moved == ({"critic"} if count % 3 else {"actor", "critic", "actor_target", "critic_target"})


def test_without_the_critic_td3_bc_is_behaviour_cloning():
    data = numbers()
    learner = TD3BC(**SIZES, hidden=(16, 16), alpha=0.0, policy_delay=1, standardize=False)
    weights = networks(learner.networks["actor"])[0]
    net = torch.nn.Sequential(torch.nn.Linear(STATE, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16), torch.nn.ReLU())
    net.extend([torch.nn.Linear(16, ACTION), torch.nn.Tanh()])
    for layer, (weight, bias) in zip(net[::2], weights, strict=True):
        layer.weight.data, layer.bias.data = weight.data, bias.data
    adam = torch.optim.Adam(net.parameters(), lr=3e-4)
    train_learner(learner, data, updates=40, batch=32, seed=3)
    batches = Batches([(data, 1)], batch=32, seed=3)
    for number in range(40):
        batch = batches.draw(number)
        adam.zero_grad()
        torch.nn.functional.mse_loss(net(batch["state"]), batch["action"]).backward()
        adam.step()
    somewhere = torch.linspace(-2, 2, 5 * STATE).view(5, STATE)
    torch.testing.assert_close(learner.policy(somewhere), net(somewhere), rtol=0, atol=1e-5)


# Closed forms.


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.9])
def test_the_expectile_of_uniform_numbers(expectile):
    """t (1 - m)^2 = (1 - t) m^2."""
    values = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    m = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    newton = torch.optim.LBFGS([m], tolerance_grad=1e-12, tolerance_change=1e-14, max_iter=100)

    def loss():
        newton.zero_grad()
        value = expectile_loss(values - m, expectile)
        value.backward()
        return value

    newton.step(loss)
    assert m.item() == pytest.approx(1 / (1 + math.sqrt((1 - expectile) / expectile)), abs=1e-4)


def test_advantage_weights_are_cut_and_never_overflow():
    advantages = torch.tensor([-2.0, 0.0, 1.0, 1.5, 2.0, 1e6])
    expected = torch.tensor([math.exp(-6), 1.0, math.exp(3), math.exp(4.5), 100.0, 100.0])
    torch.testing.assert_close(advantage_weight(advantages, 3.0, 100.0), expected)
    assert (advantage_weight(advantages, 0.0, 100.0) == 1).all()


def test_the_policys_learning_rate_falls_along_a_cosine():
    learner = IQL(**SIZES, hidden=(4,), learning_rate=1.0)
    rates = []
    learner.begin(numbers()["state"], updates=4)
    for number in range(6):
        learner.update(Batches([(numbers(), 1)], batch=4).draw(number))
        rates.append([group["lr"] for group in learner.optimizers["all"].param_groups])
    half = math.sqrt(0.5)
    assert np.array(rates)[:, 0] == pytest.approx([1, (1 + half) / 2, 0.5, (1 - half) / 2, 0, 0])
    assert (np.array(rates)[:, 1:] == 1).all()


@pytest.mark.parametrize("kind", [TD3BC, IQL])
@pytest.mark.parametrize(("terminated", "expected"), [(False, 2.0), (True, 1.0)])
def test_a_time_limit_is_no_end(kind, terminated, expected):
    """One state, reward 1, discount a half: worth 1 + 1/2 + 1/4 ... unless the task ends there."""
    data = TrajectoryDataset.from_arrays(
        states=[np.ones((2, 1), np.float32)] * 4,
        actions=[np.full((1, 1), x, np.float32) for x in (-0.5, 0.0, 0.25, 0.5)],
        rewards=[np.ones(1, np.float32)] * 4,
        tasks="wait",
        terminated=[terminated] * 4,
    ).transitions()
    assert data["truncated"].all() != terminated
    learner = kind(state_dim=1, action_dim=1, hidden=(16,), discount=0.5, learning_rate=0.01, tau=0.1)
    train_learner(learner, data, updates=400, batch=32)
    q = learner.q(torch.ones(4, 1), torch.from_numpy(data["action"]))
    assert q.shape == (2, 4)
    torch.testing.assert_close(q, torch.full((2, 4), expected), rtol=0, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_iqls_values_on_a_chain_are_those_of_dynamic_programming(expectile):
    """Five places: 1 goes right for -0.1, -1 stays for -0.3, 0 jumps back for 0.2; right of the last one pays 2."""
    rows, discount, last = [], 0.8, 4
    for place in range(5):
        rows += [(place, 1.0, 2.0 if place == last else -0.1, min(place + 1, last), place == last)]
        rows += [(place, -1.0, -0.3, place, False), (place, 0.0, 0.2, 0, False)]
    place, action, reward, after, ended = (np.array(column) for column in zip(*rows, strict=True))
    value, q = np.zeros(5), np.zeros(len(rows))
    for _ in range(300):
        q = reward + discount * np.where(ended, 0, value[after])
        for p in range(5):
            for _ in range(30):  # the expectile is a mean with weights that depend on it
                weight = np.where(q[place == p] > value[p], expectile, 1 - expectile)
                value[p] = (weight * q[place == p]).sum() / weight.sum()
    one_hot = np.eye(5, dtype=np.float32)
    columns = {"state": one_hot[place], "action": action[:, None], "next_state": one_hot[after]}
    columns |= {"reward": reward, "terminated": ended}
    data = {name: torch.from_numpy(column).float() for name, column in columns.items()}
    learner = IQL(
        state_dim=5, action_dim=1, hidden=(32, 32), discount=discount, expectile=expectile, learning_rate=3e-3, tau=0.1
    )
    learner.begin(data["state"], updates=1500)
    for _ in range(1500):
        learner.update(data)
    estimates = learner.v(torch.from_numpy(one_hot)).detach().numpy()
    assert np.ptp(value) > 0.5
    assert estimates == pytest.approx(value, abs=0.03)
    for learnt in learner.q(data["state"], data["action"]).detach().numpy():
        assert learnt == pytest.approx(q, abs=0.05)
