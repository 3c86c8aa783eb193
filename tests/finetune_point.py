"""A point on a line that is to come close to a goal. No torch here: the simulator's workers import it."""

import gymnasium
import numpy as np
from gymnasium import spaces

STEPS, NEAR = 24, 0.15


class Reach(gymnasium.Env):
    """State: place and goal; action: push, which `turned` makes work the other way round; reward: nearness."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None, *, turned=False):
        self.render_mode, self.sign = render_mode, -1 if turned else 1
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,))
        self.action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = 0.0, float(self.np_random.choice([-1, 1]) * self.np_random.uniform(0.6, 1))
        return self._see(), {}

    def step(self, action):
        self.place = float(np.clip(self.place + 0.15 * self.sign * float(action[0]), -2, 2))
        far = abs(self.place - self.goal)
        return self._see(), 1 - min(far, 1), False, False, {"success": far < NEAR}

    def _see(self):
        return np.array([self.place, self.goal], np.float32)


gymnasium.register("toy/Reach-v0", entry_point=Reach, max_episode_steps=STEPS)
