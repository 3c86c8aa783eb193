"""The bodies of a Meta-World scene, put where a state shows them: arm, fingers and objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SECONDS = 0.0125  # of a step: five of the simulator's own
_FRAME = 18
_NUDGE = 1e-5  # metres or radians, for numerical derivatives
_PER_GAP = 0.05  # metres that each finger moves while the shown opening, 0 to 1, changes by 1

Array = NDArray[np.float64]


def speeds(model: Any, before: Array, after: Array) -> Array:
    """Return the mean velocity (nv,) of a step between two positions (nq,) of everything."""
    import mujoco

    velocity = np.zeros(model.nv)
    mujoco.mj_differentiatePos(model, velocity, SECONDS, before, after)
    return velocity


class Body:
    """Joints of a scene by what they belong to, and how to set them.

    Args:
        env: Meta-World's own environment.
    """

    def __init__(self, env: Any) -> None:
        self.env, self.model, self.data = env, env.model, env.data
        model = env.model
        joints = [model.joint(i) for i in range(model.njnt)]
        arm = [joint for joint in joints if joint.name.startswith("right_j")]
        fingers = [model.joint(name) for name in ("r_close", "l_close")]
        self.arm, self.arm_dofs = (np.array([int(getattr(j, at)[0]) for j in arm]) for at in ("qposadr", "dofadr"))
        self.fingers, self.finger_dofs = (
            np.array([int(getattr(j, at)[0]) for j in fingers]) for at in ("qposadr", "dofadr")
        )
        self.objects = np.setdiff1d(np.arange(model.nq), [*self.arm, *self.fingers])
        self.object_dofs = np.setdiff1d(np.arange(model.nv), [*self.arm_dofs, *self.finger_dofs])
        self.free = bool((model.jnt_type == 0).any())  # whether an object can move and turn in every direction
        self._hand = model.body("hand").id
        self._jacobian = np.zeros((3, model.nv))

    def look(self) -> Array:
        """Return the frame (18,) that a state would show now."""
        import mujoco

        mujoco.mj_kinematics(self.model, self.data)
        frame: Array = self.env._get_curr_obs_combined_no_goal()
        return frame

    def jacobian(self) -> Array:
        """Return how the hand's position (3,) follows from the arm's joints (7,), where they were last looked at."""
        import mujoco

        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_jacBody(self.model, self.data, self._jacobian, None, self._hand)
        return self._jacobian[:, self.arm_dofs].copy()

    def pose(self, state: Array, hidden: Mapping[str, Array], spread: Mapping[str, Array]) -> float:
        """Set everything so that it looks like `state` (39,), hidden numbers as recalled.

        Args:
            state: (39,).
            hidden: what `Memory.recall` gave for it.
            spread: how uncertain that is; see `Memory`.

        Returns:
            how far the scene still looks from the state: the largest difference in either frame, in metres, where a
            gripper's opening of 1 counts 0.1 and a quaternion's 1 counts 0.1.
        """
        data = self.data
        gap = self._arrange(state[_FRAME : 2 * _FRAME], hidden, spread["arm"])
        before = data.qpos.copy()
        gap = max(gap, self._arrange(state[:_FRAME], hidden, spread["arm"]))
        moved = speeds(self.model, before, data.qpos)
        recalled = hidden["arm_velocity"]
        hand = (state[:3] - state[_FRAME : _FRAME + 3]) / SECONDS + hidden["hand_velocity"]
        gain = self._gain(spread["arm_velocity"], 1e-4)
        data.qvel[self.arm_dofs] = recalled + gain @ (hand - self.jacobian() @ recalled)
        data.qvel[self.finger_dofs] = moved[self.finger_dofs] + hidden["finger_velocity"]
        data.qvel[self.object_dofs] = moved[self.object_dofs] * hidden["object_share"]
        data.mocap_pos[0] = np.clip(state[:3] + hidden["pull"], self.env.mocap_low, self.env.mocap_high)
        data.mocap_quat[0] = 1.0, 0.0, 1.0, 0.0
        data.qacc_warmstart[:] = 0.0
        return gap

    def _arrange(self, frame: Array, hidden: Mapping[str, Array], spread: Array) -> float:
        qpos = self.data.qpos
        qpos[self.arm], qpos[self.fingers], qpos[self.objects] = (hidden[n] for n in ("arm", "fingers", "objects"))
        for _ in range(5):
            gap = frame[:3] - self.look()[:3]
            if np.abs(gap).max() < 1e-6:
                break
            qpos[self.arm] += self._gain(spread, 1e-8) @ gap
        for _ in range(5):  # openings beyond 1 are shown as 1
            opening = min(frame[3], 1.0) - self.look()[3]
            if abs(opening) < 1e-6:
                break
            qpos[self.fingers] += -_PER_GAP * opening, _PER_GAP * opening
        self._arrange_objects(frame)
        seen = self.look()
        gap = np.abs(_nearer(frame, seen) - seen)
        gap[[3, *range(7, 11), *range(14, 18)]] *= 0.1
        return float(gap.max())

    def _arrange_objects(self, frame: Array) -> None:
        """Gauss-Newton: move objects until their 14 numbers are the frame's."""
        import mujoco

        qpos, model = self.data.qpos, self.model
        for _ in range(4):
            seen = self.look()
            gap = (_nearer(frame, seen) - seen)[4:]
            if np.abs(gap).max() < 1e-5:
                break
            start, slopes = qpos.copy(), np.empty((len(gap), len(self.object_dofs)))
            for column, dof in enumerate(self.object_dofs):
                nudge = np.zeros(model.nv)
                nudge[dof] = 1.0
                qpos[:] = start
                mujoco.mj_integratePos(model, qpos, nudge, _NUDGE)
                slopes[:, column] = (self.look() - seen)[4:] / _NUDGE
            move = np.zeros(model.nv)
            move[self.object_dofs] = np.linalg.lstsq(slopes, gap, rcond=1e-4)[0]
            qpos[:] = start
            mujoco.mj_integratePos(model, qpos, move, 1.0)

    def _gain(self, spread: Array, noise: float) -> Array:
        """Kalman's gain (7, 3): the likeliest correction of joints whose errors have covariance `spread`, per
        difference of the hand's position or velocity, which is known up to the variance `noise`."""
        jacobian = self.jacobian()
        across = spread @ jacobian.T
        return across @ np.linalg.inv(jacobian @ across + noise * np.eye(3))


def _nearer(frame: Array, seen: Array) -> Array:
    """The frame with each quaternion's sign such that it is nearer to what is seen: q and -q are one orientation."""
    frame = frame.copy()
    for turn in (slice(7, 11), slice(14, 18)):
        if frame[turn] @ seen[turn] < 0:
            frame[turn] *= -1.0
    return frame
