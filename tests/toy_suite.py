"""A suite that costs nothing: a point is pushed along a line to a goal, and an expert knows how."""

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


RECIPE = """
imports: [toy_suite]
suite: {name: toy, tasks: [towards, mirrored]}
data: {name: collected, trajectories_per_task: 27, prompts_per_task: 1, prompt_min_steps: 4}
representation: {name: actions, horizon: 4}
conditioning:
  task: {name: trajectory_prompt, length: 4, hidden: [8]}
  history: {name: history, length: 2, hidden: [8]}
backbone: {name: residual_mlp, width: 16, num_layers: 1, dropout: 0.1}
scheduler: {name: ddpm, num_train_timesteps: 20}
sampling: {num_inference_steps: 2, prompts_per_task: 1, execute: 2}
training:
  {updates: 6, batch_per_task: 2, log_every: 2, checkpoint_every: 2, keep_checkpoints: 1, validation: 0.0, log_with: []}
evaluation: {episodes_per_task: 2, max_steps: 10, videos: false, workers: 1}
"""


def bring_data(folder):
    """Four episodes of "towards" as others have them, in files; the section `data` that reads them."""
    (folder / "towards").mkdir(parents=True)
    for number in range(4):
        states = np.full((6, 2), number, np.float32)
        arrays = {"observations": states, "next_observations": states, "actions": np.zeros((6, 1))}
        path = folder / "towards" / f"{number}.npz"
        np.savez(path, **arrays, rewards=np.ones(6), terminals=np.zeros(6))
    return f"data={{name: npz, path: {folder}, prompts_per_task: 1, prompt_min_steps: 4}}"
