"""Where a Meta-World scene's goal and fixed bodies are, found from the goal that a state shows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOAL = slice(36, 39)
# What the random numbers of a reset may follow from, tried in this order: the goal, and the objects at the start,
# for which the objects now stand in.
_SHOWN = (np.r_[36:39], np.r_[36:39, 4:7], np.r_[36:39, 4:7, 11:14])
_TOLERANCE = 0.02  # metres between the goal wanted and the goal a reset makes

Array = NDArray[np.float64]


class Layout:
    """Resets a scene to the random numbers that belong to a goal.

    In every task but coffee-pull, whose machine it leaves undecided, the goal is an affine function of what places
    the fixed bodies. The function is found by a few resets and inverted.

    Args:
        environment: a `MetaWorldEnvironment` that nobody else uses; it can only be reset through here from now on.
        seed: of those resets.
    """

    def __init__(self, environment: Any, *, seed: int) -> None:
        import mujoco

        self._environment, self._env = environment, environment._env
        env, data = self._env, self._env.data
        self._seed, self._generator = seed, np.random.default_rng(seed)
        self._wanted: Array | None = None
        self._draws = 0
        environment._scene.place(environment._scene.compiled)
        mujoco.mj_resetData(env.model, data)
        env._reset_hand()  # 250 steps of the simulator that end the same always: kept
        names = ("qpos", "qvel", "mocap_pos", "mocap_quat")
        ready = [getattr(data, name).copy() for name in names]

        def reset_hand(steps: int = 50) -> None:
            for name, values in zip(names, ready, strict=True):
                getattr(data, name)[:] = values
            mujoco.mj_forward(env.model, data)
            env.init_tcp = env.tcp_center

        env._reset_hand, env._get_state_rand_vec = reset_hand, self._draw
        seen = np.array([[*self._reset(), *env._last_rand_vec] for _ in range(24)])
        states, numbers = seen[:, :39], seen[:, 39:]
        self._mean = numbers.mean(axis=0)
        self._maps = []
        unknown = np.ones(numbers.shape[1], bool)
        self._decided = ~unknown  # by the goal alone
        for columns in _SHOWN:
            loc = states[:, columns].mean(axis=0)
            slope = np.linalg.lstsq(states[:, columns] - loc, numbers - self._mean, rcond=1e-6)[0]
            left = np.abs((states[:, columns] - loc) @ slope - (numbers - self._mean)).max(axis=0)
            known = unknown & (left < 1e-6)
            self._maps.append((columns, loc, np.where(known, slope, 0.0)))
            unknown &= ~known
            self._decided |= known & (len(columns) == 3)

    def place(self, state: Array) -> bool:
        """Reset the scene to the goal of a state (39,); return whether it has a layout with such a goal."""
        self._wanted = self._mean + sum((state[columns] - loc) @ slope for columns, loc, slope in self._maps)
        self._generator = np.random.default_rng(self._seed)  # the same state, the same answer, always
        try:
            seen = self._reset()
        except _NoLayout:
            return False
        return bool(np.abs(seen[_GOAL] - state[_GOAL]).max() <= _TOLERANCE)

    def _reset(self) -> Array:
        import mujoco

        scene = self._environment._scene
        scene.place(scene.compiled)
        scene.user = id(self._environment)
        mujoco.mj_resetData(self._env.model, self._env.data)
        self._draws = 0
        state: Array = self._env.reset_model()
        return state

    def _draw(self) -> Array:
        """The random numbers of a reset: those wanted. A reset that finds object and goal too close draws again."""
        space = self._env._random_reset_space
        numbers = self._generator.uniform(space.low, space.high)
        if self._wanted is not None:
            if self._draws == 0:
                numbers = self._wanted.copy()
            elif self._draws < 100:
                numbers = np.where(self._decided, self._wanted, numbers)  # let the object have begun elsewhere
            else:
                raise _NoLayout
        self._draws += 1
        self._env._last_rand_vec = numbers
        return numbers


class _NoLayout(Exception):
    pass
