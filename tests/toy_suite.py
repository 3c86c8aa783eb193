"""A suite that costs nothing: a point is pushed along a line to a goal, and an expert knows how.

Only recipes import it, in processes of their own: no other test should find it in the registry.
"""

import numpy as np

from mtdiff.registry import SUITES

SIGNS = {"towards": 1.0, "mirrored": -1.0}


class Point:
    """One task; in "mirrored" the action works the other way round."""

    def __init__(self, task):
        self.task, self.sign = task, SIGNS[task]

    def reset(self, seed):
        self.place, goal = np.random.default_rng(seed).uniform(-1, 1, 2)
        self.goal = [float(goal)]
        return self.full_state

    @property
    def full_state(self):
        return np.array([self.place, self.goal[0]], np.float32)

    def step(self, action):
        self.place += 0.2 * self.sign * float(np.clip(action[0], -1, 1))
        near = abs(self.place - self.goal[0]) < 0.2
        return self.full_state, float(near), near, False, False

    def render(self, size):
        return np.zeros((size, size, 3), np.uint8)

    def close(self):
        pass


@SUITES.register("toy")
class Toy:
    """Two tasks of one point.

    Args:
        tasks: some of "towards" and "mirrored".
    """

    name, state_dim, action_dim, gripper, max_steps, draws_with = "toy", 2, 1, None, 30, None

    def __init__(self, *, tasks: list[str]):
        self.tasks = list(tasks)

    def make(self, task):
        return Point(task)

    def demonstrator(self, task):
        return lambda state: np.clip(5 * SIGNS[task] * (state[1:] - state[:1]), -1, 1).astype(np.float32)

    def describe(self):
        return {"name": self.name, "tasks": self.tasks}

    def versions(self):
        return {"toy": "1"}
