"""A planner in many environments at once: prompts, histories, plans in progress and random streams by slot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import torch

from mtdiff.pipelines.maps import maps_of
from mtdiff.pipelines.planner import PlannerPipeline
from mtdiff.pipelines.prefix import EpisodePrefix
from mtdiff.pipelines.prompts import Prompt

_OF_PREFIX = ("target_return", "num_inference_steps", "guidance_scale")  # overrides that a prefix is made for

Told = tuple[str, int]
"""What tells a slot's task: its name, and which of its prompts is shown."""


class PlannerAgent:
    """Plans for all slots in one batch, carries out the first `execute` actions, then plans again.

    What all plans of an episode share is computed in `reset` and kept until the next one. Where the planner has
    weights that were fine-tuned for a slot's task, its plans are made with those.

    Args:
        pipeline: a trained planner.
        execute: actions carried out per plan, 1 to H; by default the pipeline's.
        prefix_memory: most bytes to keep; what does not fit is computed anew in every plan, with the same result. By
            default half of the device's memory that is free at a reset.
        overrides: arguments of `PlannerPipeline.__call__` other than its defaults, e.g. `guidance_scale=1.5`.

    Attributes:
        plan_seconds: (batch size, seconds) of every plan so far.
        prefix_seconds: (batch size, seconds) of every prefix so far.
    """

    def __init__(
        self,
        pipeline: PlannerPipeline,
        *,
        execute: int | None = None,
        prefix_memory: int | None = None,
        **overrides: Any,
    ):
        self.pipeline = pipeline
        self.execute = pipeline.config.execute if execute is None else execute
        horizon = pipeline.representation.horizon
        if not 1 <= self.execute <= horizon:
            raise ValueError(f"execute: must be between 1 and the horizon {horizon}, got {self.execute}")
        self.prefix_memory = prefix_memory
        self._shared = {key: value for key, value in overrides.items() if key in _OF_PREFIX}
        self._own = {key: value for key, value in overrides.items() if key not in _OF_PREFIX}
        self.plan_seconds: list[tuple[int, float]] = []
        self.prefix_seconds: list[tuple[int, float]] = []

    def reset(self, tasks: Sequence[str], seeds: Sequence[int]) -> None:
        count, reading = len(tasks), self.pipeline.conditioning.reading
        self._tasks = list(tasks)
        copies = self.pipeline.copies or ()
        self._planners = {task: self.pipeline.for_task(task) for task in dict.fromkeys(tasks) if task in copies}
        own = list(self._planners)
        self._planner = np.array([own.index(task) + 1 if task in own else 0 for task in tasks], dtype=np.int64)
        self._generators = [torch.Generator().manual_seed(int(seed) % 2**63) for seed in seeds]
        # Fetched once a task, since a prompt library copies what it hands out.
        self._prompts: dict[str, list[Prompt]] = {}
        if reading("prompt_states") is not None:
            self._prompts = {task: self.pipeline.prompts[task] for task in dict.fromkeys(tasks)}
        # Shown as they lie from the present state, they are no part of what an episode's plans share.
        told = (reading("prompt_states"), reading("map"))
        self._moving = any(part is not None and part.lifetime == "plan" for part in told)
        self._maps = maps_of(self.pipeline, dict.fromkeys(tasks)) if reading("map") is not None else {}
        self._told = [self._draw(slot) for slot in range(count)]
        encoder = reading("history")
        self._length = encoder.length if encoder else 1
        self._histories = np.empty((count, self._length, 0), dtype=np.float32)
        self._seen = np.zeros(count, dtype=np.int64)  # states in the history
        self._plans = np.empty((count, self.execute, self.pipeline.normalizer.config.action_dim), dtype=np.float32)
        self._left = np.zeros(count, dtype=np.int64)  # actions of the plan that are still to be carried out
        self._pool: tuple[dict[Told, int], EpisodePrefix] | None = None
        self._blocks: list[tuple[np.ndarray, EpisodePrefix]] = []
        policy = self.pipeline.config.prompt_policy
        if policy == "pool" and self._prompts and not (self._moving or own):
            every = [(task, number) for task, prompts in self._prompts.items() for number in range(len(prompts))]
            self._pool = {told: row for row, told in enumerate(every)}, self._compute(every)
        elif not (self._redraws or self._moving) and count:
            for number in np.unique(self._planner):
                self._prefix(np.flatnonzero(self._planner == number))

    def act(self, states: np.ndarray, slots: np.ndarray) -> np.ndarray:
        slots = np.asarray(slots)
        if not self._histories.shape[2]:
            self._histories = np.zeros((*self._histories.shape[:2], states.shape[1]), dtype=np.float32)
        self._histories[slots] = np.roll(self._histories[slots], -1, axis=1)
        self._histories[slots, -1] = states
        self._seen[slots] = np.minimum(self._seen[slots] + 1, self._length)
        waiting = slots[self._left[slots] == 0]
        # A batch holds histories of one length, but slots may have begun at different times; and it has one network.
        kinds = np.stack([self._seen[waiting], self._planner[waiting]])
        for length, number in np.unique(kinds, axis=1).T:
            self._plan(waiting[(kinds[0] == length) & (kinds[1] == number)], int(length))
        actions = self._plans[slots, self.execute - self._left[slots]]
        self._left[slots] -= 1
        return actions

    @property
    def prompted(self) -> bool:
        """Whether the planner is told its task, by a prompt, its map or its number."""
        reading = self.pipeline.conditioning.reading
        return any(reading(field) is not None for field in ("prompt_states", "map", "task"))

    @property
    def prefix_bytes(self) -> int:
        """Memory that what is kept for this episode takes."""
        kept = [prefix for _, prefix in self._blocks] + ([self._pool[1]] if self._pool else [])
        return sum(prefix.nbytes for prefix in kept)

    @property
    def _redraws(self) -> bool:
        return bool(self._prompts) and self.pipeline.config.prompt_policy != "episode"

    def _draw(self, slot: int) -> Told:
        task = self._tasks[slot]
        if task not in self._prompts:
            return task, 0
        return task, int(torch.randint(len(self._prompts[task]), (1,), generator=self._generators[slot]))

    def _plan(self, slots: np.ndarray, length: int) -> None:
        begun = time.perf_counter()
        if self._redraws:
            for slot in slots:
                self._told[slot] = self._draw(slot)
        if not (self._redraws or self._moving):
            conditions: dict[str, Any] = {"prefix": self._prefix(slots)}
        elif self._pool:
            rows, prefix = self._pool
            conditions = {"prefix": prefix.rows(torch.tensor([rows[self._told[slot]] for slot in slots]))}
        else:
            conditions = {**self._conditions([self._told[slot] for slot in slots]), **self._shared}
        (actions,) = self._pipeline_of(self._told[slots[0]])(
            **conditions,
            history=self._histories[slots, -length:],
            generator=[self._generators[slot] for slot in slots],
            num_actions=self.execute,
            return_dict=False,
            **self._own,
        )
        self._plans[slots], self._left[slots] = actions.cpu().numpy(), self.execute
        self.plan_seconds.append((len(slots), time.perf_counter() - begun))

    def _prefix(self, slots: np.ndarray) -> EpisodePrefix:
        """What the plans of these slots share: kept, cut out of what is kept, or computed.

        Slots that once plan together do so again, except that some leave. What they leave behind is dropped.
        """
        for number, (block, prefix) in enumerate(self._blocks):
            if np.array_equal(block, slots):
                return prefix
            if np.isin(slots, block).all():
                places = {slot: place for place, slot in enumerate(block)}
                self._blocks[number] = slots, prefix.rows(torch.tensor([places[slot] for slot in slots]))
                return self._blocks[number][1]
        self._blocks = [(block, prefix) for block, prefix in self._blocks if not np.isin(block, slots).any()]
        self._blocks.append((slots, self._compute([self._told[slot] for slot in slots])))
        return self._blocks[-1][1]

    def _compute(self, told: Sequence[Told]) -> EpisodePrefix:
        begun = time.perf_counter()
        memory = self._free_memory() // 2 if self.prefix_memory is None else self.prefix_memory
        prefix = self._pipeline_of(told[0]).prefix(
            **self._conditions(told), **self._shared, num_actions=self.execute, batch=len(told), memory=memory
        )
        self.prefix_seconds.append((len(told), time.perf_counter() - begun))
        return prefix

    def _pipeline_of(self, told: Told) -> PlannerPipeline:
        return self._planners.get(told[0], self.pipeline)

    def _conditions(self, told: Sequence[Told]) -> dict[str, Any]:
        return {
            "prompt": [self._prompts[task][number] for task, number in told] if self._prompts else None,
            "task": [task for task, _ in told] if self.pipeline.conditioning.reading("task") else None,
            "map": [self._maps[task] for task, _ in told] if self._maps else None,
        }

    def _free_memory(self) -> int:
        device = self.pipeline.normalizer.where
        return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
