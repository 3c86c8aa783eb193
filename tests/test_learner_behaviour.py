"""Learners do better than copying, where the data were recorded by somebody who often did badly."""

import numpy as np
import pytest
from point_environment import STEPS, episodes

from mtdiff import TrajectoryDataset, evaluate
from mtdiff.environments import Gymnasium
from mtdiff.evaluation import Evaluation
from mtdiff.learners import train_learner
from mtdiff.registry import LEARNERS

SETTINGS = {"hidden": [64, 64], "learning_rate": 1e-3, "discount": 0.95, "tau": 0.01}
SEEDS = (0, 1, 2)


class Controller:
    """The good one of those that recorded the data, without its noise."""

    def reset(self, tasks, seeds):
        pass

    def act(self, states, slots):
        return np.clip(-4 * states[:, :2] - 6 * states[:, 2:], -1, 1)


def mean_return(agent):
    suite = Gymnasium(id="toy/Point-v0", imports=["point_environment"])
    result = evaluate(agent, suite, settings=Evaluation(episodes_per_task=30, workers=1), progress=False)
    assert {episode.steps for episode in result.episodes} == {STEPS}
    return float(np.mean([episode.total_reward for episode in result.episodes]))


@pytest.fixture(scope="module")
def datasets():
    return [TrajectoryDataset.from_arrays(**episodes(200, good=0.3, seed=seed), tasks="point") for seed in SEEDS]


def trained(datasets, name, **arguments):
    """The mean returns of one learner a seed."""
    returns = []
    for seed, dataset in zip(SEEDS, datasets, strict=True):
        learner = LEARNERS.build({"name": name, **SETTINGS, **arguments}, state_dim=4, action_dim=2, seed=seed)
        train_learner(learner, dataset.transitions(), updates=1500, batch=128, seed=seed)
        returns.append(mean_return(learner.agent()))
    return np.array(returns)


@pytest.fixture(scope="module")
def cloning(datasets):
    return trained(datasets, "td3_bc", alpha=0.0)


@pytest.mark.slow
def test_cloning_is_better_than_the_data_and_far_from_the_good_controller(datasets, cloning):
    assert max(dataset.returns.mean() for dataset in datasets) < cloning.min() - 5
    assert cloning.max() < 1.8 * mean_return(Controller())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), [("td3_bc", {}), ("iql", {"reward_scale": 5.0})])
def test_a_learner_beats_cloning_with_every_seed(name, arguments, datasets, cloning):
    gap = mean_return(Controller()) - cloning
    assert (trained(datasets, name, **arguments) - cloning > 0.4 * gap).all()
