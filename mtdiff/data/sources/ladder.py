"""The competence ladder: a scripted expert made worse by measure, in the place of a learner's replay buffer.

MTDiff (He et al., NeurIPS 2023, section 4.1) takes its near-optimal data from the replay buffer of a SAC
agent, from random to converged, and its sub-optimal data from the first half of it. Here the position u in
[0, 1] in the "replay" gives a competence c = min(1, 1.4 u), and each episode gets faults that last through
the episode, plus noise on every step. Faults that last matter: noise of zero mean alone is averaged away by
anything that imitates it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Quality = Literal["expert", "near_optimal", "sub_optimal"]
SLOPE = 1.4  # competence reaches 1 at 5/7 of the replay: the rest is a converged agent's


def competence(quality: Quality, episode: int, episodes: int) -> float:
    """Return the competence in [0, 1] of one episode out of `episodes`.

    The sub-optimal set of n episodes is the first half of the near-optimal set of 2 n, so at most 0.7.
    """
    if quality == "expert":
        return 1.0
    last = (2 * episodes if quality == "sub_optimal" else episodes) - 1
    return min(1.0, SLOPE * episode / last) if last else 1.0


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is wrong with the demonstrator in one episode.

    Args:
        bias: (A,) added to every action.
        stall_step: from this step on the arm stands still and the gripper keeps its last command; -1 for
            never.
        gripper: whether the gripper's command has the wrong sign.
        sigma: standard deviation of the Gaussian noise on every number of every action.
    """

    bias: NDArray[np.float64]
    stall_step: int
    gripper: bool
    sigma: float

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        competence: float,
        action_dim: int,
        gripper_channel: int | None,
        bias: float,
        stall: float,
        stall_steps: tuple[int, int],
        gripper: float,
        noise: tuple[float, float],
    ) -> Faults:
        """Draw the faults of an episode; all vanish at competence 1 but the least noise.

        Args:
            rng: always drawn from equally often, whatever the other arguments.
            competence: c in [0, 1].
            action_dim: A.
            gripper_channel: which of them is the gripper, if any; it gets no bias.
            bias: length of the bias at c = 0; it falls with 1 - c and has a random direction.
            stall: probability of a stall at c = 0; it falls with 1 - c.
            stall_steps: first and last step at which a stall may begin.
            gripper: probability of a wrong gripper at c = 0; it falls with 1 - c.
            noise: sigma at c = 1 and how much more it is at c = 0.
        """
        lack = 1.0 - competence
        direction = rng.normal(size=action_dim)
        stalls, wrong = rng.random(2)
        begin = int(rng.integers(stall_steps[0], stall_steps[1] + 1))
        if gripper_channel is not None:
            direction[gripper_channel] = 0.0
        return cls(
            bias=bias * lack * direction / np.linalg.norm(direction),
            stall_step=begin if stalls < stall * lack else -1,
            gripper=bool(gripper_channel is not None and wrong < gripper * lack),
            sigma=noise[0] + noise[1] * lack,
        )

    @classmethod
    def none(cls, action_dim: int, *, sigma: float) -> Faults:
        """No faults but noise on actions of `action_dim` numbers."""
        return cls(bias=np.zeros(action_dim), stall_step=-1, gripper=False, sigma=sigma)

    def labels(self) -> dict[str, Any]:
        """What an episode notes of them."""
        return {
            "sigma": self.sigma,
            "bias": [float(number) for number in self.bias],
            "stall_step": self.stall_step,
            "gripper_fault": self.gripper,
        }

    def apply(
        self,
        action: NDArray[np.float32],
        *,
        step: int,
        last: NDArray[np.float32] | None,
        gripper_channel: int | None,
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        """Return what the demonstrator does instead of `action` (A,), in [-1, 1].

        Args:
            action: the expert's.
            step: number of the step in the episode, from 0.
            last: what was returned in the step before, if any.
            gripper_channel: which number is the gripper, if any.
            rng: the episode's own.
        """
        noise = rng.normal(size=action.shape) * self.sigma
        if 0 <= self.stall_step <= step:
            still = np.zeros_like(action)
            if gripper_channel is not None and last is not None:
                still[gripper_channel] = last[gripper_channel]
            return still
        wanted = action.astype(np.float64)
        if self.gripper:
            wanted[gripper_channel] *= -1.0
        return np.clip(wanted + self.bias + noise, -1.0, 1.0).astype(np.float32)
