"""One Gymnasium environment whose every episode follows from one seed and whose actions lie in [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.environments.gymnasium_source import Source, check_spaces
from mtdiff.errors import EnvironmentFault, RecipeError, closest

SEEDS = 2**31  # simulators in C, and NumPy's old generator, take no larger seeds


class GymnasiumEnvironment:
    """One Gymnasium environment; see `Environment`.

    Args:
        task: the task's name.
        source: what it is made from.
        success_key: the entry of `info` that says whether a step is a success; None looks at none.
        success_return: an episode whose return is at least this is a success, at its last step.
    """

    def __init__(
        self, *, task: str, source: Source, success_key: str | None = None, success_return: float | None = None
    ) -> None:
        self.task = task
        self.max_steps = source.limit()
        self.success_key, self.success_return = success_key, success_return
        self._source = source
        self._env = source.make()
        check_spaces(source.id, self._env)
        self._box = self._env.action_space
        self._drawn = False
        self._seed: int | None = None
        self._over = False
        self._actions: list[NDArray[np.float32]] = []
        self._return = 0.0
        self._told: set[str] = set()
        self._state = np.zeros(self._env.observation_space.shape, np.float32)

    @property
    def goal(self) -> list[float]:
        """Empty: what an episode's seed decides is in its states, or nowhere."""
        self._begun("goal")
        return []

    @property
    def full_state(self) -> NDArray[np.float32]:
        """The state (O,)."""
        return self._state.copy()

    def reset(self, seed: int) -> NDArray[np.float32]:
        """Start the episode of `seed`, of which the environment gets the last 31 bits; return its state (O,)."""
        self._seed = int(seed)
        self._actions, self._return, self._over = [], 0.0, False
        state, info = self._env.reset(seed=self._seed % SEEDS)
        self._told = set(info)
        return self._observe(state)

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, bool]:
        """Execute an action (A,), clipped to [-1, 1] and scaled to the environment's own bounds.

        Returns:
            state (O,), reward, success in this step, terminated, truncated (at `max_steps` or by the
            environment).

        Raises:
            EnvironmentFault: before `reset`, after the end, with an action of wrong shape or not finite; a state
                or reward that is not finite; an episode in which no `info` had the success key.
        """
        self._begun("step")
        if self._over:
            raise EnvironmentFault(
                f"{self.task}: the episode ended after {len(self._actions)} steps; reset before the next step."
            )
        action = np.asarray(action, dtype=np.float32)
        if action.shape != self._box.shape or not np.isfinite(action).all():
            raise EnvironmentFault(
                f"{self.task}: an action is {self._box.shape[0]} finite numbers, got {action.tolist()}."
            )
        self._actions.append(action)
        state, reward, terminated, truncated, info = self._env.step(self._physical(action))
        truncated = bool(truncated) or len(self._actions) >= self.max_steps
        self._over = bool(terminated) or truncated
        self._return += float(reward)
        state = self._observe(state)
        if not (np.isfinite(state).all() and np.isfinite(reward)):
            raise EnvironmentFault(f"{self.task}: a state or reward is not finite after {len(self._actions)} steps.")
        return state, float(reward), self._succeeded(info), bool(terminated), truncated

    def render(self, size: int) -> NDArray[np.uint8]:
        """Return a picture (size, size, 3); what is not square gets margins in the colour of its corner.

        The first picture makes an environment that can draw, which repeats the episode up to here and takes the
        other one's place: those that nobody looks at need neither a display nor a package for drawing.

        Raises:
            EnvironmentFault: the environment cannot be drawn on this machine.
        """
        self._begun("render")
        if not self._drawn:
            self._draw()
        try:
            picture = np.asarray(self._env.render())
        except Exception as error:  # a missing display or package shows as nearly anything
            raise EnvironmentFault(f"{self.task}: cannot be drawn: {_line(error)}") from error
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise EnvironmentFault(
                f"{self.task}: cannot be drawn: its picture should be (h, w, 3), got {picture.shape}."
            )
        return _square(picture.astype(np.uint8), size)

    def close(self) -> None:
        """Free the environment."""
        self._env.close()

    def _draw(self) -> None:
        modes = self._env.metadata.get("render_modes") or []
        if "rgb_array" not in modes:
            raise EnvironmentFault(
                f"{self.task}: cannot be drawn: it has no render mode 'rgb_array', only {', '.join(modes) or 'none'}."
            )
        env = None
        try:
            env = self._source.make(render_mode="rgb_array")
            env.reset(seed=self._seed % SEEDS if self._seed is not None else None)
            for action in self._actions:
                env.step(self._physical(action))
        except Exception as error:
            if env is not None:
                env.close()
            raise EnvironmentFault(f"{self.task}: cannot be drawn: {_line(error)}") from error
        self._env.close()
        self._env, self._drawn = env, True

    def _physical(self, action: NDArray[np.float32]) -> NDArray[Any]:
        low, high = self._box.low, self._box.high
        share = (np.clip(action, -1.0, 1.0).astype(np.float64) + 1.0) / 2.0
        return np.clip(low + share * (high - low), low, high).astype(self._box.dtype)

    def _succeeded(self, info: Mapping[str, Any]) -> bool:
        if self.success_return is not None:
            return self._over and self._return >= self.success_return
        if self.success_key is None:
            return False
        self._told |= set(info)
        if self._over and self.success_key not in self._told:
            told = ", ".join(sorted(map(str, self._told))) or "nothing"
            raise EnvironmentFault(
                f"{self.task}: success_key '{self.success_key}' was in no info of a whole episode, which told "
                f"{told}.{closest(self.success_key, map(str, self._told))}"
            )
        return bool(info.get(self.success_key, False))

    def _observe(self, state: Any) -> NDArray[np.float32]:
        self._state = np.array(state, dtype=np.float32)
        return self._state.copy()

    def _begun(self, what: str) -> None:
        if self._seed is None:
            raise EnvironmentFault(f"{self.task}: {what} before the first reset(seed).")


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    text = lines[0] if isinstance(error, RecipeError) else f"{type(error).__name__}: {lines[0]}"
    return text.removeprefix("suite.id: ")


def _square(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale a picture (h, w, 3) into (size, size, 3) without changing its proportions."""
    from PIL import Image

    height, width, _ = picture.shape
    scale = size / max(height, width)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    square = np.empty((size, size, 3), np.uint8)
    square[:] = picture[0, 0]
    top, left = (size - shape[1]) // 2, (size - shape[0]) // 2
    small = Image.fromarray(picture).resize(shape, Image.Resampling.LANCZOS)
    square[top : top + shape[1], left : left + shape[0]] = np.asarray(small)
    return square
