"""A policy in many environments at once: what it looks back on and random streams, by slot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mtdiff.pipelines.maps import maps_of
from mtdiff.pipelines.policy import PolicyPipeline


class PolicyAgent:
    """Asks a policy for actions, for all slots in one batch, and carries out the first `execute` of them.

    What an episode is told is encoded once, in `reset`.

    Args:
        pipeline: a trained policy.
        execute: actions carried out before it is asked again, 1 to H; by default the pipeline's.
        target_return: return asked for; by default the pipeline's.

    Attributes:
        plan_seconds: (batch size, seconds) of every time it was asked.
    """

    def __init__(self, pipeline: PolicyPipeline, *, execute: int | None = None, target_return: float | None = None):
        self.pipeline = pipeline
        self.execute = pipeline.config.execute if execute is None else execute
        if not 1 <= self.execute <= pipeline.policy.horizon:
            raise ValueError(f"execute: must be between 1 and the horizon {pipeline.policy.horizon}, got {execute}")
        self.target_return = pipeline.config.target_return if target_return is None else target_return
        self.plan_seconds: list[tuple[int, float]] = []

    def reset(self, tasks: Sequence[str], seeds: Sequence[int]) -> None:
        pipe, count = self.pipeline, len(tasks)
        reading, sizes = pipe.conditioning.reading, pipe.normalizer.config
        self._tasks = list(tasks)
        self._generators = [torch.Generator().manual_seed(int(seed) % 2**63) for seed in seeds]
        prompts = None
        if reading("prompt_states") is not None:
            shown = {task: pipe.prompts[task] for task in dict.fromkeys(tasks)}  # fetched once: a library copies
            prompts = [
                shown[task][int(torch.randint(len(shown[task]), (1,), generator=generator))]
                for task, generator in zip(tasks, self._generators, strict=True)
            ]
        told: dict[str, Any] = {"prompt": prompts, "target_return": self.target_return, "batch": count}
        told["task"] = self._tasks if reading("task") is not None else None
        if reading("map") is not None:
            maps = maps_of(pipe, dict.fromkeys(tasks))
            told["map"] = [maps[task] for task in tasks]
        self._condition = pipe.condition(**told)[0] if count else None
        length = pipe.policy.length
        self._states = np.zeros((count, length, sizes.state_dim), dtype=np.float32)
        self._actions = np.zeros((count, length, sizes.action_dim), dtype=np.float32)
        self._rewards = np.zeros((count, length), dtype=np.float32)
        self._gained, self._steps = np.zeros(count, dtype=np.float32), np.zeros(count, dtype=np.int64)
        self._plans = np.empty((count, self.execute, sizes.action_dim), dtype=np.float32)
        self._left = np.zeros(count, dtype=np.int64)

    def act(self, states: np.ndarray, slots: np.ndarray) -> np.ndarray:
        slots = np.asarray(slots)
        for kept, new in ((self._states, states), (self._actions, 0.0), (self._rewards, 0.0)):
            kept[slots] = np.roll(kept[slots], -1, axis=1)
            kept[slots, -1] = new
        waiting = slots[self._left[slots] == 0]
        known = np.minimum(self._steps[waiting] + 1, self.pipeline.policy.length)
        # A batch looks back on equally many states, but slots may have begun at different times.
        for length in np.unique(known):
            self._ask(waiting[known == length], int(length))
        actions = self._plans[slots, self.execute - self._left[slots]]
        self._actions[slots, -1] = actions
        self._left[slots] -= 1
        self._steps[slots] += 1
        return actions

    def observe(self, rewards: np.ndarray, slots: np.ndarray) -> None:
        """Learn the rewards (n,) that the last actions of the slots led to."""
        slots = np.asarray(slots)
        self._rewards[slots, -1] = rewards
        self._gained[slots] += rewards

    @property
    def prompted(self) -> bool:
        """Whether the policy is told its task, by a prompt, its map or its number."""
        reading = self.pipeline.conditioning.reading
        return any(reading(field) is not None for field in ("prompt_states", "map", "task"))

    def _ask(self, slots: np.ndarray, length: int) -> None:
        begun = time.perf_counter()
        assert self._condition is not None
        newest = slice(self._states.shape[1] - length, None)
        before = slice(self._states.shape[1] - length, self._states.shape[1] - 1)
        (actions,) = self.pipeline(
            history=self._states[slots, newest],
            past_actions=self._actions[slots, before],
            past_rewards=self._rewards[slots, before],
            gained=self._gained[slots],
            steps=self._steps[slots],
            task=[self._tasks[slot] for slot in slots],
            target_return=self.target_return,
            condition=self._condition.rows(torch.from_numpy(slots)),
            generator=[self._generators[slot] for slot in slots],
            return_dict=False,
        )
        self._plans[slots] = actions[:, : self.execute].cpu().numpy()
        self._left[slots] = self.execute
        self.plan_seconds.append((len(slots), time.perf_counter() - begun))
