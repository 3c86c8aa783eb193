"""Episodes of a policy that is being fine-tuned: many environments side by side, whole episodes, new goals.

Shapes: N episodes, M plans of all of them, C chunks of the longest, L history, O state, A action, S timesteps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtdiff.data.trajectory import Trajectory
from mtdiff.environments.suite import seed_of
from mtdiff.environments.vector import VectorEnv
from mtdiff.errors import EnvironmentFault
from mtdiff.finetuning.policy import ChainPolicy
from mtdiff.finetuning.settings import FineTuning


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """What an iteration collected.

    Attributes:
        history: of every plan, (M, L, O), in model space.
        chain: of every plan, (S + 1, M, entries, D).
        episode: whose plan it was, (M,).
        chunk: its number in the episode, (M,).
        rewards: mean reward per step of every chunk (N, C); after an episode's success that of its last step, after
            another end 0.
        goal: of every episode, (N,).
        chunks: plans of every episode, (N,).
        final: states that ended the episodes, as histories (N, L, O).
        end: how each ended, N of "success", "terminated" and "truncated".
        trajectories: the episodes, with the actions that were carried out.
    """

    history: Tensor
    chain: Tensor
    episode: Tensor
    chunk: Tensor
    rewards: Tensor
    goal: Tensor
    chunks: Tensor
    final: Tensor
    end: list[str]
    trajectories: list[Trajectory]

    @property
    def steps(self) -> int:
        """Environment steps."""
        return sum(map(len, self.trajectories))

    @property
    def succeeded(self) -> np.ndarray:
        """Whether any step of each episode was successful, (N,)."""
        return np.array([bool(one.success.any()) for one in self.trajectories])


class Collector:
    """Runs a policy in the environments of one task.

    Args:
        environments: slots of that task, one per episode of an iteration.
        task: its name.
        settings: see `FineTuning`.
        limit: an episode is truncated after so many steps.
    """

    def __init__(self, environments: VectorEnv, task: str, settings: FineTuning, limit: int):
        self.environments, self.task, self.settings, self.limit = environments, task, settings, limit

    def collect(self, policy: ChainPolicy, first: int, goals: int) -> Rollouts:
        """Run `rollouts_per_goal` episodes of each of the goals `first`, `first` + 1, ...

        Goals and noise follow from the seed, the task and the goal's number alone.

        Raises:
            EnvironmentFault: a simulator failed, or a reward is not finite.
        """
        each = self.settings.rollouts_per_goal
        numbers = np.repeat(np.arange(first, first + goals), each)
        run = _Run(self, policy, numbers)
        while run.live.size:
            run.chunk()
        return run.rollouts(np.repeat(np.arange(goals), each))

    def seeds(self, numbers: np.ndarray) -> tuple[list[int], list[torch.Generator]]:
        """Seeds of the goals, equal for equal numbers, and a generator of noise for each episode."""
        told = self.settings.seed, "finetuning", self.task
        each = self.settings.rollouts_per_goal
        goals = [seed_of(*told, int(number)) for number in numbers]
        noise = [seed_of(*told, int(number), 1 + place % each) for place, number in enumerate(numbers)]
        return goals, [torch.Generator().manual_seed(seed) for seed in noise]


class _Run:
    """The episodes of one call of `collect`, under way."""

    def __init__(self, collector: Collector, policy: ChainPolicy, numbers: np.ndarray):
        self.by, self.policy, self.count = collector, policy, len(numbers)
        self.live = np.arange(self.count)
        seeds, self.generators = collector.seeds(numbers)
        states = collector.environments.reset(seeds, slots=self.live)
        self.seen = [[state] for state in states]
        self.did: list[list[np.ndarray]] = [[] for _ in numbers]
        self.earned: list[list[float]] = [[] for _ in numbers]
        self.won: list[list[bool]] = [[] for _ in numbers]
        self.end = [""] * self.count
        self.history = torch.zeros(self.count, policy.length, states.shape[1])
        self._see(self.live, states)
        self.plans: list[tuple[np.ndarray, Tensor, Tensor]] = []

    def chunk(self) -> None:
        """Plan for all that are still running, and carry the plans out."""
        begun, where = self.live, self.policy.normalizer.where
        history = self.history[begun]
        generators = [self.generators[slot] for slot in begun]
        actions, chain = self.policy.plan(history.to(where), generators)
        self.plans.append((begun, history, chain.cpu()))
        planned = np.zeros((self.count, *actions.shape[1:]), np.float32)
        planned[begun] = actions.cpu().numpy().clip(-1, 1)
        for step in range(planned.shape[1]):
            if not self.live.size:
                return
            self._step(planned[self.live, step])

    def _step(self, actions: np.ndarray) -> None:
        live, settings = self.live, self.by.settings
        out = self.by.environments.step(actions, slots=live)
        if not (np.isfinite(out.rewards).all() and np.isfinite(out.states).all()):
            raise EnvironmentFault(f"{self.by.task}: a reward or state is not finite")
        for row, slot in enumerate(live):
            self.seen[slot].append(out.states[row])
            self.did[slot].append(actions[row])
            self.earned[slot].append(float(out.rewards[row]))
            self.won[slot].append(bool(out.success[row]))
            if out.success[row] and settings.stop_on_success:
                self.end[slot] = "success"
            elif out.terminated[row]:
                self.end[slot] = "terminated"
            elif out.truncated[row] or len(self.did[slot]) >= self.by.limit:
                self.end[slot] = "truncated"
        self._see(live, out.states)
        self.live = np.array([slot for slot in live if not self.end[slot]], dtype=np.int64)

    def _see(self, slots: np.ndarray, states: np.ndarray) -> None:
        normalizer = self.policy.normalizer
        new = normalizer.states(torch.from_numpy(np.asarray(states)).to(normalizer.where)).cpu()
        self.history[slots] = torch.cat([self.history[slots, 1:], new[:, None]], dim=1)

    def rollouts(self, goal: np.ndarray) -> Rollouts:
        size = self.policy.execute
        chunks = np.array([-(-len(did) // size) for did in self.did])
        episode = np.concatenate([slots for slots, _, _ in self.plans])
        number = np.concatenate([np.full(len(slots), i) for i, (slots, _, _) in enumerate(self.plans)])
        return Rollouts(
            history=torch.cat([history for _, history, _ in self.plans]),
            chain=torch.cat([chain for _, _, chain in self.plans], dim=1),
            episode=torch.from_numpy(episode),
            chunk=torch.from_numpy(number),
            rewards=torch.from_numpy(self._rewards(size, -(-self.by.limit // size))),
            goal=torch.from_numpy(goal),
            chunks=torch.from_numpy(chunks),
            final=self.history,
            end=list(self.end),
            trajectories=[self._trajectory(slot) for slot in range(self.count)],
        )

    def _rewards(self, size: int, chunks: int) -> np.ndarray:
        """Mean rewards per chunk, up to the end of the longest episode there can be."""
        table = np.zeros((self.count, chunks * size), np.float32)
        for slot, earned in enumerate(self.earned):
            rewards = np.array(earned, np.float32)
            if self.by.settings.reward == "success":
                rewards = np.maximum.accumulate(np.array(self.won[slot], np.float32))
            table[slot, : len(rewards)] = rewards
            if self.end[slot] == "success":
                table[slot, len(rewards) :] = rewards[-1]
        return table.reshape(self.count, chunks, size).mean(-1)

    def _trajectory(self, slot: int) -> Trajectory:
        details: dict[str, Any] = {"terminated": self.end[slot] == "terminated"}
        return Trajectory(
            states=np.stack(self.seen[slot]).astype(np.float32),
            actions=np.stack(self.did[slot]),
            rewards=np.array(self.earned[slot], np.float32),
            success=np.array(self.won[slot], bool),
            truncated=not details["terminated"],
            task=self.by.task,
            **details,
        )
