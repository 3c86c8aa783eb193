"""A point that is pushed about a plane and should stand still in the middle: cheap, and hard to do well by averaging.

The data's controllers either brake well or push somewhere, so that the mean of what they do is half-hearted.
"""

import gymnasium
import numpy as np
from gymnasium import spaces

STEPS = 40


class Point(gymnasium.Env):
    """State: place and velocity (4,); action: push (2,); reward: minus the distance to the middle."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,))
        self.action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.velocity = self.np_random.uniform(-1, 1, 2), np.zeros(2)
        return self._see(), {}

    def step(self, action):
        self.velocity = 0.9 * self.velocity + 0.1 * np.asarray(action, float)
        self.place = np.clip(self.place + 0.2 * self.velocity, -2, 2)
        return self._see(), -float(np.linalg.norm(self.place)), False, False, {}

    def _see(self):
        return np.concatenate([self.place, self.velocity]).astype(np.float32)


gymnasium.register("toy/Point-v0", entry_point=Point, max_episode_steps=STEPS)


def episodes(count, *, good, seed):
    """Arrays for `TrajectoryDataset.from_arrays`; a share `good` of the steps is a good controller's."""
    rng, environment = np.random.default_rng(seed), Point()
    states, actions, rewards = [], [], []
    for _ in range(count):
        seen, pushed, earned = [environment.reset(seed=int(rng.integers(2**31)))[0]], [], []
        push = rng.uniform(-1, 1, 2)
        for step in range(STEPS):
            if step % 5 == 0:  # who is in charge changes
                works, push = rng.random() < good, rng.uniform(-1, 1, 2)
            action = -4 * seen[-1][:2] - 6 * seen[-1][2:] if works else push
            pushed.append(np.clip(action + rng.normal(0, 0.1, 2), -1, 1))
            state, reward, *_ = environment.step(pushed[-1])
            seen.append(state)
            earned.append(reward)
        states.append(np.stack(seen))
        actions.append(np.stack(pushed).astype(np.float32))
        rewards.append(np.array(earned, np.float32))
    return {"states": states, "actions": actions, "rewards": rewards}
