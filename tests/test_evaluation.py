"""Evaluation in the real simulator: what is counted, and that nothing but the seed decides it."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binomtest, norm

import mtdiff.evaluation
from mtdiff.environments.metaworld import MetaWorld
from mtdiff.environments.suite import seed_of
from mtdiff.errors import DataError, EnvironmentFault, MTDiffError, RecipeError
from mtdiff.evaluation import (
    Evaluation,
    EvaluationResult,
    RandomAgent,
    ScriptedAgent,
    evaluate,
    latency,
    mean_of_rates,
    record_all,
    stratified_bootstrap,
    swap,
    why_no_video,
    wilson,
)

TASKS = ["reach-v3", "door-open-v3", "push-v3"]


@pytest.fixture(scope="module")
def suite() -> MetaWorld:
    return MetaWorld(tasks=TASKS)


@pytest.fixture(scope="module")
def expert(suite) -> EvaluationResult:
    settings = Evaluation(episodes_per_task=4, max_steps=200, workers=2)
    return evaluate(ScriptedAgent(suite), suite, settings=settings, progress=False)


class Held:
    """Holds one action; keeps what it was told and times nothing."""

    def __init__(self, action) -> None:
        self.action = np.asarray(action, np.float32)
        self.told: list[str] = []
        self.batches: list[int] = []

    def reset(self, tasks, seeds) -> None:
        self.told += tasks

    def act(self, states, slots):
        self.batches.append(len(slots))
        return np.tile(self.action, (len(states), 1))


# ---- statistics


@pytest.mark.parametrize(("successes", "episodes"), [(0, 20), (1, 20), (13, 20), (20, 20), (7, 9)])
def test_wilson_is_scipys_and_the_formulas(successes, episodes):
    interval = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    assert wilson(successes, episodes) == (interval.low, interval.high)
    z, n, p = norm.ppf(0.975), episodes, successes / episodes
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    arm = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson(successes, episodes) == pytest.approx((centre - arm, centre + arm), abs=1e-9)


def test_mean_of_rates():
    assert mean_of_rates([17], [20]) == pytest.approx(wilson(17, 20))
    low, high = mean_of_rates([20] * 4, [20] * 4)
    assert 0.9 < low < 0.95 and high == 1.0  # a bootstrap would say (1, 1)
    lows = [mean_of_rates([s * k // 20 for s in (19, 15)], [k, k])[0] for k in (20, 80, 320)]
    assert lows == sorted(lows)


def test_mean_of_rates_covers_the_truth():
    """At least 95 % of the intervals hold the true mean; the plain bootstrap's are too short here."""
    truth, episodes = np.array([0.97, 0.99, 0.85, 0.95]), 20
    draws = np.random.default_rng(0).binomial(episodes, truth, size=(300, 4))
    held = [low <= truth.mean() <= high for low, high in (mean_of_rates(d, [episodes] * 4) for d in draws)]
    assert np.mean(held) >= 0.93


def test_bootstrap_is_stratified_and_seeded():
    values = [[0.0] * 10, [1.0] * 5]  # no spread inside a task: no spread at all, whatever lies between tasks
    assert stratified_bootstrap(values) == (0.5, 0.5)
    noisy = np.random.default_rng(1).normal(size=(3, 40))
    assert stratified_bootstrap(noisy) == stratified_bootstrap(noisy)
    low, high = stratified_bootstrap(noisy)
    error = math.sqrt(sum(row.var() / 40 for row in noisy)) / 3
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_latency():
    assert latency([]) is None
    assert latency([(4, 0.1), (2, 0.3), (2, 0.2)]) == {
        "plans": 3,
        "batch": 2.0,
        "p50": 0.2,
        "p95": pytest.approx(0.29),
    }


# ---- rollouts


def test_the_demonstrator_succeeds_and_chance_does_not(suite, expert):
    assert list(expert.by_task) == TASKS
    assert expert.mean_success >= 0.8
    assert all(e.steps == e.success_step for e in expert.episodes if e.success)
    assert all(e.steps == 200 and e.success_step is None for e in expert.episodes if not e.success)
    settings = Evaluation(episodes_per_task=2, max_steps=60, workers=2)
    assert evaluate(RandomAgent(4), suite, settings=settings, progress=False).mean_success < 0.5


def test_rows_agree_with_the_episodes(expert):
    for task, row in expert.by_task.items():
        mine = [e for e in expert.episodes if e.task == task]
        assert (row.successes, row.episodes) == (sum(e.success for e in mine), 4)
        assert row.interval == wilson(row.successes, 4)
        assert row.steps == np.mean([e.steps for e in mine])
    assert expert.mean_success == pytest.approx(np.mean([e.success for e in expert.episodes]))
    assert expert.planning_seconds + expert.simulating_seconds <= expert.seconds


def test_seeds_are_evaluations_own(expert):
    assert [e.seed for e in expert.episodes] == [seed_of(0, "evaluation", e.task, e.episode) for e in expert.episodes]
    others = {seed_of(0, purpose, t, n) for purpose in ("data", "prompts") for t in TASKS for n in range(50)}
    assert not others & {e.seed for e in expert.episodes}


def test_stopping_at_success_changes_no_success(suite, expert):
    settings = Evaluation(episodes_per_task=4, max_steps=200, workers=2, stop_on_success=False)
    full = evaluate(ScriptedAgent(suite), suite, settings=settings, progress=False)
    assert [e.success_step for e in full.episodes] == [e.success_step for e in expert.episodes]
    assert all(e.steps == 200 for e in full.episodes)
    assert all(a.total_reward >= b.total_reward for a, b in zip(full.episodes, expert.episodes, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["random", "scripted"])
def test_workers_rounds_and_neighbours_change_nothing(suite, agent):
    def run(tasks, **changes):
        settings = Evaluation(episodes_per_task=3, max_steps=60, **changes)
        one = RandomAgent(4) if agent == "random" else ScriptedAgent(suite)
        return evaluate(one, suite, tasks=tasks, settings=settings, progress=False).episodes

    together = run(TASKS, workers=2)
    assert run(TASKS, workers=1, slots=6) == together  # two rounds, the second one not full
    assert run(["push-v3"], workers=1) == [e for e in together if e.task == "push-v3"]
    other = run(["push-v3"], workers=1, seed=1)
    assert not {e.seed for e in other} & {e.seed for e in together}


def test_finished_slots_leave_the_batch(suite):
    class Watching(ScriptedAgent):
        batches: list[int] = []

        def act(self, states, slots):
            self.batches.append(len(slots))
            return super().act(states, slots)

    agent = Watching(suite)
    result = evaluate(agent, suite, settings=Evaluation(episodes_per_task=2, max_steps=120, workers=2), progress=False)
    assert sum(agent.batches) == sum(e.steps for e in result.episodes)
    assert agent.batches == sorted(agent.batches, reverse=True)


def test_swapped_prompt(suite):
    assert swap(TASKS) == {"reach-v3": "door-open-v3", "door-open-v3": "push-v3", "push-v3": "reach-v3"}
    with pytest.raises(MTDiffError, match=r"at least two tasks, got 1\."):
        swap(["reach-v3"])
    agent = Held([0, 0, 0, 0])
    settings = Evaluation(episodes_per_task=1, max_steps=3, workers=1)
    result = evaluate(agent, suite, settings=settings, told=swap(TASKS), progress=False)
    assert agent.told == ["door-open-v3", "push-v3", "reach-v3"]
    assert list(result.by_task) == TASKS
    assert [row.told for row in result.by_task.values()] == agent.told


def test_plan_latency_is_this_evaluations_only(suite):
    class Timed(Held):
        plan_seconds = [(99, 9.0)]

        def act(self, states, slots):
            self.plan_seconds.append((len(slots), 0.01))
            return super().act(states, slots)

    settings = Evaluation(episodes_per_task=2, max_steps=3, workers=1, slots=1)
    result = evaluate(Timed([0, 0, 0, 0]), suite, tasks=["reach-v3"], settings=settings, progress=False)
    assert result.latency == {"plans": 6, "batch": 1.0, "p50": 0.01, "p95": 0.01}


def test_json_round_trip(expert):
    text = json.dumps(expert.to_dict())
    again = EvaluationResult.from_dict(json.loads(text))
    assert again == expert
    assert json.dumps(again.to_dict()) == text
    assert json.loads(text)["mean_success"] == expert.mean_success
    with pytest.raises(DataError, match="not an evaluation result written by mtdiff"):
        EvaluationResult.from_dict({"episodes": [{"tsak": 1}]})


def test_progress_goes_to_stderr(suite, capfd):
    settings = Evaluation(episodes_per_task=1, max_steps=2, workers=1)
    evaluate(Held([0, 0, 0, 0]), suite, tasks=["reach-v3"], settings=settings, label="checking")
    out, err = capfd.readouterr()
    assert out == "" and "checking" in err and "0 succeeded" in err


def test_messages(suite):
    agent = Held([0, 0, 0, 0])
    with pytest.raises(MTDiffError, match=r"unknown task 'reach-v4'\. Allowed: .* Did you mean 'reach-v3'\?"):
        evaluate(agent, suite, tasks=["reach-v4"])
    with pytest.raises(MTDiffError, match=r"evaluation\.max_steps: should be at most 500 \(metaworld\), got 501\."):
        evaluate(agent, suite, settings=Evaluation(max_steps=501))
    with pytest.raises(RecipeError, match=r"^episodes_per_task: should be at least 1, got 0\.$"):
        Evaluation(episodes_per_task=0)
    short = Evaluation(episodes_per_task=1, workers=1)
    with pytest.raises(MTDiffError, match=r"actions of shape \(1, 3\), should be \(1, 4\)"):
        evaluate(Held([0, 0, 0]), suite, tasks=["reach-v3"], settings=short, progress=False)
    with pytest.raises(MTDiffError, match="not finite"):
        evaluate(Held([0, 0, 0, np.nan]), suite, tasks=["reach-v3"], settings=short, progress=False)
    with pytest.raises(EnvironmentFault, match="needs goal_visible: true"):
        ScriptedAgent(MetaWorld(tasks="reach", goal_visible=False))


def test_settings_are_read_without_heavy_imports():
    heavy = {"torch", "scipy", "matplotlib", "mujoco"}
    code = f"import sys, mtdiff.evaluation as e; e.Evaluation(); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    assert set(mtdiff.evaluation._MODULE) == set(mtdiff.evaluation.__all__)
    assert all(getattr(mtdiff.evaluation, name) for name in mtdiff.evaluation.__all__)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Evaluation().seed = 1  # type: ignore[misc]


# ---- videos


@pytest.fixture(scope="module")
def renderer() -> None:
    if reason := why_no_video():
        pytest.skip(reason)


@pytest.mark.slow
def test_videos_can_be_decoded_and_are_upright(suite, renderer, capfd):
    import imageio.v3

    def red_rows(lift: float) -> tuple[float, float]:
        film = record_all(Held([0, 0, lift, 0]), suite, TASKS[:2], size=120, every=8, max_steps=24, workers=2)
        assert list(film) == TASKS[:2]
        video = film["reach-v3"]
        assert video.steps == 24 and not video.success and len(video.mp4) < 150_000
        frames = imageio.v3.imread(video.mp4, plugin="FFMPEG", extension=".mp4").astype(int)
        assert frames.shape == (
            4 + 20,
            120,
            120,
            3,
        )  # start, three times eight steps, then a second of the last
        red, green, blue = np.moveaxis(frames, -1, 0)
        arm = (red > 60) & (red > 2 * green) & (red > 2 * blue)
        rows = np.arange(120)[:, None]
        return tuple(float((arm[i] * rows).sum() / arm[i].sum()) for i in (0, -1))

    (start_up, end_up), (start_down, end_down) = red_rows(1.0), red_rows(-1.0)
    assert start_up == pytest.approx(start_down, abs=0.5)
    assert end_up < end_down - 1  # a hand that is raised goes towards row 0
    assert "EGLError" not in "".join(capfd.readouterr())


def test_a_video_needs_an_even_size(suite):
    with pytest.raises(MTDiffError, match="video size: should be even, .* got 241"):
        record_all(Held([0, 0, 0, 0]), suite, size=241)


def test_why_there_is_no_video(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nothing")
    reason = why_no_video.__wrapped__()
    assert reason is not None and "\n" not in reason
    assert reason.startswith("no off-screen renderer (MUJOCO_GL=nothing): RuntimeError")
    assert "apt-get install libegl1" in reason
