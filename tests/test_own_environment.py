"""An environment and data that mtdiff did not bring: train, evaluate, report; and data without any environment."""

import copy
import json

import numpy as np
import pytest

import mtdiff
from mtdiff.collection import collect
from mtdiff.data.sources.collected import Collected
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments import Gymnasium, Offline
from mtdiff.environments.suite import seed_of
from mtdiff.environments.vector import VectorEnv
from mtdiff.errors import EnvironmentFault, MTDiffError, RecipeError
from mtdiff.evaluation import (
    Evaluation,
    EvaluationResult,
    RandomAgent,
    Report,
    ScriptedAgent,
    evaluate,
    record_all,
    stratified_bootstrap,
)
from mtdiff.evaluation.plots import return_bars
from mtdiff.evaluation.report import render
from mtdiff.evaluation.video import why_no_video
from mtdiff.reporting import evaluate_trained, to_document
from mtdiff.terminal import print_evaluation

TOYS = ["toy_environments"]
TASK = "Pendulum-v1"
RECIPE = {
    "suite": {"name": "gymnasium", "id": TASK},
    "representation": {"name": "actions", "horizon": 8},
    "conditioning": {"history": {"name": "history", "hidden": [32], "input_norm": False}},
    "backbone": {"name": "residual_mlp", "width": 64, "num_layers": 2},
    "scheduler": {"name": "ddpm", "num_train_timesteps": 50},
    "sampling": {"scheduler": {"name": "dpm_solver"}, "num_inference_steps": 4},
    "training": {
        "updates": 400, "batch_per_task": 64, "learning_rate": 2e-3, "learning_rate_schedule": "cosine",
        "validation": 0.0, "log_with": [],
    },
    "evaluation": {"episodes_per_task": 8, "workers": 2},
}  # fmt: skip
NO_SIMULATOR = (
    "offline: this suite has no simulator, so {}. To train, bring data: data: {{name: folder, path: FOLDER}}. "
    "To evaluate or collect, name a suite that has one: suite.name=gymnasium suite.id=..., or your own."
)


def swing_up(state):
    """Put energy in until the pole is nearly upright, then hold it there. States are cosine, sine and speed."""
    cosine, sine, speed = state
    if cosine > 0.8 and abs(speed) < 5:
        torque = -10 * np.arctan2(sine, cosine) - 2 * speed
    else:
        missing = 5 * (1 - cosine) - speed**2 / 6  # of a rod of 1 kg and 1 m at g = 10
        torque = missing * np.tanh(2 * speed + 0.1)
    return np.clip(torque / 2, -1, 1)


def record(environment, episode):
    """The controller's noisy episode, as arrays."""
    rng = np.random.default_rng(episode)
    states, actions, rewards, over = [environment.reset(seed_of(0, "data", TASK, episode))], [], [], False
    while not over:
        actions.append(np.clip(swing_up(states[-1]) + rng.normal(0, 0.3, 1), -1, 1))
        state, reward, _, terminated, truncated = environment.step(actions[-1])
        states.append(state)
        rewards.append(reward)
        over = terminated or truncated
    return np.stack(states), np.stack(actions), np.array(rewards)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A planner trained on the controller's episodes."""
    root = tmp_path_factory.mktemp("own")
    environment = Gymnasium(id=TASK).make(TASK)
    states, actions, rewards = zip(*(record(environment, episode) for episode in range(40)), strict=True)
    data = TrajectoryDataset.from_arrays(states=states, actions=actions, rewards=rewards, tasks=TASK)
    data.save(root / "pendulum")
    recipe = {**copy.deepcopy(RECIPE), "data": {"name": "folder", "path": str(root / "pendulum")}}
    return mtdiff.train(recipe, root=root / "outputs")


@pytest.fixture(scope="module")
def returns():
    """Random actions on the pendulum: a result that knows no success."""
    settings = Evaluation(episodes_per_task=8, workers=2)
    suite = Gymnasium(id=TASK, tasks={"earth": {}, "moon": {"g": 1.62}})
    return evaluate(RandomAgent(1), suite, settings=settings, progress=False)


# ---- from data to report


@pytest.mark.slow
def test_a_planner_of_own_data_in_a_gymnasium_environment(run, capsys):
    suite = Gymnasium(id=TASK)
    settings = Evaluation(episodes_per_task=8, workers=2)
    chance = evaluate(RandomAgent(1), suite, settings=settings, progress=False)
    findings, page = evaluate_trained(run.folder, progress=False)
    planner = findings.result
    assert [e.seed for e in planner.episodes] == [e.seed for e in chance.episodes]
    assert (planner.measure, findings.demonstrator, findings.swapped) == ("return", None, None)
    assert all(e.steps == 200 for e in planner.episodes)
    assert chance.mean_return < -900 and planner.mean_return > -400
    assert planner.return_interval()[0] > chance.return_interval()[1]

    text = page.read_text(encoding="utf-8")
    for words in (
        "Mean return", "Return per task", "8 episodes of one task. Trained for 400 updates", "on 40 episodes (8,000",
        "The data were brought along, not recorded by mtdiff", "This suite has no scripted expert to compare with.",
        "Every evaluation episode follows from a seed that is used for evaluation only.", "a seed of its own",
    ):  # fmt: skip
        assert words in text, words
    for words in ("scripted experts", "scripted episodes", "Mean success", "random goal", "own prompt", "replay"):
        assert words not in text, words

    document = json.loads(json.dumps(to_document(findings, page)))
    assert (document["measure"], document["mean_success"], document["mean_interval"]) == ("return", None, None)
    assert document["mean_return"] == planner.mean_return
    assert document["tasks"][TASK]["success"] is None
    assert document["tasks"][TASK]["return_interval"] == list(planner.return_interval())
    print_evaluation(document)
    printed = capsys.readouterr().out
    low, high = planner.return_interval()
    assert f"{planner.mean_return:.1f}   {low:.1f} to {high:.1f}" in printed and "success" not in printed

    if reason := findings.no_video_reason:  # drawing a pendulum needs pygame, which mtdiff does without
        assert reason.startswith(f"{TASK}: cannot be drawn: DependencyNotInstalled: pygame is not installed")
        assert "No videos on this machine: Pendulum-v1: cannot be drawn" in text
    again, _ = evaluate_trained(run.folder, progress=False)
    assert again.result == planner and again.videos == findings.videos


@pytest.mark.slow
def test_a_planner_is_evaluated_only_where_it_fits(run):
    with pytest.raises(MTDiffError) as caught:
        evaluate_trained(run.folder, ["suite.id=HalfCheetah-v5"], progress=False)
    assert str(caught.value) == (
        "suite: this planner was trained on states of 3 numbers and actions of 1, and 'gymnasium' has 17 and 6"
    )
    overrides = ["suite.name=offline", f"suite.tasks=[{TASK}]", "suite.state_dim=3", "suite.action_dim=1"]
    with pytest.raises(EnvironmentFault) as caught:
        evaluate_trained(run.folder, overrides, progress=False)
    assert str(caught.value) == NO_SIMULATOR.format("no episode can be run")


# ---- results without success


def test_returns_stand_in_for_success(returns):
    assert returns.measure == "return" and returns.whole and returns.settings["stop_on_success"]
    by_task = {task: [e.total_reward for e in returns.episodes if e.task == task] for task in ("earth", "moon")}
    assert returns.mean_return == pytest.approx(np.mean([np.mean(values) for values in by_task.values()]))
    assert returns.return_interval() == stratified_bootstrap(list(by_task.values()))
    assert returns.return_interval("moon") == stratified_bootstrap([by_task["moon"]])
    found = json.loads(json.dumps(returns.to_dict()))
    assert (found["mean_success"], found["mean_interval"], found["tasks"]["moon"]["successes"]) == (None, None, None)
    assert found["mean_return_interval"] == list(returns.return_interval())
    assert EvaluationResult.from_dict(found) == returns
    old = {key: value for key, value in found.items() if key != "measure"}  # as written by earlier versions
    assert EvaluationResult.from_dict(old).measure == "success"


def test_one_episode_has_no_interval():
    settings = Evaluation(episodes_per_task=1, workers=1, max_steps=5)
    one = evaluate(RandomAgent(1), Gymnasium(id=TASK), settings=settings, progress=False)
    assert one.return_interval() is None and one.return_interval(TASK) is None
    page = render(Report(title="One", result=one, told_by="", random_goals=False))
    assert '95\N{NO-BREAK SPACE}% interval <span class="nb">–</span>, 1 task, 1 episodes' in page


def test_the_page_shows_returns(returns):
    page = render(Report(title="Returns", result=returns, told_by="label", random_goals=False, swapped=returns))
    for task in returns.by_task:
        low, high = returns.return_interval(task)
        value = f"{returns.by_task[task].total_reward:.0f}"
        interval = " to ".join(f"{end:.0f}" if abs(end) >= 1000 else f"{end:.3g}" for end in (low, high))
        if abs(returns.by_task[task].total_reward) < 1000:
            value = f"{returns.by_task[task].total_reward:.3g}"
        cell = f"<td>{value} <small>{interval}</small></td>".replace("-", "\N{MINUS SIGN}")
        assert page.count(cell) == 2  # own and swapped
    for words in ("Swapped label", "own label", "told another task", "the luck of the seeds", "Mean return per task"):
        assert words in page
    assert return_bars(returns, returns) in page


def test_success_and_return_stand_side_by_side_where_both_are_known():
    settings = Evaluation(episodes_per_task=4, workers=1, stop_on_success=False)
    toy = Gymnasium(id="toy/Line-v0", imports=TOYS)
    result = evaluate(RandomAgent(1), toy, settings=settings, progress=False)
    assert result.measure == "success" and result.whole and result.mean_return == -10.0
    page = render(Report(title="Both", result=result, random_goals=False))
    assert '<th scope="col">return</th>' in page and "<td>−10 <small>−10 to −10</small></td>" in page
    assert "Success per task" in page


# ---- what a suite without an expert, or without a simulator, refuses


def test_nothing_is_collected_without_an_expert(tmp_path):
    with pytest.raises(EnvironmentFault, match=rf"^gymnasium: '{TASK}' has no scripted expert; bring data: "):
        collect(suite=Gymnasium(id=TASK), source=Collected(), folder=tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()
    settings = Evaluation(episodes_per_task=1, workers=1)
    with pytest.raises(EnvironmentFault, match="has no scripted expert; bring data"):
        evaluate(ScriptedAgent(Gymnasium(id=TASK)), Gymnasium(id=TASK), settings=settings, progress=False)


def test_an_offline_suite_runs_nothing(tmp_path):
    suite = Offline(tasks=["stack", "pour"], state_dim=24, action_dim=7)
    assert (suite.tasks, suite.state_dim, suite.action_dim) == (["stack", "pour"], 24, 7)
    assert suite.describe() == {"name": "offline", "tasks": ["stack", "pour"], "state_dim": 24, "action_dim": 7}

    def in_a_worker():
        with VectorEnv(suite, ["pour"], workers=1) as env:
            env.reset([0])

    for call, message in (
        (lambda: evaluate(RandomAgent(7), suite, progress=False), NO_SIMULATOR.format("no episode can be run")),
        (
            lambda: collect(suite=suite, source=Collected(), folder=tmp_path / "data", progress=False),
            NO_SIMULATOR.format("'stack' cannot be demonstrated"),
        ),
        (lambda: suite.make("pour"), NO_SIMULATOR.format("'pour' cannot be made")),
        (in_a_worker, "slot 0 (pour): " + NO_SIMULATOR.format("'pour' cannot be made")),
    ):
        with pytest.raises(EnvironmentFault) as caught:
            call()
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "suite.tasks: no task named. Name those of the data."),
        ({"tasks": ["stack", "pour", "stack"]}, "suite.tasks: each should be named once, got 'stack' twice."),
        ({"state_dim": 0}, "state_dim: must be at least 1, got 0"),
        ({"action_dim": -1}, "action_dim: must be at least 1, got -1"),
    ],
)
def test_refused_offline_arguments(changes, message):
    with pytest.raises((RecipeError, ValueError)) as caught:
        Offline(**({"tasks": ["stack"], "state_dim": 3, "action_dim": 2} | changes))
    assert str(caught.value) == message


# ---- films


def test_a_film_of_an_environment_that_draws_without_mujoco():
    if reason := why_no_video(None):
        pytest.skip(reason)
    suite = Gymnasium(id="toy/Pixels-v0", imports=TOYS)
    assert suite.draws_with is None
    film = record_all(RandomAgent(1), suite, size=64, workers=1)["toy-Pixels-v0"]
    assert (film.steps, film.total_reward) == (10, -10.0) and len(film.mp4) > 500


@pytest.mark.slow
def test_a_film_of_a_mujoco_environment():
    import imageio.v3

    suite = Gymnasium(id="HalfCheetah-v5")
    assert suite.draws_with == "mujoco"
    if reason := why_no_video("mujoco"):
        pytest.skip(reason)
    film = record_all(RandomAgent(6), suite, size=120, max_steps=8, workers=1)["HalfCheetah-v5"]
    frames = imageio.v3.imread(film.mp4, plugin="FFMPEG", extension=".mp4").astype(int)
    assert frames.shape == (5 + 20, 120, 120, 3) and film.steps == 8
    assert np.abs(frames[0] - frames[4]).max() > 30 and frames[0].std() > 10
