"""Meta-World's simulator set to a 39-number state and stepped: what really follows from a state and an action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.environments.dynamics import Parts, Stepped, checked
from mtdiff.environments.metaworld_body import Body
from mtdiff.environments.metaworld_environment import ACTION_DIM, GOAL, STATE_DIM, MetaWorldEnvironment
from mtdiff.environments.metaworld_layout import Layout
from mtdiff.environments.metaworld_memory import FRAME, remember
from mtdiff.errors import at_least

PARTS: Parts = {
    "hand": range(3),
    "gripper": range(3, 4),
    "object": (4, 5, 6, 11, 12, 13),  # positions of one or two objects
    "orientation": (*range(7, 11), *range(14, 18)),  # their quaternions
    "previous": range(FRAME, 2 * FRAME),
    "goal": range(GOAL.start, GOAL.stop),
}
_TOLERANCE = 0.01  # metres, see `Body.pose`; states of real episodes are met within 1e-5
_FASTEST = 0.05  # metres that hand and objects may move in one step; in real episodes at most 0.02


class MetaWorldDynamics:
    """One task's simulator that is set to states and stepped; see `Dynamics`.

    Goal and fixed bodies follow from the goal shown; positions of hand, fingers and objects from the current frame;
    their velocities from the frame before. The rest is recalled from episodes of the scripted expert with noise.

    What a state does not tell, and what is therefore only likely:

    - the point that pulls the hand (mocap), centimetres ahead of it and remembered by the simulator from action to
      action; where the hand is stuck at a handle it may be anywhere;
    - velocities at the end of a step (two frames show the mean of the step);
    - the seventh joint of the arm and the tilt of the hand, which matter where the fingers touch something;
    - where the object was when the episode began, in reach, push, pick-place and their like: only rewards need it,
      and their floor is high in dial-turn, window-close, hammer and soccer, where some depend on what an earlier
      reset drew;
    - the two fingers one by one (their distance is shown, and nothing above 1), the spin of a free object, the place
      of the machine in coffee-pull.

    So recorded transitions do not come out exactly either. `mtdiff.evaluation.fidelity` measures that floor beside
    every error, and `mtdiff augment` shows it. An action moves the hand little within its own step, so even
    the actions of other states come near. Orientations of free objects are `blurred`: reported, and not part of the
    total. In drawer-open the first two states of an episode are not restored: there the drawer jumps.

    Args:
        environment: the task's environment, goal visible, for this object alone.
        act: the scripted expert.
        episodes: to recall hidden numbers from, at least 2; 60 take 2 to 8 seconds.
        seed: of those episodes.

    Raises:
        ValueError: fewer than 2 episodes.
    """

    def __init__(
        self, environment: MetaWorldEnvironment, *, act: Callable[[Any], Any], episodes: int = 60, seed: int = 0
    ) -> None:
        at_least(2, episodes=episodes)
        self.task = environment.task
        self.parts = PARTS
        self._environment, self._env = environment, environment._env
        self._memory = remember(environment, act=act, episodes=episodes, seed=seed)
        self._body = Body(self._env)
        self._layout = Layout(environment, seed=seed)
        self.blurred = ("orientation",) if self._body.free else ()

    def step(self, states: NDArray[np.floating], actions: NDArray[np.floating]) -> Stepped:
        """Set the simulator to each of N states and execute the action beside it, 2 to 10 ms each.

        Args:
            states: (N, 39), physical units, with the goal.
            actions: (N, 4), clipped to [-1, 1].

        Returns:
            next states, whose previous frame and goal are exact by definition; rewards; and which states could be
            restored: the simulator has a state within a centimetre of them, and nothing moves 5 cm in a step.

        Raises:
            EnvironmentFault: another shape, or a number that is not finite.
        """
        given, moves = checked(self.task, states, actions, state_dim=STATE_DIM, action_dim=ACTION_DIM)
        found = Stepped(
            next_states=np.full(given.shape, np.nan),
            rewards=np.full(len(given), np.nan),
            restored=np.zeros(len(given), bool),
        )
        if not len(given):
            return found
        positions = np.r_[PARTS["hand"], PARTS["object"]]
        slow = np.abs(given[:, positions] - given[:, positions + FRAME]).max(axis=1) <= _FASTEST
        hidden = self._memory.recall(given)
        _, firsts, goals = np.unique(given[:, GOAL].round(6), axis=0, return_index=True, return_inverse=True)
        for number, first in enumerate(firsts):
            rows = np.flatnonzero((goals.ravel() == number) & slow)
            if not len(rows) or not self._layout.place(given[first]):
                continue
            for row in rows:
                gap = self._body.pose(given[row], {n: v[row] for n, v in hidden.items()}, self._memory.spread)
                if gap <= _TOLERANCE:
                    found.restored[row] = self._advance(found, int(row), given[row], moves[row])
        return found

    def _advance(self, found: Stepped, row: int, state: NDArray[np.float64], action: NDArray[np.float64]) -> bool:
        import mujoco

        env = self._env
        unstable = env.data.warning[mujoco.mjtWarning.mjWARN_BADQACC]
        before = int(unstable.number)
        env.curr_path_length, env._prev_obs = 0, state[:FRAME].copy()
        after, reward, *_ = env.step(np.clip(action, -1.0, 1.0).astype(np.float32))
        if int(unstable.number) != before or not np.isfinite(after).all():
            return False
        after[GOAL] = state[GOAL]
        found.next_states[row], found.rewards[row] = after, reward
        return True

    def close(self) -> None:
        """Free the simulator."""
        self._environment.close()
