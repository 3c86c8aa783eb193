"""Gymnasium's environments as a suite: sizes, seeds, actions, success, pictures; and what is refused."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from mtdiff.environments import Gymnasium
from mtdiff.environments.suite import portable, rebuild
from mtdiff.environments.vector import VectorEnv
from mtdiff.errors import EnvironmentFault, RecipeError
from mtdiff.registry import SUITES

TOYS = ["toy_environments"]
KNOWN = "Allowed: the ids that gymnasium.pprint_registry() prints."


def toy(name="Line", **arguments):
    return Gymnasium(id=f"toy/{name}-v0", imports=TOYS, **arguments)


def play(environment, seed, steps=12):
    """Return all that an episode under random actions shows."""
    rng = np.random.default_rng(seed)
    seen = [environment.reset(seed)]
    for _ in range(steps):
        state, *rest = environment.step(rng.uniform(-1, 1, environment._box.shape))
        seen.append(np.append(state, np.array(rest, np.float64)))
    return np.concatenate(seen)


# ---- what it is


@pytest.mark.parametrize(
    ("id", "sizes", "packages"),
    [
        ("Pendulum-v1", (3, 1, 200), {"gymnasium"}),
        ("MountainCarContinuous-v0", (2, 1, 999), {"gymnasium"}),
        ("HalfCheetah-v5", (17, 6, 1000), {"gymnasium", "mujoco"}),
    ],
)
def test_an_id_is_a_suite_of_one_task(id, sizes, packages):
    suite = SUITES.build({"name": "gymnasium", "id": id})
    assert (suite.state_dim, suite.action_dim, suite.max_steps) == sizes
    assert suite.tasks == [id] and suite.gripper is None and not suite.has_success
    assert suite.versions().keys() == packages
    again = rebuild(portable(suite))
    assert again.describe() == suite.describe()
    assert suite.describe() == {
        "name": "gymnasium", "id": id, "tasks": None, "arguments": {}, "max_steps": None, "success_key": None,
        "success_return": None, "imports": [],
    }  # fmt: skip


def test_one_environment_made_in_several_ways_is_several_tasks():
    suite = Gymnasium(id="Pendulum-v1", tasks={"earth": {}, "moon": {"g": 1.62}}, arguments={"g": 9.81}, max_steps=50)
    assert suite.tasks == ["earth", "moon"] and suite.max_steps == 50
    gravity = {task: suite.make(task)._env.unwrapped.g for task in suite.tasks}
    assert gravity == {"earth": 9.81, "moon": 1.62}
    ids = Gymnasium(tasks={"swing": "Pendulum-v1", "short": {"id": "Pendulum-v1", "g": 5.0}})
    assert ids.tasks == ["swing", "short"]
    assert toy().tasks == ["toy-Line-v0"]  # a task's name is part of the names of files


def test_a_dict_is_flattened_as_gymnasium_does_it():
    suite = toy()
    assert suite.state_dim == 1 + 2 + 2  # "a goal", "place", "side" as one of two
    reference = gymnasium.wrappers.FlattenObservation(gymnasium.make("toy/Line-v0"))
    environment = suite.make("toy-Line-v0")
    np.testing.assert_array_equal(environment.reset(7), reference.reset(seed=7)[0].astype(np.float32))


def test_actions_are_scaled_as_gymnasium_does_it():
    suite = Gymnasium(id="Pendulum-v1")
    reference = gymnasium.wrappers.RescaleAction(gymnasium.make("Pendulum-v1"), np.float32(-1), np.float32(1))
    environment = suite.make("Pendulum-v1")
    environment.reset(3), reference.reset(seed=3)
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 1)).astype(np.float32):
        state, reward, *_ = environment.step(action)
        expected = reference.step(action)
        np.testing.assert_allclose(state, expected[0], atol=1e-6)
        assert reward == pytest.approx(expected[1], abs=1e-5)
    line = toy().make("toy-Line-v0")
    line.reset(0)
    for action in (-1, 0, 1, 5):
        line.step(np.array([action]))
    assert np.concatenate(line._env.unwrapped.pushed).tolist() == [-3.0, -1.0, 1.0, 1.0]


@pytest.mark.parametrize("id", ["Pendulum-v1", "HalfCheetah-v5"])
def test_a_seed_is_an_episode(id):
    suite = Gymnasium(id=id)
    first, second = suite.make(id), suite.make(id)
    seen = play(first, 2**53 - 1)
    other = play(first, 8)
    np.testing.assert_array_equal(play(first, 2**53 - 1), seen)
    np.testing.assert_array_equal(play(second, 2**53 - 1), seen)
    assert not np.array_equal(seen, other)


def test_worker_processes_play_the_same_episodes_and_import_no_torch():
    suite = toy()
    alone = suite.make("toy-Line-v0")
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 3, 1)).astype(np.float32)
    with VectorEnv(suite, suite.tasks * 3, workers=2) as env:
        states = [env.reset([5, 6, 7])]
        results = [env.step(action) for action in actions]
        assert not any(modules & {"torch", "diffusers"} for modules in env.modules())
    states += [result.states for result in results]
    for slot in range(3):
        mine = [alone.reset(5 + slot)] + [alone.step(action[slot])[0] for action in actions]
        np.testing.assert_array_equal(mine, [state[slot] for state in states])
    assert [result.truncated.all() for result in results] == [False] * 9 + [True]


# ---- success


def test_success_is_found_where_environments_usually_put_it():
    suite = toy()
    assert suite.has_success and suite.success_key == "success" and suite.describe()["success_key"] == "success"
    environment = suite.make("toy-Line-v0")
    successes = []
    for seed in range(40):
        environment.reset(seed)
        successes.append(any(environment.step(np.array([0.5]))[2] for _ in range(10)))
    assert 0 < sum(successes) < 40
    late = toy("Late")
    assert not late.has_success  # the first step does not say is_success
    assert toy("Late", success_key="is_success").has_success


def test_success_can_be_a_return():
    suite = Gymnasium(id="Pendulum-v1", max_steps=5, success_return=-20.0)
    environment, found = suite.make("Pendulum-v1"), {}
    for seed in range(30):
        environment.reset(seed)
        steps = [environment.step(np.zeros(1)) for _ in range(5)]
        assert not any(step[2] for step in steps[:-1])
        found[seed] = steps[-1][2], sum(step[1] for step in steps) >= -20.0
    assert all(a == b for a, b in found.values())
    assert {a for a, _ in found.values()} == {True, False}


def test_a_success_key_that_never_comes_is_no_failure_of_the_agent():
    environment = toy("Other", success_key="reachd").make("toy-Other-v0")
    environment.reset(0)
    for _ in range(9):
        environment.step(np.zeros(1))
    with pytest.raises(EnvironmentFault) as caught:
        environment.step(np.zeros(1))
    assert str(caught.value) == (
        "toy-Other-v0: success_key 'reachd' was in no info of a whole episode, which told reached. "
        "Did you mean 'reached'?"
    )


# ---- pictures


def test_pictures_are_square_upright_and_change_nothing():
    suite = toy("Pixels")
    environment, unseen = suite.make("toy-Pixels-v0"), suite.make("toy-Pixels-v0")
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 1))
    assert environment._env.unwrapped.render_mode is None
    expected = [unseen.reset(4)] + [unseen.step(action)[0] for action in actions]
    seen, pictures = [environment.reset(4)], []
    for step, action in enumerate(actions):
        seen.append(environment.step(action)[0])
        if step in (3, 7):
            pictures.append(environment.render(40))
    np.testing.assert_array_equal(seen, expected)
    for steps, picture in zip((4, 8), pictures, strict=True):
        assert picture.shape == (40, 40, 3) and picture.dtype == np.uint8
        assert picture[10, 20].tolist() == [0, 0, 255 - steps]  # the top of the scene, after ten rows of margin
        assert picture[20, 4].tolist() == [200, 0, 0] and picture[20, 30].tolist() == [255, 255, 255]
        assert picture[3, 3].tolist() == picture[36, 3].tolist() == [0, 0, 255 - steps]


def test_what_cannot_be_drawn_says_so():
    environment = toy().make("toy-Line-v0")
    environment.reset(0)
    with pytest.raises(EnvironmentFault) as caught:
        environment.render(32)
    assert str(caught.value) == "toy-Line-v0: cannot be drawn: it has no render mode 'rgb_array', only none."


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "suite.id: names no environment. Name one, for example 'Pendulum-v1'."),
        ({"id": "Pendulm-v1"}, f"suite.id: unknown environment 'Pendulm-v1'. {KNOWN} Did you mean 'Pendulum-v1'?"),
        ({"id": "HalfCheetah"}, f"suite.id: unknown environment 'HalfCheetah'. {KNOWN} Did you mean 'HalfCheetah-v5'?"),
        (
            {"id": "elsewhere/Robot-v3"},
            f"suite.id: unknown environment 'elsewhere/Robot-v3'. {KNOWN} "
            "If a package registers it, name that in suite.imports.",
        ),
        (
            {"id": "Pendulum-v1", "imports": ["no_such_package"]},
            "suite.imports: cannot import 'no_such_package' (ModuleNotFoundError: No module named 'no_such_package').",
        ),
        (
            {"id": "no_such_package:Arm-v0"},
            "suite.id: cannot import 'no_such_package' (ModuleNotFoundError: No module named 'no_such_package').",
        ),
        ({"id": "CartPole-v1"}, "suite.id: 'CartPole-v1' has actions Discrete(2). Allowed: a Box of one dimension."),
        (
            {"id": "Blackjack-v1", "max_steps": 9},
            "suite.id: 'Blackjack-v1' has observations Tuple(Discrete(32), Discrete(11), Discrete(2)). "
            "Allowed: a Box of one dimension, or a Dict of such, which is flattened.",
        ),
        (
            {"id": "toy/Image-v0", "imports": TOYS},
            "suite.id: 'toy/Image-v0' has observations Box(0, 255, (8, 8, 3), uint8). "
            "Allowed: a Box of one dimension, or a Dict of such, which is flattened.",
        ),
        (
            {"id": "toy/Images-v0", "imports": TOYS},
            "suite.id: 'toy/Images-v0' has observations Dict('eye': Box(0, 255, (8, 8, 3), uint8)). "
            "Allowed: a Box of one dimension, or a Dict of such, which is flattened.",
        ),
        (
            {"id": "toy/Matrix-v0", "imports": TOYS},
            "suite.id: 'toy/Matrix-v0' has actions Box(-1.0, 1.0, (2, 2), float32). Allowed: a Box of one dimension.",
        ),
        (
            {"id": "toy/Unbounded-v0", "imports": TOYS},
            "suite.id: 'toy/Unbounded-v0' has actions without bounds, Box(-inf, inf, (1,), float32). "
            "Allowed: a bounded Box, which is scaled to [-1, 1].",
        ),
        (
            {"id": "toy/Endless-v0", "imports": TOYS},
            "suite.max_steps: 'toy/Endless-v0' has no limit of its own. Set one, of at least 1.",
        ),
        (
            {"id": "toy/Unseeded-v0", "imports": TOYS},
            "suite.id: 'toy/Unseeded-v0' begins an episode differently under the same seed. "
            "Its reset(seed=...) must draw from self.np_random only.",
        ),
        ({"id": "Pendulum-v1", "max_steps": 0}, "suite.max_steps: should be at least 1, got 0."),
        (
            {"id": "Pendulum-v1", "arguments": {"gg": 3}},
            "suite.arguments: 'Pendulum-v1' takes no 'gg'. Allowed: g. Did you mean 'g'?",
        ),
        (
            {"id": "Pendulum-v1", "arguments": {"render_mode": "human"}},
            "suite.arguments: render_mode cannot be given: it is chosen by whoever wants a picture.",
        ),
        (
            {"id": "Pendulum-v1", "tasks": {"a": {"max_episode_steps": 3}}},
            "suite.tasks.a: max_episode_steps cannot be given: it is suite.max_steps.",
        ),
        (
            {"id": "Pendulum-v1", "arguments": {"g": (1, 2)}},
            "suite.arguments: should be made of what YAML can say (finite numbers, strings, true, false, null, lists, "
            "mappings with strings for keys), got {'g': (1, 2)}.",
        ),
        (
            {"tasks": {"a/b": "Pendulum-v1"}},
            "suite.tasks: 'a/b' cannot be the name of a task, which names files. "
            "Allowed: letters, digits and any of _ . + -.",
        ),
        ({"tasks": {"a": {"g": 1}}}, "suite.tasks: 'a' names no environment. Give it an id, or set suite.id."),
        (
            {"tasks": {"swing": "Pendulum-v1", "climb": "MountainCarContinuous-v0"}},
            "suite.tasks: all should have the sizes of 'swing', 3 state and 1 action numbers, "
            "got 2 state and 1 action numbers for 'climb'.",
        ),
        (
            {"id": "Pendulum-v1", "success_key": "success", "success_return": 1.0},
            "suite.success_return: should not be set beside success_key. Choose one of them.",
        ),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(RecipeError) as caught:
        Gymnasium(**arguments)
    assert str(caught.value) == message


def test_a_missing_package_is_named():
    try:
        import Box2D  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("box2d is installed here")
    with pytest.raises(RecipeError) as caught:
        Gymnasium(id="BipedalWalker-v3")
    assert str(caught.value).startswith("suite.id: 'BipedalWalker-v3' needs a package that is not installed: Box2D is")


def test_refused_steps():
    environment = Gymnasium(id="Pendulum-v1", max_steps=2).make("Pendulum-v1")
    broken = toy("Broken").make("toy-Broken-v0")
    broken.reset(0)
    for call, message in (
        (lambda: environment.step(np.zeros(1)), "Pendulum-v1: step before the first reset(seed)."),
        (lambda: environment.render(8), "Pendulum-v1: render before the first reset(seed)."),
        (lambda: environment.goal, "Pendulum-v1: goal before the first reset(seed)."),
        (
            lambda: environment.reset(0) is None or environment.step(np.zeros(2)),
            "Pendulum-v1: an action is 1 finite numbers, got [0.0, 0.0].",
        ),
        (
            lambda: [environment.step(np.zeros(1)) for _ in range(3)],
            "Pendulum-v1: the episode ended after 2 steps; reset before the next step.",
        ),
        (
            lambda: [broken.step(np.zeros(1)) for _ in range(3)],
            "toy-Broken-v0: a state or reward is not finite after 3 steps.",
        ),
        (
            lambda: Gymnasium(id="Pendulum-v1").make("Pendulum"),
            "gymnasium: unknown task 'Pendulum'. Allowed: Pendulum-v1. Did you mean 'Pendulum-v1'?",
        ),
        (
            lambda: Gymnasium(id="Pendulum-v1").demonstrator("Pendulum-v1"),
            "gymnasium: 'Pendulum-v1' has no scripted expert; bring data: TrajectoryDataset.from_arrays(...)"
            ".save(FOLDER) in Python, then data: {name: folder, path: FOLDER} in the recipe.",
        ),
    ):
        with pytest.raises(EnvironmentFault) as caught:
            call()
        assert str(caught.value) == message


def test_naming_suites_imports_no_simulator():
    code = (
        "import sys; from mtdiff.registry import SUITES; print(SUITES.names()); "
        "print(sorted({'gymnasium', 'mujoco', 'metaworld', 'torch', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['gymnasium', 'maze2d', 'metaworld', 'offline']\n[]\n"
