"""Meta-World in this process and in workers: tasks, seeds, goals, limits, faults. In the real simulator."""

import hashlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from mtdiff.environments.metaworld import MetaWorld, resolve_tasks
from mtdiff.environments.suite import PURPOSES, portable, rebuild, seed_of
from mtdiff.environments.vector import VectorEnv
from mtdiff.errors import EnvironmentFault, RecipeError
from mtdiff.registry import SUITES

TASKS = ["reach", "door-open"]


def play(environment, seed, steps=25):
    """Return everything that an episode under fixed actions shows."""
    rng = np.random.default_rng(seed)
    seen = [environment.reset(seed)]
    for _ in range(steps):
        state, reward, success, _, _ = environment.step(rng.uniform(-1, 1, 4))
        seen.append(np.append(state, [reward, success]))
    return np.concatenate([np.array(environment.goal), *seen])


def test_task_spellings():
    from metaworld.env_dict import ML45_V3, MT10_V3

    assert resolve_tasks("reach") == resolve_tasks("reach-v3") == ["reach-v3"]
    assert resolve_tasks("mt10") == list(MT10_V3)
    assert len(resolve_tasks("mt50")) == 50
    train, test = resolve_tasks("ml45_train"), resolve_tasks("ml45_test")
    assert (len(train), len(test), set(train) & set(test)) == (45, 5, set())
    assert (train, test) == (list(ML45_V3["train"]), list(ML45_V3["test"]))
    assert resolve_tasks(["push", "mt10", "reach-v3"]) == ["push-v3", *(t for t in MT10_V3 if t != "push-v3")]


def test_registered_under_its_name():
    suite = SUITES.build({"name": "metaworld", "tasks": ["reach", "push"], "goal_visible": False})
    assert suite.tasks == ["reach-v3", "push-v3"]
    assert suite.describe() == {
        "name": "metaworld", "tasks": ["reach-v3", "push-v3"], "goal_visible": False, "max_steps": 500,
        "reward": "v2",
    }  # fmt: skip
    assert rebuild(portable(suite)).describe() == suite.describe()


@pytest.mark.parametrize(
    ("arguments", "start", "end"),
    [
        (
            {"tasks": "puhs"},
            "suite.tasks: unknown task 'puhs'. Allowed: mt10, mt25, mt50,",
            "Did you mean 'push'?",
        ),
        ({"tasks": ["reach", "ml45"]}, "suite.tasks: unknown task 'ml45'. Allowed:", ""),
        ({"tasks": []}, "suite.tasks: no task named. Name at least one, for example 'reach' or 'mt10'.", ""),
        ({"max_steps": 501}, "suite.max_steps: Meta-World's episodes have 1 to 500 steps, got 501.", ""),
    ],
)
def test_refused_arguments(arguments, start, end):
    with pytest.raises(RecipeError) as caught:
        MetaWorld(**arguments)
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(end)


def test_seeds_of_purposes_never_meet():
    seeds = [
        seed_of(s, purpose, task, e, a)
        for s in (0, 1) for purpose in PURPOSES for task in ("reach-v3", "push-v3") for e in range(40) for a
        in (0, 1)
    ]  # fmt: skip
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert seed_of(0, "data", "reach-v3", 0) == 6371754115068810  # stays what it is: datasets depend on it
    with pytest.raises(EnvironmentFault, match=r"unknown purpose 'evaluate'.* Did you mean 'evaluation'\?"):
        seed_of(0, "evaluate", "reach-v3", 0)


@pytest.mark.parametrize("task", ["reach-v3", "door-open-v3", "peg-insert-side-v3"])
def test_an_episode_follows_from_its_seed(task):
    suite = MetaWorld(tasks=task)
    first, second = suite.make(task), suite.make(task)  # the two share a compiled model
    expected = play(first, 5)
    play(second, 6)
    play(second, 7, steps=3)
    first.reset(8)
    np.testing.assert_array_equal(play(second, 5), expected)
    assert not np.array_equal(play(second, 6)[:3], expected[:3])  # another goal

    code = (
        "import sys, hashlib; sys.path.insert(0, 'tests'); from test_metaworld import *;"
        f"print(hashlib.sha256(play(MetaWorld(tasks='{task}').make('{task}'), 5).tobytes()).hexdigest())"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == hashlib.sha256(expected.tobytes()).hexdigest()


def test_environments_of_a_task_do_not_disturb_each_other():
    suite = MetaWorld(tasks="door-open")
    alone = play(suite.make("door-open-v3"), 1)
    one, two = suite.make("door-open-v3"), suite.make("door-open-v3")
    rng, seen = np.random.default_rng(1), [one.reset(1)]
    two.reset(2)
    for _ in range(25):
        state, reward, success, _, _ = one.step(rng.uniform(-1, 1, 4))
        seen.append(np.append(state, [reward, success]))
        two.step(np.ones(4))
    np.testing.assert_array_equal(np.concatenate([np.array(one.goal), *seen]), alone)


def test_a_hidden_goal_is_hidden_from_the_agent_only():
    seen = MetaWorld(tasks="reach").make("reach-v3")
    hidden = MetaWorld(tasks="reach", goal_visible=False).make("reach-v3")
    action = np.full(4, 0.3)
    for state, masked in [(seen.reset(3), hidden.reset(3)), (seen.step(action)[0], hidden.step(action)[0])]:
        assert state.dtype == masked.dtype == np.float32
        np.testing.assert_array_equal(state[36:], np.float32(seen.goal[-3:]))
        np.testing.assert_array_equal(masked[36:], 0)
        np.testing.assert_array_equal(masked[:36], state[:36])
    np.testing.assert_array_equal(hidden.full_state, seen.full_state)
    np.testing.assert_array_equal(state[18:36], seen.reset(3)[:18])  # the frame before


def test_actions_are_clipped_and_episodes_end():
    suite = MetaWorld(tasks="reach", max_steps=3)
    one, two = suite.make("reach-v3"), suite.make("reach-v3")
    with pytest.raises(EnvironmentFault, match=r"reach-v3: step before the first reset\(seed\)."):
        one.step(np.zeros(4))
    one.reset(0), two.reset(0)
    for step in range(3):
        a, b = one.step(np.full(4, 9.0)), two.step(np.ones(4))
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]
        assert a[3:] == (False, step == 2)
    with pytest.raises(
        EnvironmentFault, match=r"reach-v3: the episode ended after 3 steps; reset before the next step."
    ):
        one.step(np.zeros(4))


@pytest.mark.parametrize("task", ["reach-v3", "pick-place-v3"])
def test_the_scripted_expert_succeeds(task):
    suite = MetaWorld(tasks=task)
    environment, act = suite.make(task), suite.demonstrator(task)
    for seed in range(3):
        environment.reset(seed)
        assert any(environment.step(act(environment.full_state))[2] for _ in range(200))
    assert np.abs(act(environment.full_state)).max() <= 1


def test_workers_agree_with_this_process_whatever_their_number(capfd):
    suite = MetaWorld(tasks=TASKS)
    slots = [task for task in suite.tasks for _ in range(2)]
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 4, 4))
    expected = []
    for slot, task in enumerate(slots):
        environment = suite.make(task)
        expected.append([environment.reset(slot), *(environment.step(a[slot])[0] for a in actions)])
    for workers in (1, 2):
        with VectorEnv(suite, slots, workers=workers) as env:
            assert not any(
                m.split(".")[0] in {"torch", "diffusers", "datasets", "pandas"} for w in env.modules() for m in w
            )
            states = [env.reset(range(4)), *(env.step(a).states for a in actions[:3])]
            np.testing.assert_array_equal(np.stack(states, 1), np.array(expected)[:, :4])
            part = env.step(actions[3][[3, 0]], [3, 0])  # some slots, in another order
            np.testing.assert_array_equal(part.states, np.array(expected)[[3, 0], 4])
            assert [x.shape for x in part] == [(2, 39), (2,), (2,), (2,), (2,)]
            np.testing.assert_array_equal(env.reset([3], [3])[0], expected[3][0])
    assert capfd.readouterr().out == ""


def test_faults_in_workers_are_named():
    suite = MetaWorld(tasks=TASKS)
    with pytest.raises(EnvironmentFault, match=r"VectorEnv: unknown task 'push-v3'. Allowed: reach-v3, door-open-v3."):
        VectorEnv(suite, ["push-v3"])
    with VectorEnv(suite, suite.tasks, workers=2) as env:
        env.reset([0, 1])
        with pytest.raises(
            EnvironmentFault, match=r"slot 1 \(door-open-v3\): door-open-v3: an action is 4 finite numb"
        ):
            env.step([[0] * 4, [np.nan] * 4])
        with pytest.raises(EnvironmentFault, match=r"VectorEnv.step: actions should be \(2, 4\), got \(1, 4\)."):
            env.step(np.zeros((1, 4)))
        with pytest.raises(EnvironmentFault, match=r"slots should be different numbers from 0 to 1, got \[0, 2\]."):
            env.reset([0, 1], [0, 2])
        env.step(np.zeros((2, 4)))  # an error leaves the others usable
        victim = env.workers[1].process
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(
            EnvironmentFault, match=rf"simulator worker 1 \(process {victim.pid}\) was killed by SIGKILL"
        ):
            env.step(np.zeros((2, 4)))
        with pytest.raises(EnvironmentFault, match=r"VectorEnv: .*; make a new one."):
            env.step(np.zeros((2, 4)))


def test_a_renderer_that_does_not_work_is_named(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "none")
    with (
        VectorEnv(MetaWorld(tasks="reach"), ["reach-v3"], workers=1, render=True) as env,
        pytest.raises(EnvironmentFault, match=r"^metaworld: the simulator cannot be imported .* with MUJOCO_GL=none"),
    ):
        env.reset([0])


def test_workers_end_with_their_owner():
    code = (
        "import os; from mtdiff.environments.metaworld import *; from mtdiff.environments.vector import *;"
        "env = VectorEnv(MetaWorld(tasks='reach'), ['reach-v3'], workers=1); env.reset([0]);"
        "print(env.workers[0].process.pid, flush=True); os._exit(1)"
    )
    owner = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(owner.stdout)
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        signal.sigtimedwait([], 0.05)
    raise AssertionError("the worker outlived its owner")


def test_pictures_are_upright_and_no_mirror_image():
    size, suite = 240, MetaWorld(tasks=["push"])
    with VectorEnv(suite, ["push-v3"], workers=1, render=True) as env:
        state = env.reset([0])[0]
        try:
            picture = env.render(size=size)[0].astype(int)
        except EnvironmentFault as error:
            pytest.skip(f"no renderer here: {str(error).splitlines()[0]}")
    assert picture.shape == (size, size, 3)

    # A pinhole camera at the place that `render` documents: where should the goal's green ball be?
    azimuth, elevation = np.deg2rad([140.0, -28.0])
    forward = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    seen = state[36:39] - (np.array([0.0, 0.65, 0.15]) - 1.3 * forward)
    focal = size / 2 / np.tan(np.deg2rad(45.0) / 2)
    column = size / 2 + focal * (seen @ right) / (seen @ forward)
    row = size / 2 - focal * (seen @ np.cross(right, forward)) / (seen @ forward)

    red, green, blue = np.moveaxis(picture, -1, 0)
    ball = np.argwhere((green > 100) & (green > 2 * red) & (green > 2 * blue))
    assert len(ball) > 10
    np.testing.assert_allclose(ball.mean(0), [row, column], atol=3)


def test_an_episode_is_the_same_whether_it_is_shown_or_not():
    suite, actions = MetaWorld(tasks=["drawer-close"]), np.random.default_rng(0).uniform(-1, 1, (5, 1, 4))
    with VectorEnv(suite, ["drawer-close-v3"], workers=1, render=True) as env:

        def states(show):
            seen = [env.reset([1])]
            for action in actions:
                if show:
                    env.render(size=32)
                seen.append(env.step(action, [0]).states)
            return np.stack(seen)

        unseen = states(show=False)
        try:
            np.testing.assert_array_equal(states(show=True), unseen)
        except EnvironmentFault as error:
            pytest.skip(f"no renderer here: {str(error).splitlines()[0]}")


def test_pictures_must_be_asked_for():
    suite = MetaWorld(tasks="reach")
    with (
        VectorEnv(suite, ["reach-v3"], workers=1) as env,
        pytest.raises(EnvironmentFault, match=r"render=True"),
    ):
        env.render()
