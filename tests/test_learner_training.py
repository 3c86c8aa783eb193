"""Training learners: batches from several parts, going on bit for bit, acting, and what is refused."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from mtdiff import TrajectoryDataset, evaluate
from mtdiff.environments import Gymnasium
from mtdiff.errors import DataError, TrainingFault
from mtdiff.evaluation import Evaluation
from mtdiff.learners import IQL, TD3BC, Batches, return_scale, train_learner
from mtdiff.registry import LEARNERS

SIZES = {"state_dim": 3, "action_dim": 2}
SMALL = {"hidden": [8, 8], "learning_rate": 1e-3}


def numbers(count, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    return {
        "state": rng.normal(offset, 3, (count, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (count, 2)).astype(np.float32),
        "reward": np.full(count, offset, np.float32),
        "next_state": rng.normal(offset, 3, (count, 3)).astype(np.float32),
        "terminated": rng.random(count) < 0.2,
    }


def build(name, **arguments):
    return LEARNERS.build({"name": name, **SMALL}, **SIZES, **arguments)


def somewhere(learner):
    return learner.policy(torch.linspace(-2, 2, 15).view(5, 3)).detach()


# Batches.


def test_batches_are_drawn_by_share_and_uniformly_within_a_part():
    real, synthetic = numbers(5, offset=0.0), numbers(40, offset=7.0)
    batches = Batches([(real, 1), (synthetic, 3)], batch=100, seed=1)
    assert len(batches) == 45
    rows = torch.stack([batches.rows(number) for number in range(400)]).flatten().numpy()
    share = (rows < 5).mean()
    assert share == pytest.approx(0.25, abs=0.01)  # 40,000 draws: a standard deviation is 0.002
    counts = np.bincount(rows, minlength=45)
    assert counts[:5] == pytest.approx(np.full(5, 2000), rel=0.1)
    assert counts[5:] == pytest.approx(np.full(40, 750), rel=0.2)
    batch = batches.draw(7)
    picked = batches.rows(7)
    for name, values in batch.items():
        both = np.concatenate([real[name], synthetic[name]]).astype(np.float32)
        assert torch.equal(values, torch.from_numpy(both)[picked]), name


def test_a_batch_follows_from_its_number_alone():
    parts = [(numbers(50), 1), (numbers(50, seed=1), 2)]
    one, other = Batches(parts, batch=8, seed=3), Batches(parts, batch=8, seed=3)
    expected = {number: one.rows(number) for number in (0, 127, 128, 500)}
    for number in (500, 0, 128, 127):
        assert torch.equal(other.rows(number), expected[number])
    assert not torch.equal(expected[0], Batches(parts, batch=8, seed=4).rows(0))
    assert (Batches([(numbers(50), 0), (numbers(9), 1)], batch=99).rows(0) >= 50).all()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "transitions: shares should be at least 0 and not all 0, got none."),
        ([(numbers(3), 0)], "transitions: shares should be at least 0 and not all 0, got 0."),
        ([(numbers(3), 1), (numbers(3), -0.5)], "transitions: shares should be at least 0 and not all 0, got 1, -0.5."),
        ([(numbers(3), 1), (numbers(0), 1)], "transitions 1: should have at least one, got none."),
        (
            [({"state": np.zeros((2, 3))}, 1)],
            "transitions 0: should have state, action, next_state, reward, terminated; action is missing.",
        ),
        (
            [(numbers(3), 1), (numbers(3) | {"state": np.zeros((3, 4))}, 1)],
            "transitions 1: state and action sizes should be those before, (3, 2), got (4, 2).",
        ),
        ([(numbers(3) | {"reward": np.zeros((3, 1))}, 1)], "transitions 0: reward should have shape (3,), got (3, 1)."),
        (
            [(numbers(3) | {"next_state": np.full((3, 3), np.nan)}, 1)],
            "transitions 0: next_state has numbers that are not finite.",
        ),
        ([(numbers(3) | {"state": np.zeros(3)}, 1)], "transitions 0: state and action should be (N, O) and (N, A), "
            "got (3,), (3, 2)."),
    ],
)  # fmt: skip
def test_transitions_that_are_refused(parts, message):
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Batches(parts)


# Training.


@pytest.mark.parametrize("name", LEARNERS)
def test_training_goes_on_bit_for_bit(name):
    parts = [(numbers(60), 1), (numbers(60, seed=1), 2)]

    def noise(learner, batch):
        shaken = batch["state"] + 0.01 * torch.randn(batch["state"].shape, generator=learner.generator)
        return {**batch, "state": shaken}

    whole = build(name, seed=5)
    rows = train_learner(whole, parts, updates=151, batch=16, seed=2, augment=noise, log_every=50)
    assert [row["update"] for row in rows] == [50, 100, 150, 151]
    first, second = build(name, seed=5), build(name, seed=77)
    first.begin(parts[0][0]["state"], updates=151)
    train_learner(first, parts, updates=67, batch=16, seed=2, augment=noise)
    torch.manual_seed(9)  # no matter what else draws
    second.load_state_dict(load(save(first.state_dict())))
    train_learner(second, parts, updates=151, batch=16, seed=2, augment=noise)
    ours, theirs = second.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(somewhere(second), somewhere(whole))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_seed_decides_and_the_global_generator_is_left_alone(name):
    before = torch.random.get_rng_state()
    learners = [build(name, seed=seed) for seed in (1, 1, 2)]
    for learner in learners:
        train_learner(learner, numbers(40), updates=20, batch=8)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(somewhere(learners[0]), somewhere(learners[1]))
    assert not torch.equal(somewhere(learners[0]), somewhere(learners[2]))


def test_states_are_standardised_by_the_first_transitions():
    real, synthetic = numbers(60, offset=5.0), numbers(60, seed=1)
    real["state"][:, 2] = 4.0  # never changes
    learner = build("td3_bc")
    train_learner(learner, [(real, 1), (synthetic, 1)], updates=1, batch=4)
    seen = learner.standard(torch.from_numpy(real["state"]))
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(seen.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), rtol=0, atol=1e-3)
    raw = TD3BC(**SIZES, standardize=False)
    raw.begin(real["state"], updates=1)
    assert torch.equal(raw.standard(seen), seen)


def test_an_update_changes_neither_its_batch_nor_the_transitions():
    data = numbers(30)
    batch = {name: torch.from_numpy(values) for name, values in data.items()}
    copies = {name: values.clone() for name, values in batch.items()}
    for name in LEARNERS:
        learner = build(name)
        for _ in range(2):
            learner.update(batch)
    assert all(torch.equal(batch[name], copies[name]) for name in copies)


def test_gradients_reach_states_through_the_critics():
    learner = build("iql")
    states, actions = torch.randn(4, 3, requires_grad=True), torch.rand(4, 2, requires_grad=True)
    for slope in torch.autograd.grad(learner.q(states, actions).sum(), (states, actions)):
        assert (slope.abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", LEARNERS)
def test_the_policy_acts_in_an_evaluation(name):
    suite = Gymnasium(id="Pendulum-v1")
    learner = LEARNERS.build({"name": name, **SMALL}, state_dim=suite.state_dim, action_dim=suite.action_dim)
    settings = Evaluation(episodes_per_task=3, max_steps=5, workers=1)
    result = evaluate(learner.agent(), suite, settings=settings, progress=False)
    assert len(result.episodes) == 3
    states = np.random.default_rng(0).normal(size=(4, 3))
    together = learner.agent().act(states, np.arange(4))
    assert together.shape == (4, 1) and np.abs(together).max() <= 1
    assert together[2:3] == pytest.approx(learner.agent().act(states[2:3], np.array([9])), abs=1e-6)


def test_return_scale_spreads_the_returns():
    data = {"reward": np.array([1, 2, 3, 4, 10.0]), "terminated": np.array([0, 1, 0, 0, 0], bool)}
    data["truncated"] = np.array([0, 0, 1, 0, 1], bool)
    assert return_scale(data, spread=22) == pytest.approx(22 / (14 - 3))  # returns 3, 3 and 14
    with pytest.raises(DataError, match=re.escape("return_scale: 3 episodes all have the return 0.")):
        return_scale({**data, "reward": np.zeros(5)})


def test_transitions_of_a_dataset_are_taken_as_they_are():
    rng = np.random.default_rng(0)
    arrays = {
        "states": rng.normal(size=(2, 6, 3)),
        "actions": rng.uniform(-1, 1, (2, 5, 2)),
        "rewards": rng.random((2, 5)),
    }
    data = TrajectoryDataset.from_arrays(**arrays, tasks="any").transitions()
    assert len(Batches([(data, 1)])) == 10
    train_learner(build("iql", seed=1), data, updates=2, batch=4)


# Refused.


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("td3_bc", {"alpha": -1.0}, "alpha: must be at least 0, got -1.0"),
        ("td3_bc", {"policy_noise": -0.1}, "policy_noise: must be at least 0, got -0.1"),
        ("td3_bc", {"noise_clip": -0.1}, "noise_clip: must be at least 0, got -0.1"),
        ("td3_bc", {"policy_delay": 0}, "policy_delay: must be at least 1, got 0"),
        ("td3_bc", {"hidden": []}, "hidden: must be one or more widths of at least 1, got none"),
        ("td3_bc", {"hidden": [8, 0]}, "hidden: must be one or more widths of at least 1, got 8, 0"),
        ("td3_bc", {"discount": 1.5}, "discount: must be between 0 and 1, got 1.5"),
        ("iql", {"tau": 0.0}, "tau: must be above 0, got 0.0"),
        ("iql", {"learning_rate": 0.0}, "learning_rate: must be above 0, got 0.0"),
        ("iql", {"reward_scale": -1.0}, "reward_scale: must be above 0, got -1.0"),
        ("iql", {"expectile": 1.0}, "expectile: must be above 0 and below 1, got 1.0"),
        ("iql", {"beta": -3.0}, "beta: must be at least 0, got -3.0"),
        ("iql", {"max_weight": 0.0}, "max_weight: must be above 0, got 0.0"),
    ],
)
def test_settings_that_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LEARNERS.build({"name": name, **arguments}, **SIZES)


def test_transitions_of_other_sizes_are_refused():
    learner = IQL(state_dim=4, action_dim=2)
    message = "transitions: state and action sizes should be the learner's, (4, 2), got (3, 2)."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        train_learner(learner, numbers(5), updates=1)


def test_a_loss_that_is_not_finite_stops_training():
    learner = TD3BC(**SIZES, hidden=(4,), reward_scale=1e30)
    message = "critic_loss was not finite at update 1, got inf. Lower learning_rate or reward_scale"
    with pytest.raises(TrainingFault, match=f"^{re.escape(message)}$"):
        train_learner(learner, numbers(9, offset=1e9), updates=3, batch=4, log_every=1)


def test_the_state_of_another_learner_is_refused():
    learner = build("iql")
    state = learner.state_dict()
    with pytest.raises(DataError, match=re.escape("the state of IQL: 'generator' is missing")):
        learner.load_state_dict({key: value for key, value in state.items() if key != "generator"})
    with pytest.raises(DataError, match=re.escape("the state of IQL: 'more' is not one of its entries")):
        learner.load_state_dict({**state, "more": torch.ones(1)})
    message = "the state of a learner: 'state_loc' should have shape [3], got [4]"
    with pytest.raises(DataError, match=re.escape(message)):
        learner.load_state_dict({**state, "state_loc": torch.ones(4)})
