"""Maze2D in the real simulator: maps and their faults, episodes, data, pictures."""

import re

import numpy as np
import pytest

from mtdiff.data.sources.collected import Collected
from mtdiff.environments.maze2d import Maze2D
from mtdiff.environments.maze2d_catalogue import DRAWINGS, SETS, random_map
from mtdiff.environments.maze2d_maps import MazeMap
from mtdiff.environments.suite import portable, rebuild
from mtdiff.environments.vector import VectorEnv
from mtdiff.errors import DataError, EnvironmentFault, RecipeError
from mtdiff.registry import SUITES

U = """
#####
#...#
#.#.#
#.#G#
#####
"""


def play(environment, act, seed, steps=600):
    """States of an episode up to its first success, and that step."""
    states = [environment.reset(seed)]
    for step in range(1, steps + 1):
        state, _, success, _, _ = environment.step(act(environment.full_state))
        states.append(state)
        if success:
            return np.stack(states), step
    return np.stack(states), None


# ---- maps


def test_the_named_maps_are_whole_and_different():
    suite = Maze2D(tasks=[*SETS])
    assert suite.tasks == [*DRAWINGS] and len({suite.map(task).rows for task in suite.tasks}) == len(DRAWINGS)
    assert {suite.map(task).shape for task in SETS["maps8"] + SETS["held_out"]} == {(8, 8)}
    assert all(suite.map(task).goal == (6, 6) for task in SETS["maps8"])
    assert suite.map_shape is None and Maze2D().map_shape == (8, 8)


def test_random_maps_are_connected_closed_and_known_by_their_names():
    suite = Maze2D(random_maps=64)
    assert suite.tasks[:2] == ["random-8-0-0", "random-8-0-1"] and len(suite.tasks) == 64
    assert len({suite.map(task).rows for task in suite.tasks}) == 64
    for task in suite.tasks:
        drawn = suite.map(task)
        assert MazeMap.read(task, drawn.text) == drawn  # which checks it
        assert len(drawn.free) >= 18
    assert {random_map(8, 1, n).rows for n in range(64)}.isdisjoint({suite.map(task).rows for task in suite.tasks})
    again = SUITES.build({"name": "maze2d", "tasks": "random-8-0-1"})
    assert again.map("random-8-0-1") == suite.map("random-8-0-1")
    assert rebuild(portable(suite)).describe() == suite.describe()
    assert suite.map("random-8-0-0").text == "\n".join(["########", *suite.map("random-8-0-0").rows[1:-1], "########"])


def test_a_map_of_ones_own():
    suite = Maze2D(maps={"u": U})
    assert suite.tasks == ["u"] and suite.map_shape == (5, 5)
    expected = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 1, -1, 1], [1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(suite.grid("u"), expected)
    np.testing.assert_array_equal(
        Maze2D(maps={"u": U}, goals="random", goal_in_state=True).grid("u"), np.maximum(expected, 0)
    )
    assert Maze2D(maps={"u": U.replace(".", " ")}).map("u") == suite.map("u")
    assert rebuild(portable(suite)).describe() == suite.describe()
    drawn = suite.map("u")
    np.testing.assert_array_equal(drawn.centre((1, 3)), [1.0, 1.0])
    assert drawn.cell(np.array([1.4, 0.6])) == (1, 3)
    assert drawn.cell(np.array([0.1, 0.4])) == (1, 2)  # a wall: the nearest free cell
    assert drawn.distances((3, 3))[3, 1] == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("####\n#.G#\n##.#", "is not closed: there is no wall in row 3, column 3 (marked X). All cells at the "
         "edge must be "
         "#.\n  ####\n  #.G#\n  ##X#"),
        ("#####\n#.#G#\n#.#.#\n#####", "is not connected: 2 of 4 cells cannot be reached (marked X). Open a way "
         "from the goal "
         "to them.\n  #####\n  #X#G#\n  #X#.#\n  #####"),
        ("####\n#..#\n####", "has no goal. Draw one cell as G, or set suite.goals: random.\n  ####\n  #..#\n  ####"),
        ("####\n#GG#\n####", "has 2 goals (marked X). Leave one G.\n  ####\n  #XX#\n  ####"),
        ("###\n#G#\n###", "has no free cell. An episode begins in one: draw at least one as '.'.\n  ###\n  #G#\n  ###"),
        ("###\n###\n###", "has no free cell. An episode begins in one: draw at least one as '.'.\n  ###\n  ###\n  ###"),
        ("####\n#.G\n####", "is no rectangle: row 2 has 3 cells and another 4 (marked X). Every row must have "
         "as many.\n"
         "  ####\n  #.GX\n  ####"),
        ("####\n#oG#\n####", "has an unknown sign 'o' in row 2, column 2 (marked X). Allowed: # for a wall, . "
         "or a blank for a "
         "free cell, G for the goal.\n  ####\n  #XG#\n  ####"),
    ],
)  # fmt: skip
def test_faulty_maps_are_drawn_with_the_fault_marked(text, message):
    with pytest.raises(RecipeError) as caught:
        Maze2D(maps={"mine": text})
    assert str(caught.value) == f"suite.maps: 'mine' {message}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": "maze1"}, r"suite.tasks: unknown map 'maze1'. Allowed: maps8, .* Did you mean 'maze-1'\? A "
         r"random map is "
         r"random-<size>-<seed>-<number>."),
        ({"tasks": []}, "suite.tasks: no map named. Name at least one, for example 'maze-1' or 'maps8'."),
        ({"random_maps": 1, "random_size": 4}, "suite.random_size: a random map has 5 to 40 rows and columns, got 4."),
        ({"random_maps": -1}, "suite.random_maps: should be at least 0, got -1."),
        ({"max_steps": 0}, "suite.max_steps: should be at least 1, got 0."),
        ({"goals": "random"}, "suite.goal_in_state: should be true with goals: random, because nothing else tells an "
         "episode's goal, got false."),
        ({"maps": {"spiral": U}}, "suite.maps: 'spiral' cannot be the name of a map of your own, which names "
         "files. Allowed: "
         "letters, digits, - and _, and no name of mtdiff's maps."),
    ],
)  # fmt: skip
def test_refused_arguments(arguments, message):
    with pytest.raises(RecipeError, match=f"^{message}$"):
        Maze2D(**arguments)


def test_a_demonstration_of_another_map_is_refused_with_the_map_drawn():
    suite = Maze2D(maps={"u": U})
    suite.refuse_prompt("u", np.array([[1.0, 1.0, 0, 0], [-1.0, 0.4, 0, 0]]))
    with pytest.raises(DataError) as caught:
        suite.refuse_prompt("u", np.array([[1.0, 1.0], [0.0, 0.0], [0.0, -1.0]]))
    assert str(caught.value) == (
        "prompt: is of another map than u, of 5 rows and 5 columns: its way leads through 2 walls (marked X).\n"
        "  #####\n  #...#\n  #.X.#\n  #.XG#\n  #####"
    )
    with pytest.raises(DataError) as caught:
        suite.refuse_prompt("u", np.array([[1.0, 1.0], [-3.0, 1.0], [3.4, -2.6]]))
    assert str(caught.value) == (
        "prompt: is of another map than u, of 5 rows and 5 columns: 2 of its cells lie outside the map (marked X).\n"
        "   #####\n  X#...#\n   #.#.#\n   #.#G#\n   #####\n        X"
    )


# ---- episodes


def test_it_moves_and_rewards_as_pointmaze_does():
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    suite = Maze2D(tasks="maze-5")
    ours, drawn = suite.make("maze-5"), suite.map("maze-5")
    theirs = PointMazeEnv(maze_map=drawn.walls.astype(int).tolist(), continuing_task=True, reset_target=False)
    start = ours.reset(4)
    theirs.reset(seed=0)
    theirs.goal = np.array(ours.goal[:2])
    theirs.point_env.set_state(np.array(ours.goal[2:]), np.zeros(2))
    rng, act = np.random.default_rng(0), suite.demonstrator("maze-5")
    np.testing.assert_array_equal(start, np.float32([*ours.goal[2:], 0, 0]))
    rewards = []
    for _ in range(250):
        action = np.clip(act(ours.full_state) + rng.normal(size=2), -1, 1)
        state, reward, success, terminated, truncated = ours.step(action)
        expected, their_reward, _, _, info = theirs.step(np.float64(np.float32(action)))
        np.testing.assert_array_equal(state, np.float32(expected["observation"]))
        assert (reward, success, terminated, truncated) == (their_reward, info["success"], False, False)
        rewards.append(reward)
    assert 0 < sum(rewards) < 250  # it arrived


def test_an_episode_follows_from_its_seed_whatever_ran_before():
    suite = Maze2D(tasks=["maze-1", "snake"])
    one, two = suite.make("maze-1"), suite.make("maze-1")
    act = suite.demonstrator("maze-1")
    expected, step = play(one, act, 3)
    play(two, act, 9, steps=30)
    again, same = play(two, act, 3)
    assert step == same
    np.testing.assert_array_equal(again, expected)
    with VectorEnv(suite, ["snake", "maze-1"], workers=2) as env:
        np.testing.assert_array_equal(env.reset([3], [1])[0], expected[0])
        out = env.step(act(one.full_state)[None] * 0 + 1, [1])
        assert out.states.shape == (1, 4) and not out.success[0]
        modules = set().union(*env.modules())
        assert "torch" not in {name.split(".")[0] for name in modules}


def test_goals_are_where_the_map_says_or_anywhere():
    fixed = Maze2D(tasks="maze-2", goal_in_state=True).make("maze-2")
    seen = [fixed.reset(seed) for seed in range(30)]
    assert all((state[4:] == [2.5, -2.5]).all() for state in seen)
    starts = np.array([fixed.drawn.cell(state[:2]) for state in seen])
    assert len({tuple(cell) for cell in starts}) > 12 and (6, 6) not in {tuple(cell) for cell in starts}
    suite = Maze2D(tasks="maze-2", goals="random", goal_in_state=True)
    anywhere, act = suite.make("maze-2"), suite.demonstrator("maze-2")
    goals = {tuple(anywhere.reset(seed)[4:]) for seed in range(30)}
    assert len(goals) == 30 and suite.state_dim == 6
    for seed in range(5):
        assert play(anywhere, act, seed)[1] is not None
    assert np.abs(np.array(anywhere.goal[:2]) - anywhere.full_state[4:]).max() < 1e-6


def test_faults_of_steps_are_named():
    environment = Maze2D(tasks="maze-1", max_steps=2, reward="dense").make("maze-1")
    with pytest.raises(EnvironmentFault, match=r"^maze-1: step before the first reset\(seed\).$"):
        environment.step(np.zeros(2))
    state = environment.reset(0)
    with pytest.raises(EnvironmentFault, match=r"^maze-1: an action is 2 finite numbers, got \[nan, 0.0\].$"):
        environment.step([np.nan, 0.0])
    after, reward, _, _, truncated = environment.step([9.0, 0.0])
    assert reward == pytest.approx(np.exp(-np.linalg.norm(after[:2] - environment.goal[:2])), rel=1e-5)
    assert not truncated and after[2] > state[2] and environment.step([0.0, 0.0])[4]
    with pytest.raises(
        EnvironmentFault, match="^maze-1: the episode ended after 2 steps; reset before the next step.$"
    ):
        environment.step(np.zeros(2))
    with pytest.raises(EnvironmentFault, match="^maze2d: unknown task 'maze-3'. Allowed: maze-1."):
        Maze2D(tasks="maze-1").make("maze-3")


def test_512_environments_take_little():
    import time

    import psutil

    suite, process = Maze2D(random_maps=512, random_seed=3), psutil.Process()
    Maze2D(tasks="maze-1").make("maze-1")  # the simulator itself
    before, begun = process.memory_info().rss, time.perf_counter()
    alive = [suite.make(task) for task in suite.tasks[:64]]
    for environment in alive:
        environment.reset(0)
    assert (process.memory_info().rss - before) / 64 < 2e6
    assert (time.perf_counter() - begun) / 64 < 0.1


def test_collected_episodes_have_a_quality():
    suite = Maze2D(tasks="maze-1")
    expert = Collected(trajectories_per_task=3, noise=0.5, prompt_min_steps=50)
    poor = Collected(trajectories_per_task=6, quality="sub_optimal", steps=300)
    environment, act = suite.make("maze-1"), suite.demonstrator("maze-1")
    shown = expert.record(suite, environment, act, split="prompts", episode=0)
    assert shown.success.any() and len(shown) >= 50
    assert expert.record(suite, environment, act, split="trajectories", episode=1).success.any()
    episodes = [poor.record(suite, environment, act, split="trajectories", episode=e) for e in range(6)]
    assert {len(episode) for episode in episodes} == {300}
    competences = [episode.labels["competence"] for episode in episodes]
    assert competences == sorted(competences) and competences[0] == 0.0 and competences[-1] < 0.71
    again = poor.record(suite, environment, act, split="trajectories", episode=2)
    np.testing.assert_array_equal(again.states, episodes[2].states)


# ---- pictures


def test_pictures_show_walls_the_goal_and_the_way_upright():
    suite = Maze2D(maps={"u": U})
    with VectorEnv(suite, ["u"], workers=1, render=True) as env:
        env.reset([0])
        env.step(np.ones((1, 2)))
        picture = env.render(size=200)[0].astype(int)
    assert picture.shape == (200, 200, 3)
    light = picture.min(axis=-1) > 180
    assert not light[:38].any() and not light[:, :38].any()  # walls all around
    assert light[60, 70] and light[60, 130] and not light[100, 100]  # the corridor above, the wall below it
    green = (picture[..., 1] - picture[..., 0] > 10) & light
    row, column = np.argwhere(green).mean(axis=0)
    assert abs(row - 140) < 8 and abs(column - 140) < 8  # below, on the right


def test_a_missing_simulator_is_named():
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['gymnasium_robotics'] = None; from mtdiff.environments.maze2d import *;"
        "Maze2D(tasks='maze-1').make('maze-1')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    told = done.stderr.strip().splitlines()[-1]
    assert re.search(
        r"maze2d: the simulator cannot be imported \(.*\). Install it with: pip install 'mtdiff\[maze2d\]'", told
    )
