"""What is shown of a map and a path from where the ball is: cell by cell, the same wherever the same lies around."""

import json

import numpy as np
import pytest
import torch
from test_maze_planner import HISTORY, TINY, planner
from typer.testing import CliRunner

from mtdiff.cli import app
from mtdiff.compose import compose, windows
from mtdiff.conditioning import Surroundings
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments.maze2d import Maze2D
from mtdiff.pipelines.agent import PlannerAgent

SIZES = {"state_dim": 4, "width": 8, "hidden": (16,)}
HERE = {"name": "surroundings", "length": 10, "hidden": (16,)}
YARD = "######\n#..#.#\n#....#\n#.#.G#\n######"


@pytest.fixture(scope="module")
def data():
    """Walks of the demonstrator on two maps."""
    suite = Maze2D(tasks=["maze-1", "maze-2"])
    walks = [(task, *walk(suite, task, seed)) for seed, task in enumerate(suite.tasks * 2)]
    tasks, states, actions = zip(*walks, strict=True)
    rewards = [np.zeros(60, np.float32)] * 4
    return TrajectoryDataset.from_arrays(states=states, actions=actions, rewards=rewards, tasks=list(tasks))


def walk(suite, task, seed, steps=60):
    environment, act = suite.make(task), suite.demonstrator(task)
    states, actions = [environment.reset(seed)], []
    for _ in range(steps):
        actions.append(act(environment.full_state))
        states.append(environment.step(actions[-1])[0])
    return np.stack(states), np.stack(actions)


def slowly(drawn, place, path, reach):
    """The same drawn cell by cell, by the definition: visited, share, wall and goal, and where in its cell it lies."""
    rows, columns = drawn.shape
    cell = lambda p: (int(np.floor(rows / 2 - p[1])), int(np.floor(p[0] + columns / 2)))  # noqa: E731
    share = {cell(p): (k + 1) / len(path) for k, p in enumerate(path)}
    here = cell(place)
    around = [(here[0] + i, here[1] + j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    channels = [
        [float(c in share) for c in around],
        [share.get(c, 0.0) for c in around],
        [float(c not in drawn.free) for c in around],
        [float(c == drawn.goal) for c in around],
    ]
    inside = (rows / 2 - place[1] - here[0] - 0.5, place[0] + columns / 2 - here[1] - 0.5)
    return np.concatenate([*channels, inside])


@pytest.mark.parametrize("reach", [None, 1, 4])
def test_what_lies_around_is_drawn_cell_by_cell(reach):
    suite = Maze2D(maps={"yard": YARD})
    drawn, generator = suite.map("yard"), np.random.default_rng(0)
    loc, scale = np.array([0.3, -0.2]), np.array([1.5, 0.7])
    part = Surroundings(
        goal=True, reach=reach, length=20, map_shape=drawn.shape, state_loc=[*loc, 0, 0], state_scale=[*scale, 1, 1],
        **SIZES,
    )  # fmt: skip
    assert part.reach == (3 if reach is None else reach)  # 4 free columns: as far as one sees from any to any other
    states = np.stack([walk(suite, "yard", seed, 19)[0] for seed in range(8)])
    places = np.stack([drawn.centre(drawn.free[int(generator.integers(len(drawn.free)))]) for _ in states])
    places += generator.uniform(-0.45, 0.45, places.shape)
    shown = states.copy()
    shown[..., :2] = (shown[..., :2] - loc) / scale
    fields = {
        "present": torch.tensor(np.concatenate([(places - loc) / scale, np.ones((8, 2))], axis=1), dtype=torch.float32),
        "prompt_states": torch.tensor(shown, dtype=torch.float32),
        "map": torch.tensor(suite.grid("yard")).expand(8, -1, -1),
    }
    expected = [slowly(drawn, place, path, part.reach) for place, path in zip(places, states, strict=True)]
    np.testing.assert_allclose(part.draw(fields), np.stack(expected), atol=1e-5)
    assert part(fields).shape == (8, 1, 8) and (part.lifetime, part.num_tokens) == ("plan", 1)


def test_only_what_is_asked_for_is_read():
    for asked, reads in (
        ({"walls": False}, ("prompt_states", "present")),
        ({"path": False}, ("map", "present")),
        ({"path": False, "walls": False, "goal": True}, ("map", "present")),
        ({}, ("prompt_states", "map", "present")),
    ):
        assert Surroundings(map_shape=(8, 8), **asked, **SIZES).reads == reads
    assert Surroundings(path=False, map_shape=(8, 8), **SIZES).window() == {"present": True}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"path": False, "walls": False}, r"^path, walls, goal: at least one must be true, got false for all$"),
        ({"map_shape": None}, r"^needs a suite whose tasks have maps, all of one size$"),
        ({"reach": 0}, r"^reach: must be at least 1, got 0$"),
        ({"state_dim": 1}, r"^needs states that begin with a place \(x, y\), got 1 number$"),
    ],
)
def test_surroundings_that_cannot_be(asked, message):
    with pytest.raises(ValueError, match=message):
        Surroundings(**{"map_shape": (8, 8), **SIZES, **asked})


def test_the_same_corner_looks_the_same_in_another_map_and_place():
    part = Surroundings(path=False, reach=1, map_shape=(8, 8), **SIZES).eval()
    suite = Maze2D(tasks=["spiral", "snake"])
    first, second = suite.map("spiral"), suite.map("snake")
    of = lambda drawn, cell: drawn.walls[cell[0] - 1 : cell[0] + 2, cell[1] - 1 : cell[1] + 2].tolist()  # noqa: E731
    pairs = [(a, b) for a in first.free for b in second.free if of(first, a) == of(second, b) and a != b]
    assert pairs

    def shown(drawn, cell):
        present = torch.tensor([[*(drawn.centre(cell) + 0.1), 0.0, 0.0]], dtype=torch.float32)
        return part({"present": present, "map": torch.tensor(drawn.grid(goal=False))[None]})

    for a, b in pairs:
        torch.testing.assert_close(shown(first, a), shown(second, b))


def test_a_saved_planner_sees_the_same_surroundings(data, tmp_path):
    import mtdiff

    pipe = planner(data, task=HERE, history=HISTORY)
    state = np.array([[1.2, -0.7, 0.3, 0.1]])
    seed = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    expected = pipe(prompt="maze-1", map="maze-1", history=state, generator=seed()).actions
    pipe.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "conditioning" / "config.json").read_text())
    assert config["state_loc"] == pytest.approx(pipe.normalizer.state_loc.tolist())
    again = mtdiff.load(tmp_path)
    assert torch.equal(again(prompt="maze-1", map="maze-1", history=state, generator=seed()).actions, expected)
    other = again(prompt="maze-1", map="maze-2", history=state, generator=seed()).actions
    assert not torch.equal(other, expected)


@pytest.mark.parametrize("asked", [{}, {"path": False, "goal": True}, {"walls": False}])
def test_an_agent_looks_around_before_every_plan(data, asked):
    pipe = planner(data, task={**HERE, **asked}, history=HISTORY)
    agent = PlannerAgent(pipe, execute=1)
    agent.reset(["maze-1", "maze-2"], [3, 4])
    states = np.random.default_rng(0).normal(size=(2, 2, 4)).astype(np.float32)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    prompted = asked.get("path", True)
    told = [int(torch.randint(2, (1,), generator=g)) if prompted else 0 for g in generators]
    for step in range(2):
        actions = agent.act(states[step], np.arange(2))
        for slot, task in enumerate(["maze-1", "maze-2"]):
            plan = pipe(
                prompt=pipe.prompts[task][told[slot]] if prompted else None,
                map=task if asked.get("walls", True) else None,
                history=states[: step + 1, slot],
                generator=generators[slot],
                num_actions=1,
            ).actions
            np.testing.assert_allclose(actions[slot], plan[0, 0], atol=1e-5)


def test_training_shows_the_surroundings_of_every_window(data):
    pipe, _ = compose({**TINY, "conditioning": {"task": HERE, "history": HISTORY}}, data, data)
    fields = windows(pipe, data, data).sample(3, torch.Generator().manual_seed(0))
    encoder, suite = pipe.conditioning.encoder("task"), Maze2D(tasks=["maze-1", "maze-2"])
    drawn = encoder.draw(fields).numpy()
    for row, task in enumerate(fields["task"]):
        place = pipe.normalizer.physical_states(fields["present"][row])[:2].double().numpy()
        path = pipe.normalizer.physical_states(fields["prompt_states"][row])[:, :2].double().numpy()
        expected = slowly(suite.map(suite.tasks[task]), place, path, encoder.reach)
        np.testing.assert_allclose(drawn[row], np.delete(expected, slice(3 * 121, 4 * 121)), atol=1e-4)


@pytest.mark.slow
def test_new_maps_are_drawn_at_random_and_shown_without_training_on_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [
        "suite.random_maps=3", "data.trajectories_per_task=2", "data.prompts_per_task=1", "training.updates=3",
        "training.validation=0", "training.warmup=1", "backbone.width=16", "conditioning.task.hidden=[16]",
        "evaluation.max_steps=10", "evaluation.workers=1", "evaluation.videos=false",
    ]  # fmt: skip
    run = CliRunner().invoke
    done = run(app, ["train", "maze2d/planner_maps512", *small, "--json"])
    assert done.exit_code == 0, done.output
    folder, new = json.loads(done.stdout)["run"], ["suite.random_seed=1", "suite.random_maps=2"]
    done = run(app, ["evaluate", folder, *new, "--demonstrate", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert list(document["tasks"]) == ["random-8-1-0", "random-8-1-1"] and "copied path" in document["others"]
