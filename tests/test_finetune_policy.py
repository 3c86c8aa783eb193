"""A planner as a policy: probabilities of its chains, the gradient of an update, episodes and what is remembered."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from finetune_point import NEAR, STEPS
from finetune_toy import BACKBONES, RECIPE, planner

from mtdiff.data.trajectory import Trajectory
from mtdiff.environments.vector import VectorEnv
from mtdiff.finetuning import FineTuning
from mtdiff.finetuning.best import Best
from mtdiff.finetuning.losses import surrogate
from mtdiff.finetuning.policy import ChainPolicy
from mtdiff.finetuning.progress import Tuned
from mtdiff.finetuning.rollouts import Collector, Rollouts
from mtdiff.finetuning.update import Lesson, Update
from mtdiff.recipe import load_recipe

FLOOR = 0.1


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


@pytest.mark.parametrize("execute", [4, 2])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_plan_weighed_again_has_the_density_of_its_noise(backbone: str, execute: int) -> None:
    policy = ChainPolicy(planner(backbone, execute=execute), std_floor=FLOOR)
    history = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(1))
    actions, chain = policy.plan(history, generators(6))
    entries = execute if backbone == "gpt2" else 4  # causal: what is not carried out is no part of it
    assert actions.shape == (6, execute, 1) and chain.shape == (6, 6, entries, 1)
    drawn = policy(history, chain)
    noise = torch.stack([torch.randn(6, 4, 1, generator=g) for g in generators(6)], dim=1)[1:, :, :entries]
    torch.testing.assert_close((chain[1:] - drawn.mean) / drawn.std[:, None, None, None], noise, rtol=1e-3, atol=1e-3)
    expected = -(0.5 * noise.square() + 0.5 * math.log(2 * math.pi)).sum((-2, -1)) - entries * drawn.std.log()[:, None]
    torch.testing.assert_close(drawn.log_prob(chain), expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("last", [None, 1, 2])
def test_the_gradient_of_an_update_is_that_of_a_plain_loop(backbone: str, last: int | None) -> None:
    """One plan and one timestep at a time, from the scheduler's coefficients and torch's Normal."""
    policy = ChainPolicy(planner(backbone), std_floor=FLOOR, last=last)
    history = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(1))
    _, chain = policy.plan(history, generators(3))
    advantage, solver = torch.tensor([1.0, -2.0, 0.5]), policy.solver
    with torch.no_grad():
        before = policy(history, chain).log_prob(chain)
        before += 0.3 * torch.randn(before.shape, generator=torch.Generator().manual_seed(2))
    calls: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        for name, module in (("network", policy.backbone.timestep), ("conditions", policy.conditioning))
    ]
    surrogate(policy(history, chain).log_prob(chain), before, advantage, 0.2).mean().backward()
    assert calls == ["conditions", "network"]  # each once, for all timesteps and plans
    for hook in hooks:
        hook.remove()
    ours = [value.grad.clone() for value in policy.denoiser.parameters()]
    policy.denoiser.zero_grad()
    losses = []
    for row, i in enumerate(range(len(solver) - len(before), len(solver))):
        std = max(solver.c[i], FLOOR)
        for b in range(3):
            x, timestep = chain[i, b : b + 1], torch.tensor([solver.timesteps[i]])
            x0 = policy.denoiser(x, timestep, policy.fields(history[b : b + 1])).clamp(-1, 1)
            mean = solver.a[i][0] * x + solver.b[i][0] * x0
            density = torch.distributions.Normal(mean, std).log_prob(chain[i + 1, b : b + 1]).sum()
            ratio = torch.exp(density - before[row, b])
            losses.append(-torch.min(ratio * advantage[b], ratio.clamp(0.8, 1.2) * advantage[b]))
    torch.stack(losses).mean().backward()
    for value, mine in zip(policy.denoiser.parameters(), ours, strict=True):
        torch.testing.assert_close(mine, value.grad, rtol=1e-2, atol=1e-4)


def test_weights_that_did_not_change_have_ratio_one() -> None:
    policy = ChainPolicy(planner(), std_floor=FLOOR)
    history = torch.randn(5, 2, 2)
    _, chain = policy.plan(history, generators(5))
    one, two = (policy(history, chain).log_prob(chain) for _ in range(2))
    assert torch.equal(one, two)


def test_the_pre_trained_weights_are_left_alone() -> None:
    pipe = planner()
    policy = ChainPolicy(pipe, std_floor=FLOOR)
    with torch.no_grad():
        next(policy.denoiser.parameters()).add_(1)
    assert not torch.equal(next(policy.denoiser.parameters()), next(pipe.backbone.parameters()))


def test_a_deterministic_scheduler_is_refused() -> None:
    message = (
        "scheduler: must draw Gaussian noise in its steps, because fine-tuning needs their probabilities, got "
        "DPMSolverMultistepScheduler, which is deterministic. Take ddpm, ddim with eta above 0, or dpm_solver with "
        "stochastic: true"
    )
    pipe = planner()
    from diffusers import DPMSolverMultistepScheduler

    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ChainPolicy(pipe, std_floor=FLOOR)


def collected(pipe: Any, goals: int = 2, first: int = 0, limit: int = STEPS, **settings: Any) -> Rollouts:
    told = FineTuning(**{"goals": goals, "rollouts_per_goal": 3, "environment_steps": 10_000, **settings})
    suite = load_recipe(RECIPE).build("suite")
    policy = ChainPolicy(pipe, std_floor=FLOOR)
    with VectorEnv(suite, ["straight"] * goals * 3, workers=1) as environments:
        return Collector(environments, "straight", told, limit).collect(policy, first, goals)


@pytest.mark.slow
def test_episodes_of_a_goal_share_it_and_nothing_else() -> None:
    pipe = planner()
    one = collected(pipe)
    begun = np.stack([episode.states[0] for episode in one.trajectories])
    assert one.goal.tolist() == [0, 0, 0, 1, 1, 1]
    assert (begun[:3] == begun[0]).all() and (begun[3:] == begun[3]).all() and (begun[0] != begun[3]).any()
    assert len({episode.actions.tobytes() for episode in one.trajectories}) == 6
    # What happens follows from the number of the goal alone, not from which others run beside it.
    later = collected(pipe, goals=1, first=1)
    for mine, theirs in zip(later.trajectories, one.trajectories[3:], strict=True):
        np.testing.assert_allclose(mine.states, theirs.states, atol=1e-5)
    other = collected(pipe, seed=1).trajectories
    assert all((mine.states[0] != theirs.states[0]).any() for mine, theirs in zip(one.trajectories, other, strict=True))


@pytest.mark.slow
def test_what_is_recorded_is_what_was_seen() -> None:
    pipe = planner()
    found = collected(pipe, stop_on_success=False)
    assert found.steps == 6 * STEPS and set(found.end) == {"truncated"}
    assert found.chunks.tolist() == [STEPS // 4] * 6
    for number, episode in enumerate(found.trajectories):
        assert not episode.terminated and episode.truncated
        mine = found.episode == number
        assert found.chunk[mine].tolist() == list(range(STEPS // 4))
        states = pipe.normalizer.states(torch.from_numpy(episode.states))
        begun = states[0:STEPS:4]
        torch.testing.assert_close(found.history[mine][:, -1], begun)
        assert (found.history[mine][0, 0] == 0).all()  # before the episode began
        torch.testing.assert_close(found.history[mine][1:, 0], states[3 : STEPS - 1 : 4])
        torch.testing.assert_close(found.final[number], states[-2:])
        planned = found.chain[-1, mine].flatten()
        torch.testing.assert_close(torch.from_numpy(episode.actions).flatten(), planned.clamp(-1, 1))
        expected = torch.from_numpy(episode.rewards).view(-1, 4).mean(1)
        torch.testing.assert_close(found.rewards[number], expected)


@pytest.mark.slow
def test_success_ends_an_episode_and_its_reward_goes_on() -> None:
    pipe = planner()
    found = collected(pipe, goals=8, reward="environment")
    won = [n for n, end in enumerate(found.end) if end == "success"]
    assert won and found.succeeded[won].all() and len(won) == found.succeeded.sum()
    for n in won:
        episode = found.trajectories[n]
        assert abs(episode.states[-1, 0] - episode.states[-1, 1]) < NEAR and not episode.success[:-1].any()
        last = int(found.chunks[n]) - 1
        assert (found.rewards[n, last + 1 :] == float(episode.rewards[-1])).all()
    only = collected(pipe, goals=8, reward="success")
    for n in won:
        padded = np.ones(STEPS, np.float32)
        padded[: len(only.trajectories[n]) - 1] = 0
        np.testing.assert_allclose(only.rewards[n], padded.reshape(-1, 4).mean(1))
    assert (only.rewards[[n for n in range(24) if n not in won]] == 0).all()


@pytest.mark.slow
def test_a_shorter_limit_truncates() -> None:
    found = collected(planner(), limit=10, stop_on_success=False)
    assert [len(one) for one in found.trajectories] == [10] * 6 and found.chunks.tolist() == [3] * 6


def episode(reward: float, *, won: bool = False, length: int = 3) -> Trajectory:
    return Trajectory(
        states=np.full((length + 1, 2), reward, np.float32), actions=np.zeros((length, 1), np.float32),
        rewards=np.full(length, reward, np.float32), success=np.arange(length) == (length - 1 if won else -1),
        terminated=False, truncated=True, task="straight",
    )  # fmt: skip


def remembered(best: Best) -> list[float]:
    return [float(one.rewards[0]) for one in best.kept]


def test_the_best_are_those_of_highest_return_until_one_succeeds() -> None:
    best = Best(3, "straight")
    best.add([episode(r) for r in (1, 5, 2, 4, 3, 0, 7, 6)])
    assert remembered(best) == [7, 6]  # a quarter of eight
    best.add([episode(r) for r in (9, 1, 1, 1, 8, 1, 1, 1)])
    assert remembered(best) == [7, 9, 8]  # at most three
    best.add([episode(0.5, won=True), episode(20)])
    assert remembered(best) == [0.5]
    best.add([episode(r, won=True) for r in (1, 2, 3)])
    assert remembered(best) == [1, 2, 3]  # the newest


def test_what_is_remembered_survives() -> None:
    best, again = Best(5, "straight"), Best(5, "straight")
    best.add([episode(1, won=True), episode(2, won=True, length=7)])
    again.load_state_dict(best.state_dict())
    assert again.seen == 2 and again.dataset().fingerprint == best.dataset().fingerprint


def lesson(policy: ChainPolicy, plans: int = 12) -> Lesson:
    history = torch.randn(plans, 2, 2, generator=torch.Generator().manual_seed(3))
    _, chain = policy.plan(history, generators(plans))
    return Lesson(history=history, chain=chain, advantage=torch.linspace(-1, 1, plans))


def test_the_divergence_of_unchanged_weights_is_nothing_and_pulls_back_changed_ones() -> None:
    pipe = planner()
    policy = ChainPolicy(pipe, std_floor=FLOOR)
    update = Update(pipe, policy, None, FineTuning(regularizer="kl", epochs=1, least_updates=1, batch=12), None)
    taught = lesson(policy)
    found = update._update(taught, torch.arange(12), *update._weigh(taught), torch.Generator())
    assert found["regularizer_loss"].item() == 0
    far = FineTuning(regularizer="kl", policy_weight=0, epochs=20, least_updates=60, batch=12, learning_rate=1e-3)
    update = Update(pipe, policy, None, far, None)
    with torch.no_grad():
        for value in policy.denoiser.parameters():
            value += 0.05
    progress = Tuned(torch.Generator().manual_seed(0))
    first = update.learn(taught, Best(1, "straight"), progress, lambda: None)
    last = update.learn(taught, Best(1, "straight"), progress, lambda: None)
    assert progress.updates == 120 and last["regularizer_loss"] < 0.5 * first["regularizer_loss"]


def test_updates_of_an_iteration_go_over_all_plans_equally_often() -> None:
    order = Update._order(5, 15, torch.Generator().manual_seed(0))
    assert torch.bincount(order).tolist() == [3] * 5 and sorted(order[:5].tolist()) == [0, 1, 2, 3, 4]
