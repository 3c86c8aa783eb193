"""Collection in the real simulator: the ladder, seeds, workers, resuming, the folder it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mtdiff.collection import collect
from mtdiff.data.sources.collected import Collected
from mtdiff.data.sources.ladder import Faults, competence
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments.metaworld import MetaWorld
from mtdiff.errors import DataError, EnvironmentFault, RecipeError

SUITE = {"tasks": ["reach", "button-press-topdown"]}
EXPERT = {"trajectories_per_task": 27, "prompts_per_task": 2}  # two shards of a task


def record(source, count, task="reach-v3"):
    suite = MetaWorld(tasks=task)
    environment, expert = suite.make(task), suite.demonstrator(task)
    return [source.record(suite, environment, expert, split="trajectories", episode=e) for e in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A complete folder, collected by two workers; tests must not change it."""
    path = tmp_path_factory.mktemp("collected") / "expert"
    collect(suite=MetaWorld(**SUITE), source=Collected(**EXPERT), folder=path, workers=2, progress=False)
    return path


def test_the_ladder_of_competence():
    near = [competence("near_optimal", e, 20) for e in range(20)]
    assert near[0] == 0
    assert near[-6:] == [1.0] * 6
    assert near == sorted(near)
    assert [competence("sub_optimal", e, 10) for e in range(10)] == near[:10]
    assert max(near[:10]) < 0.7
    assert {competence("expert", e, 10) for e in range(10)} == {competence("near_optimal", 0, 1)} == {1.0}


def test_faults_vanish_with_competence():
    knobs = {
        "action_dim": 4, "gripper_channel": 3, "bias": 0.4, "stall": 1.0, "stall_steps": (10, 90),
        "gripper": 0.4,
        "noise": (0.05, 0.25),
    }  # fmt: skip
    drawn = {
        c: [Faults.draw(np.random.default_rng(s), competence=c, **knobs) for s in range(400)] for c in (0.0, 0.5, 1.0)
    }
    for c, faults in drawn.items():
        lengths = [np.linalg.norm(f.bias) for f in faults]
        np.testing.assert_allclose(lengths, 0.4 * (1 - c), atol=1e-12)
        assert all(f.bias[3] == 0 and f.sigma == pytest.approx(0.05 + 0.25 * (1 - c)) for f in faults)
        assert np.mean([f.stall_step >= 0 for f in faults]) == pytest.approx(1 - c, abs=0.08)
        assert np.mean([f.gripper for f in faults]) == pytest.approx(0.4 * (1 - c), abs=0.08)
        assert {10 <= f.stall_step <= 90 for f in faults if f.stall_step >= 0} <= {True}

    wrong = Faults(bias=np.array([0.1, 0, 0, 0]), stall_step=2, gripper=True, sigma=0.0)
    apply = {"gripper_channel": 3, "rng": np.random.default_rng(0)}
    wanted = np.float32([0.5, 0, -1, 0.75])
    np.testing.assert_allclose(wrong.apply(wanted, step=0, last=None, **apply), [0.6, 0, -1, -0.75], rtol=1e-6)
    last = np.float32([0.1, 0.2, 0.3, -0.4])
    np.testing.assert_array_equal(wrong.apply(wanted, step=2, last=last, **apply), np.float32([0, 0, 0, -0.4]))


@pytest.mark.slow
def test_competence_decides_about_success():
    source = Collected(quality="near_optimal", trajectories_per_task=15)
    episodes = record(source, 15, "push-v3")
    success = np.array([e.success.any() for e in episodes])
    c = np.array([e.labels["competence"] for e in episodes])
    assert {len(e) for e in episodes} == {200}
    assert success[c == 1].mean() >= 0.75
    assert success[c < 0.3].mean() <= 0.25
    assert np.corrcoef(c, [e.rewards.sum() for e in episodes])[0, 1] > 0.4
    first = episodes[0].labels
    assert list(first) == [
        "episode", "quality", "competence", "attempt", "source", "sigma", "bias", "stall_step", "gripper_fault",
        "goal", "seed",
    ]  # fmt: skip
    assert (first["competence"], first["sigma"], first["attempt"]) == (0.0, 0.3, 0)
    assert np.linalg.norm(first["bias"]) == pytest.approx(0.4)
    assert first["stall_step"] >= 10
    stalled = episodes[0].actions[first["stall_step"] :]
    assert not stalled[:, :3].any()
    assert len(np.unique(stalled[:, 3])) == 1


def test_sub_optimal_is_the_first_half_of_near_optimal():
    near = record(Collected(quality="near_optimal", trajectories_per_task=8, steps=60), 4)
    sub = record(Collected(quality="sub_optimal", trajectories_per_task=4, steps=60), 4)
    for a, b in zip(near, sub, strict=True):
        np.testing.assert_array_equal(a.states, b.states)
        np.testing.assert_array_equal(a.actions, b.actions)
        assert a.labels | {"quality": ""} == b.labels | {"quality": ""}


def test_a_task_of_which_little_is_to_be_known(tmp_path):
    shared = {"quality": "near_optimal", "steps": 5, "prompts_per_task": 1}
    source = Collected(**shared, trajectories_per_task=4, fewer={"reach-v3": 2})
    collect(suite=MetaWorld(**SUITE), source=source, folder=tmp_path / "mixed", workers=1, progress=False)
    data = TrajectoryDataset.load(tmp_path / "mixed")
    assert {row["task"]: row["episodes"] for row in data.summary()} == {"reach-v3": 2, "button-press-topdown-v3": 4}
    assert data.of_task("reach-v3").labels["competence"] == [0.0, 1.0], "its ladder is as wide"
    alone = record(Collected(**shared, trajectories_per_task=2), 2)
    for row, episode in enumerate(alone):
        np.testing.assert_array_equal(data.of_task("reach-v3")[row].states, episode.states)
    with pytest.raises(DataError, match="^data.fewer: unknown task 'push-v3'"):
        collect(suite=MetaWorld(**SUITE), source=Collected(fewer={"push-v3": 2}), folder=tmp_path / "x")


def test_experts_and_prompts(folder):
    data, prompts = TrajectoryDataset.load(folder), TrajectoryDataset.load(folder, split="prompts")
    assert (len(data), len(prompts), data.tasks) == (54, 4, ["reach-v3", "button-press-topdown-v3"])
    assert data.succeeded.all()
    assert prompts.succeeded.all()
    assert all(0 <= s <= 0.3 for s in data.labels["sigma"])
    assert len(set(data.labels["sigma"])) == 54
    assert set(prompts.labels["sigma"]) == {0.0}
    assert not set(data.labels["seed"]) & set(prompts.labels["seed"])
    for e in range(len(data)):
        assert len(data[e]) - int(np.argmax(data[e].success)) == 6  # five steps after the first success
    for e in range(len(prompts)):
        assert len(prompts[e]) >= 20
        assert len(prompts[e]) == 20 or np.argmax(prompts[e].success) == len(prompts[e]) - 1


def test_an_episode_can_be_played_again_from_its_labels(folder):
    data = TrajectoryDataset.load(folder)
    environment = MetaWorld(**SUITE).make("button-press-topdown-v3")
    old = data.of_task("button-press-topdown-v3")[5]
    np.testing.assert_array_equal(environment.reset(old.labels["seed"]), old.states[0])
    assert environment.goal == old.labels["goal"]
    for t, action in enumerate(old.actions):
        state, reward, success, _, _ = environment.step(action)
        np.testing.assert_array_equal(state, old.states[t + 1])
        assert (np.float32(reward), success) == (old.rewards[t], old.success[t])


@pytest.mark.slow
def test_one_worker_and_damage_lead_to_the_same_dataset(folder, tmp_path, capfd):
    suite, source, path = MetaWorld(**SUITE), Collected(**EXPERT), tmp_path / "d"
    expected = {s: TrajectoryDataset.load(folder, split=s).fingerprint for s in ("trajectories", "prompts")}
    result = collect(suite=suite, source=source, folder=path, workers=1)
    assert result["fingerprints"] == expected
    assert (result["episodes"], result["prompts"], result["collected"]) == (54, 4, 58)
    assert json.loads(json.dumps(result)) == result
    out, err = capfd.readouterr()
    assert out == ""
    assert "collect: 100%" in err

    assert collect(suite=suite, source=source, folder=path)["collected"] == 0
    (path / "data/reach-v3-00001.parquet").unlink()
    torn = path / "prompts/reach-v3-00000.parquet"
    torn.write_bytes(torn.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"data/reach-v3-00001.parquet: is missing"):
        TrajectoryDataset.load(path)
    result = collect(suite=suite, source=source, folder=path, progress=False)  # mends a complete folder
    assert (result["collected"], result["fingerprints"]) == (4, expected)

    (path / "dataset.json").unlink()  # as if killed before the end, in the middle of a file
    torn.write_bytes(torn.read_bytes()[:-9])
    (path / "data/.reach-v3-00001.parquet.partial").write_bytes(b"PAR1")
    (path / "data/reach-v3-00001.parquet").unlink()
    result = collect(suite=suite, source=source, folder=path, progress=False)
    assert (result["collected"], result["fingerprints"]) == (4, expected)
    assert not list(path.rglob("*.partial"))


@pytest.mark.slow
def test_ctrl_c_keeps_finished_shards(tmp_path):
    path, suite, many = tmp_path / "d", {"tasks": ["reach-v3"]}, {"trajectories_per_task": 120, "prompts_per_task": 1}
    script = (
        "from mtdiff.collection import *; from mtdiff.environments.metaworld import *; import signal\n"
        "from mtdiff.data.sources.collected import Collected\n"
        # A shell's background job, such as a CI runner's, inherits that SIGINT is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"collect(suite=MetaWorld(**{suite}), source=Collected(**{many}), folder={str(path)!r}, workers=1)"
    )  # a script without `if __name__ == '__main__'`
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for _ in range(6000):
        if list(path.glob("data/*.parquet")):  # the first of five shards: the other four take far longer than a poll
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode != 0
    assert out == ""
    assert err.count("Traceback") == 1
    assert not (path / "dataset.json").exists()
    arguments = {"suite": MetaWorld(**suite), "source": Collected(**many), "progress": False}
    resumed = collect(**arguments, folder=path)
    assert 0 < resumed["collected"] < 121
    assert resumed["fingerprints"] == collect(**arguments, folder=tmp_path / "whole")["fingerprints"]


def test_a_folder_of_other_settings_is_refused(folder, tmp_path):
    suite = MetaWorld(**SUITE)
    with pytest.raises(DataError) as caught:
        collect(suite=suite, source=Collected(**EXPERT, noise=0.1), folder=folder)
    assert str(caught.value) == (
        f"{folder}: was collected with other settings: data.noise is 0.3 there and 0.1 now. "
        "Choose another folder or remove this one."
    )
    with pytest.raises(DataError, match=r"suite.goal_visible is True there and False now"):
        collect(suite=MetaWorld(**SUITE, goal_visible=False), source=Collected(**EXPERT), folder=folder)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"holds trajectories that were not collected here; choose another folder."):
        collect(suite=suite, source=Collected(**EXPERT), folder=tmp_path)


def test_a_dead_worker_is_named(tmp_path, monkeypatch):
    from mtdiff.environments.processes import Worker

    send = Worker.send

    def send_and_kill(self, method, *arguments):
        send(self, method, *arguments)
        if arguments[2] == 3:
            os.kill(self.process.pid, signal.SIGKILL)

    monkeypatch.setattr(Worker, "send", send_and_kill)
    with pytest.raises(
        EnvironmentFault, match=r"^collect: reach-v3, trajectories episode \d: collection worker 0 \(process"
    ):
        collect(
            suite=MetaWorld(**SUITE),
            source=Collected(**EXPERT),
            folder=tmp_path / "d",
            workers=1,
            progress=False,
        )


def test_an_expert_that_keeps_failing_is_an_error(tmp_path):
    source = Collected(trajectories_per_task=1, prompts_per_task=0, max_attempts=2, steps=5)
    with pytest.raises(DataError) as caught:
        collect(suite=MetaWorld(tasks="push"), source=source, folder=tmp_path / "d", workers=1, progress=False)
    assert str(caught.value) == (
        "push-v3: the scripted expert failed 2 times in a row with noise up to 0.3 "
        "(trajectories, episode 0). Lower data.noise or raise data.max_attempts."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quality": "near-optimal"}, "data.quality: unknown quality 'near-optimal'. Allowed: expert, "
         "near_optimal, sub_optimal. Did you mean 'near_optimal'?"),
        ({"trajectories_per_task": 0}, "data.trajectories_per_task: should be at least 1, got 0."),
        ({"noise": -0.1}, "data.noise: should be at least 0, got -0.1."),
        ({"fault_stall": 1.5}, "data.fault_stall: a probability is at most 1, got 1.5."),
        ({"stall_steps": [9, 3]},
         "data.stall_steps: should be two numbers in order, at least 0, got [9, 3]."),
    ],
)  # fmt: skip
def test_refused_arguments(arguments, message):
    with pytest.raises(RecipeError) as caught:
        Collected(**arguments)
    assert str(caught.value) == message


def test_episodes_longer_than_the_suites_are_refused(tmp_path):
    suite = MetaWorld(tasks="reach", max_steps=100)
    with pytest.raises(DataError, match=r"data.steps: episodes of metaworld have at most 100 steps, got 150."):
        collect(suite=suite, source=Collected(steps=150), folder=tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_the_card(folder):
    card = (folder / "README.md").read_text()
    assert "**It is not the replay buffer of a reinforcement learner**" in card
    assert "| reach-v3 | 27 |" in card
    assert "license: mit" in card
    assert "mtdiff collect recipe.yaml" in card
    assert "metaworld 3." in card
    assert "mujoco 3." in card
