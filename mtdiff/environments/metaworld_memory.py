"""What a Meta-World state does not show, recalled from episodes of which everything is known.

A local linear regression: the nearest remembered states say how the hidden numbers follow from the shown ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from mtdiff.environments.metaworld_body import SECONDS, Body, speeds

FRAME = 18  # numbers of a state that show the current frame; as many again show the one before
_NEAREST = 40
_RIDGE = 0.1  # of standardised numbers
_CHUNK = 512  # rows at once, about 10 MB
_SMALLEST = np.r_[np.full(FRAME, 0.01), np.full(FRAME, 5e-4)]  # of the divisors: positions, and changes per step

Array = NDArray[np.float64]


def shown(states: Array) -> Array:
    """Return what hidden numbers are recalled by, (N, 36): the frame, and how it changed in the step before."""
    now, before = states[:, :FRAME], states[:, FRAME : 2 * FRAME]
    return np.concatenate([now, now - before], axis=1)


class Memory:
    """Remembered states and the hidden numbers that belong to them.

    Args:
        states: (M, 39).
        hidden: by name, (M, width); see `remember`.
    """

    def __init__(self, states: Array, hidden: Mapping[str, Array]) -> None:
        keys = shown(states)
        self._loc, self._scale = keys.mean(axis=0), np.maximum(keys.std(axis=0), _SMALLEST)
        self._keys = (keys - self._loc) / self._scale
        self._tree = cKDTree(self._keys)
        self._values = np.concatenate(list(hidden.values()), axis=1)
        ends = np.cumsum([values.shape[1] for values in hidden.values()])
        self._columns = {
            name: slice(end - values.shape[1], end) for end, (name, values) in zip(ends, hidden.items(), strict=True)
        }
        probe = np.random.default_rng(0).choice(len(states), min(400, len(states)), replace=False)
        recalled = self.recall(states[probe], skip=1)
        # How far recollection is from the truth, as covariances of the joints of the arm, (7, 7).
        self.spread = {
            name: np.cov(recalled[name] - hidden[name][probe], rowvar=False) for name in ("arm", "arm_velocity")
        }

    def recall(self, states: Array, *, skip: int = 0) -> dict[str, Array]:
        """Return hidden numbers for states (N, 39), by name, each (N, width).

        Args:
            states: (N, 39).
            skip: nearest remembered states to leave out; 1 if the states are remembered ones themselves.
        """
        parts = [self._recall(states[at : at + _CHUNK], skip) for at in range(0, len(states), _CHUNK)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _recall(self, states: Array, skip: int) -> dict[str, Array]:
        keys = (shown(states) - self._loc) / self._scale
        distance, index = self._tree.query(keys, k=min(_NEAREST + skip, len(self._keys)))
        distance, index = distance[:, skip:], index[:, skip:]
        middle = np.maximum(distance[:, distance.shape[1] // 2, None], 1e-9)
        weight = (1.0 / (1.0 + (distance / middle) ** 2))[..., None]  # (N, k, 1)
        near, values = self._keys[index], self._values[index]
        mean_key, mean = ((weight * x).sum(axis=1) / weight.sum(axis=1) for x in (near, values))
        near, around = near - mean_key[:, None], values - mean[:, None]
        weighted = (weight * near).transpose(0, 2, 1)
        slope = np.linalg.solve(weighted @ near + _RIDGE * np.eye(keys.shape[1]), weighted @ around)
        guess = mean + ((keys - mean_key)[:, None] @ slope)[:, 0]
        guess = np.clip(guess, values.min(axis=1), values.max(axis=1))  # interpolate, never extrapolate
        found = {name: guess[:, columns] for name, columns in self._columns.items()}
        # Poses of objects are no linear space and are found exactly later: begin at the nearest one.
        found["objects"] = values[:, 0, self._columns["objects"]]
        # A velocity at the end of a step, as a multiple of the mean one of that step: 1 where objects move freely,
        # near 0 where they tremble on the table.
        last, mean_speed = (values[..., self._columns[name]] for name in ("object_velocity", "object_mean_velocity"))
        product, square = ((weight * x * mean_speed).sum(axis=1) for x in (last, mean_speed))
        found["object_share"] = np.clip(product / (square + 1e-6), -1.5, 1.5)
        return found


def remember(environment: Any, *, act: Callable[[Any], Any], episodes: int, seed: int) -> Memory:
    """Act in the simulator and remember everything.

    Args:
        environment: a `MetaWorldEnvironment`.
        act: the scripted expert; noise of a strength drawn per episode is added to its actions.
        episodes: how many, of at most 200 steps, until 20 steps after success.
        seed: of goals and noise.
    """
    body, env = Body(environment._env), environment._env
    generator = np.random.default_rng(seed)
    states: list[Any] = []
    rows: list[dict[str, Any]] = []
    for _ in range(episodes):
        state = environment.reset(int(generator.integers(2**53)))
        noise, after = generator.uniform(0.0, 0.4), 0
        before = env.data.qpos.copy()
        for _ in range(min(200, environment.max_steps)):
            rows.append(_hidden(body, state, before))
            states.append(state.astype(np.float64))
            before = env.data.qpos.copy()
            action = act(environment.full_state) + noise * generator.normal(size=4)
            state, _, success, _, truncated = environment.step(np.clip(action, -1.0, 1.0))
            after += success
            if truncated or after >= 20:
                break
    return Memory(np.array(states), {name: np.array([row[name] for row in rows]) for name in rows[0]})


def _hidden(body: Body, state: Any, before: Array) -> dict[str, Any]:
    """What the simulator knows at a state and the state does not show, or only in part."""
    data = body.data
    moved = speeds(body.model, before, data.qpos)
    arm_velocity = data.qvel[body.arm_dofs].copy()
    return {
        "arm": data.qpos[body.arm].copy(),
        "fingers": data.qpos[body.fingers].copy(),
        "objects": data.qpos[body.objects].copy(),
        "arm_velocity": arm_velocity,
        # velocities at the end of the step, less the mean ones of the step, which two frames show
        "hand_velocity": body.jacobian() @ arm_velocity - (state[:3] - state[FRAME : FRAME + 3]) / SECONDS,
        "finger_velocity": (data.qvel - moved)[body.finger_dofs],
        "object_velocity": data.qvel[body.object_dofs].copy(),
        "object_mean_velocity": moved[body.object_dofs],
        "pull": data.mocap_pos[0] - state[:3],  # how far ahead of the hand the point is that draws it
    }
