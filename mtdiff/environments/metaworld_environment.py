"""One Meta-World task as an environment whose every episode follows from one seed."""

from __future__ import annotations

import os
import warnings
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.errors import EnvironmentFault

STATE_DIM = 39  # 18 numbers of this frame, 18 of the frame before, 3 of the goal
ACTION_DIM = 4  # x, y, z in centimetres per step, gripper
GOAL = slice(36, 39)


def catalogue() -> Any:
    """Return the package's module of task names, classes and splits, imported quietly.

    Raises:
        EnvironmentFault: Meta-World is not installed, or the renderer that MUJOCO_GL names does not work.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of its own dependencies
            from metaworld import env_dict
    except Exception as error:  # a missing graphics library shows as nearly anything
        renderer = os.environ.get("MUJOCO_GL")
        hint = f" with MUJOCO_GL={renderer}; does this machine have that renderer?" if renderer else "."
        raise EnvironmentFault(
            f"metaworld: the simulator cannot be imported ({type(error).__name__}: {error}){hint}"
        ) from error
    return env_dict


class _Scene:
    """The compiled model of one task, shared by all its environments of a process.

    A model takes 20 MB and a fifth of a second; an episode changes only where its bodies and sites are, so
    each environment keeps a copy of those and puts it back when another one has used the model since. Every
    episode starts from the model as it was compiled.
    """

    def __init__(self, path: str) -> None:
        import mujoco

        self.model = mujoco.MjModel.from_xml_path(path)
        self.compiled = self.positions()
        self.user: int | None = None
        self.renderers: dict[int, Any] = {}

    def positions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.model.body_pos.copy(), self.model.site_pos.copy()

    def place(self, positions: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
        self.model.body_pos[:], self.model.site_pos[:] = positions

    def renderer(self, size: int) -> Any:
        import mujoco

        if size not in self.renderers:
            shape = self.model.vis.global_
            shape.offwidth, shape.offheight = max(shape.offwidth, size), max(shape.offheight, size)
            self.renderers[size] = mujoco.Renderer(self.model, size, size)
        return self.renderers[size]


def _view() -> Any:
    """The camera of all pictures: over the table from the arm's right, so that it hides neither object nor goal."""
    import mujoco

    camera = mujoco.MjvCamera()
    camera.lookat[:] = 0.0, 0.65, 0.15
    camera.distance, camera.azimuth, camera.elevation = 1.3, 140.0, -28.0
    return camera


_scenes: weakref.WeakValueDictionary[str, _Scene] = weakref.WeakValueDictionary()
_classes: dict[type, type] = {}


def _sharing(kind: type) -> type:
    """Return `kind` with a model that is compiled once per process and task."""
    if kind not in _classes:

        def initialise(self: Any) -> tuple[Any, Any]:
            import mujoco

            self.scene = _scenes.get(self.fullpath)
            if self.scene is None:
                self.scene = _scenes[self.fullpath] = _Scene(self.fullpath)
            self.scene.place(self.scene.compiled)
            self.scene.user = None
            return self.scene.model, mujoco.MjData(self.scene.model)

        _classes[kind] = type(kind.__name__, (kind,), {"_initialize_simulation": initialise})
    return _classes[kind]


class MetaWorldEnvironment:
    """One Meta-World task; see `Environment`.

    Args:
        task: full name, such as "reach-v3".
        goal_visible: whether `reset` and `step` return the goal's position or zeros.
        max_steps: truncated after so many steps, at most 500.
        reward: "v1" or "v2".
    """

    def __init__(self, *, task: str, goal_visible: bool, max_steps: int, reward: str) -> None:
        self.task = task
        self.goal_visible = goal_visible
        self.max_steps = max_steps
        kind = _sharing(catalogue().ALL_V3_ENVIRONMENTS[task])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = kind(reward_function_version=reward)
        # Always observed in full and masked here: the simulator clips states to a box it computes once, with
        # a goal of zeros unless that cached box is dropped.
        env._partially_observable = False
        env.__dict__.pop("sawyer_observation_space", None)
        env._freeze_rand_vec, env.seeded_rand_vec, env._set_task_called = False, True, True
        self._env: Any = env
        self._scene: _Scene = env.scene
        self._positions = self._scene.positions()
        self._steps: int | None = None
        self._shown: Any = None  # mujoco.MjData
        self._full = np.zeros(STATE_DIM, np.float32)

    @property
    def goal(self) -> list[float]:
        """The 3 or 6 random numbers, metres, that place this episode's goal and objects."""
        self._begun("goal")
        return [float(number) for number in self._env._last_rand_vec]

    @property
    def full_state(self) -> NDArray[np.float32]:
        """The state (39,) with the goal."""
        return self._full.copy()

    def reset(self, seed: int) -> NDArray[np.float32]:
        """Start the episode of `seed` with a goal drawn from it and return the state (39,)."""
        self._scene.place(self._scene.compiled)
        self._scene.user = id(self)
        self._env.np_random = np.random.default_rng(seed)
        state, _ = self._env.reset()
        self._positions = self._scene.positions()
        self._steps = 0
        return self._observe(state)

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, bool]:
        """Execute an action (4,), clipped to [-1, 1].

        Returns:
            state (39,), reward, success in this step, terminated (never), truncated (at `max_steps`).

        Raises:
            EnvironmentFault: before `reset`, after truncation, or with an action of wrong shape or not
                finite.
        """
        steps = self._begun("step")
        if steps >= self.max_steps:
            raise EnvironmentFault(f"{self.task}: the episode ended after {steps} steps; reset before the next step.")
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
            raise EnvironmentFault(f"{self.task}: an action is {ACTION_DIM} finite numbers, got {action.tolist()}.")
        self._take_model()
        state, reward, _, _, info = self._env.step(np.clip(action, -1.0, 1.0))
        self._steps = steps + 1
        return (
            self._observe(state),
            float(reward),
            bool(info["success"]),
            False,
            self._steps >= self.max_steps,
        )

    def render(self, size: int) -> NDArray[np.uint8]:
        """Return a picture (size, size, 3). MUJOCO_GL must be set before mujoco is imported."""
        import mujoco

        self._begun("render")
        self._take_model()
        model, renderer = self._scene.model, self._scene.renderer(size)
        if self._shown is None:
            self._shown = mujoco.MjData(model)
        # After a reset the simulator still has the goal where the last episode had it. Everything is placed in
        # a copy, so that an episode is the same whether it is shown or not.
        for name in ("qpos", "mocap_pos", "mocap_quat"):
            getattr(self._shown, name)[:] = getattr(self._env.data, name)
        for place in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight):
            place(model, self._shown)
        renderer.update_scene(self._shown, camera=_view())
        for costly in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[costly] = 0  # four times as fast where no GPU draws
        return renderer.render()

    def close(self) -> None:
        """Free the simulator and its renderers."""
        for renderer in self._scene.renderers.values():
            renderer.close()
        self._scene.renderers.clear()
        self._env.close()

    def _begun(self, what: str) -> int:
        if self._steps is None:
            raise EnvironmentFault(f"{self.task}: {what} before the first reset(seed).")
        return self._steps

    def _take_model(self) -> None:
        if self._scene.user != id(self):
            self._scene.place(self._positions)
            self._scene.user = id(self)

    def _observe(self, state: NDArray[np.float64]) -> NDArray[np.float32]:
        self._full = state.astype(np.float32)
        visible = self._full.copy()
        if not self.goal_visible:
            visible[GOAL] = 0.0
        return visible
