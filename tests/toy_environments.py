"""Small Gymnasium environments, registered by importing this module, each with one thing worth testing."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Line(gymnasium.Env):
    """A point on a line is pushed by an action in [-3, 1] and is to come within 0.1 of a goal."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode=None, *, observation=None, action=None, key="success", late=False, start=None):
        self.render_mode, self.key, self.late, self.start = render_mode, key, late, start
        self.observation_space = observation or spaces.Dict(
            {"place": spaces.Box(-9, 9, (2,)), "side": spaces.Discrete(2), "a goal": spaces.Box(-9, 9, (1,))}
        )
        self.action_space = action or spaces.Box(np.array([-3.0]), np.array([1.0]), dtype=np.float64)
        self.pushed = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        rng = np.random.default_rng() if self.start == "unseeded" else self.np_random
        self.place, self.goal, self.steps = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 1).astype(np.float32), 0
        return self._see(), {}

    def step(self, action):
        self.pushed.append(action)
        self.steps += 1
        self.place = self.place + 0.1 * action
        if self.start == "broken" and self.steps == 3:
            self.place = self.place * np.nan
        near = bool(abs(self.place[0] - self.goal[0]) < 0.1)
        told = {self.key: near} if self.steps >= 5 or not self.late else {}
        return self._see(), -1.0, False, False, told

    def _see(self):
        return {"place": self.place.astype(np.float32), "side": int(self.place[0] > 0), "a goal": self.goal}


class Pixels(Line):
    """Draws a red square on the left of a picture twice as wide as high, over white."""

    metadata = {"render_modes": ["rgb_array"]}

    def render(self):
        picture = np.full((40, 80, 3), 255, np.uint8)
        picture[10:30, 0:20] = 200, 0, 0
        picture[0:4, :, :] = 0, 0, 255 - min(self.steps, 50)  # blue on top, darker step by step
        return picture


def _register(name, kind=Line, steps=10, **arguments):
    gymnasium.register(f"toy/{name}-v0", entry_point=kind, max_episode_steps=steps, kwargs=arguments)


_register("Line")
_register("Pixels", Pixels)
_register("Endless", steps=None)
_register("Late", key="is_success", late=True)
_register("Other", key="reached")
_register("Unseeded", start="unseeded")
_register("Broken", start="broken")
_register("Unbounded", action=spaces.Box(-np.inf, np.inf, (1,)))
_register("Matrix", action=spaces.Box(-1, 1, (2, 2)))
_register("Image", observation=spaces.Box(0, 255, (8, 8, 3), np.uint8))
_register("Images", observation=spaces.Dict({"eye": spaces.Box(0, 255, (8, 8, 3), np.uint8)}))
