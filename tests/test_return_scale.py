"""The return that a decision transformer is asked for: on one scale for all tasks, falling, and followed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import TASKS
from test_decision_transformer import untrained

from mtdiff.compose import windows
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.pipelines import PolicyAgent
from mtdiff.policies.return_scale import ReturnScale
from mtdiff.training import Trainer, Training


def test_returns_are_of_the_task_and_fall_by_what_was_gained():
    data = TrajectoryDataset.from_arrays(
        states=[np.zeros((n + 1, 1), np.float32) for n in (2, 2, 3)],
        actions=[np.zeros((n, 1), np.float32) for n in (2, 2, 3)],
        rewards=[np.array(r, np.float32) for r in ([1, 2], [5, 5], [-1, -1, -2])],
        tasks=["a", "a", "b"],
    )
    scale = ReturnScale(2)
    scale.measure(data)
    torch.testing.assert_close(scale.low, torch.tensor([3.35, -4.0, -0.325]))
    torch.testing.assert_close(scale.high, torch.tensor([9.65, -4.0, 2.825]))
    torch.testing.assert_close(scale.least, torch.tensor([2.0, -4.0, -1.0]))
    torch.testing.assert_close(scale.most, torch.tensor([10.0, -2.0, 4.0]))
    torch.testing.assert_close(scale.size, torch.tensor([9.65, 4.0, 6.825]))
    rewards = torch.tensor([[0.0, 1.0, 2.0, 0.0]])[:, :, None]  # the present step's is still to come
    still = scale.still_asked(torch.tensor([[1.0]]), torch.tensor([[4.0]]), rewards, torch.tensor([0]))
    expected = torch.tensor([8.65, 8.65, 7.65, 5.65]) / 9.65  # 1 was gained before the window
    torch.testing.assert_close(still[0, :, 0], expected)
    # never more or less than the data have, whatever is asked for or was gained
    for asked, gained, end in ((9.0, 0.0, 10.0), (1.0, 50.0, 2.0)):
        still = scale.still_asked(torch.tensor([[asked]]), torch.tensor([[gained]]), 0 * rewards, torch.tensor([0]))
        assert still[0, -1, 0] == pytest.approx(end / 9.65)
    # a task that was not trained has what is usual in the others
    still = scale.still_asked(torch.tensor([[0.0]]), torch.tensor([[0.0]]), 0 * rewards, torch.tensor([-1]))
    assert still[0, -1, 0] == pytest.approx(-0.325 / 6.825)


def told_by_the_return():
    """Two tasks; in each, an action of 0.5 times the task's sign is paid for in some episodes, its opposite not."""
    rng, count = np.random.default_rng(0), 200
    tasks = [TASKS[e % 2] for e in range(count)]
    good = [1.0 if e // 2 % 2 else -1.0 for e in range(count)]
    signs = [(1.0 if e % 2 else -1.0) * good[e] for e in range(count)]
    return TrajectoryDataset.from_arrays(
        states=[rng.normal(size=(7, 3)).astype(np.float32) for _ in range(count)],
        actions=[np.full((6, 2), 0.5 * sign, np.float32) for sign in signs],
        rewards=[np.full(6, (1.0 + side) / 2, np.float32) for side in good],
        tasks=tasks,
    )


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"tokens": "joint", "horizon": 2}], ids=str)
def test_it_learns_what_is_paid_for_and_does_what_is_asked(tmp_path, changes):
    data = told_by_the_return()
    pipe = untrained(data, None, {"task": {"name": "one_hot"}}, action_tokens=False, width=32, num_layers=1, **changes)
    settings = Training(updates=200, batch_per_task=8, learning_rate=1e-2, validation=0, log_with=(), ema_decay=0.9)
    Trainer(pipe, None, windows(pipe, data, None), None, settings, seed=0, folder=tmp_path).run()
    for asked, side in ((1.0, 1.0), (0.0, -1.0)):
        agent = PolicyAgent(pipe, target_return=asked)
        agent.reset(list(TASKS), [0, 1])
        for _ in range(2):
            acted = agent.act(np.random.default_rng(2).normal(size=(2, 3)), np.arange(2))
            np.testing.assert_allclose(acted, [[-0.5 * side] * 2, [0.5 * side] * 2], atol=0.15)
            agent.observe(np.full(2, (1 + side) / 2), np.arange(2))
