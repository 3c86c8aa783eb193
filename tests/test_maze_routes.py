"""Ways through mazes: the demonstrator, the shortest path and what an episode is scored by. In the real simulator."""

import itertools

import numpy as np
import pytest
from test_maze2d import U, play

from mtdiff.environments.maze2d import Maze2D
from mtdiff.environments.maze2d_routes import ahead, shortest


@pytest.mark.parametrize("task", ["maze-3", "maze-9", "spiral", "large", "random-8-0-0", "random-12-0-1"])
def test_the_demonstrator_arrives_also_with_noise(task):
    suite = Maze2D(tasks=task)
    environment, act, rng = suite.make(task), suite.demonstrator(task), np.random.default_rng(0)
    for seed, noise in itertools.product(range(3), (0.0, 0.5)):
        noisy = lambda state, noise=noise: np.clip(act(state) + noise * rng.normal(size=2), -1, 1)  # noqa: E731
        states, step = play(environment, noisy, seed)
        scores = suite.scores(task, states, step)
        assert 1.0 <= scores["path / shortest"] < 1.6
        assert scores["success in 200 steps"] == float(step <= 200)
    assert suite.scores(task, states, None) == {"success in 200 steps": 0.0}


def test_shortest_paths_agree_with_a_fine_grid():
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    drawn = Maze2D(tasks="maze-7").map("maze-7")
    ways, fine = shortest(drawn), 20  # points of a grid along a metre; moves to points up to 3 away
    side = 8 * fine + 1
    x, y = np.meshgrid(*[np.arange(side) / fine - 4.0] * 2, indexing="ij")
    free = np.ones((side, side), bool)
    for cell in np.argwhere(drawn.walls):
        at = drawn.centre(tuple(cell))
        free &= np.maximum(np.abs(x - at[0]), np.abs(y - at[1])) > 0.5 + ways.keep - 1e-9
    number = np.arange(side * side).reshape(side, side)
    moves = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if np.gcd(i, j) == 1]
    rows, columns, lengths = [], [], []
    for i, j in moves:
        here = np.zeros((side, side), bool)
        inner = slice(3, side - 3)
        here[inner, inner] = free[inner, inner] & free[3 + i : side - 3 + i, 3 + j : side - 3 + j]
        rows.append(number[here])
        columns.append(number[here] + i * side + j)
        lengths.append(np.full(here.sum(), np.hypot(i, j) / fine))
    graph = coo_array((np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))), shape=(side**2,) * 2)
    start = np.array([-2.5, 2.5])
    away = dijkstra(graph.tocsr(), indices=number[tuple(np.round((start + 4) * fine).astype(int))])
    for cell in drawn.free:
        end = drawn.centre(cell)
        slow = away[number[tuple(np.round((end + 4) * fine).astype(int))]]
        assert ways.length(start, end) == pytest.approx(ways.length(end, start))
        # The grid allows fewer directions (2.8 % longer at most), stays further from walls, and jumps over corners.
        assert ways.length(start, end) - 0.03 <= slow <= 1.03 * ways.length(start, end) + 0.1


def test_lengths_of_shortest_paths_in_closed_form():
    ways = shortest(Maze2D(maps={"u": U}).map("u"))
    assert ways.length([-1.0, 1.0], [1.0, 1.0]) == 2.0  # nothing in between
    keep = 0.1 / np.sqrt(2)
    corner = np.array([0.5 + keep, 0.5 + keep])
    way = 2 * np.linalg.norm(np.array([1.0, -1.0]) - corner) + 2 * corner[0]
    assert ways.length([-1.0, -1.0], [1.0, -1.0]) == pytest.approx(way, abs=1e-9)


def test_the_point_that_is_aimed_at_lies_ahead_on_the_path():
    path = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]])
    np.testing.assert_allclose(ahead(path, np.array([0.5, 0.3]), 1.0), [1.5, 0.0])
    np.testing.assert_allclose(ahead(path, np.array([1.6, 0.1]), 1.0), [2.0, 0.6])
    np.testing.assert_allclose(ahead(path, np.array([2.0, 1.9]), 1.0), [2.0, 2.0])


def ways(suite, starts):
    """The side, left or right, by which the demonstrator leaves the middle of the ring's top."""
    environment, act = suite.make("ring"), suite.demonstrator("ring")
    found = []
    for seed in starts:
        environment.reset(seed=seed)
        state = environment.full_state.copy()
        state[:2] = suite.map("ring").centre((1, 4)) + 1e-3 * (seed + 1)  # where both ways are as long
        state[2:4] = 0.0
        found.append(np.sign(act(state)[0]))
    environment.close()
    return found


RING = "#########\n#.......#\n#.#####.#\n#.#####.#\n#...G...#\n#########"


def test_several_experts_disagree_and_each_keeps_to_its_way():
    several = Maze2D(maps={"ring": RING}, experts=6)
    assert set(ways(several, range(12))) == {-1.0, 1.0}
    assert ways(several, range(12)) == ways(several, range(12))  # the place decides, not the order
    assert len(set(ways(Maze2D(maps={"ring": RING}), range(12)))) == 1


def test_an_expert_keeps_its_way_while_it_moves():
    suite = Maze2D(maps={"ring": RING}, experts=6)
    act, middle = suite.demonstrator("ring"), suite.map("ring").centre((1, 4))
    for offset in (0.001, 0.002, 0.003, 0.004):
        first = np.sign(act(np.array([*(middle + offset), 0.0, 0.0], np.float32))[0])
        moved = np.sign(act(np.array([*(middle + 0.01), 0.1 * first, 0.0], np.float32))[0])
        assert moved == first
