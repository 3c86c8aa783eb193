"""A planner in many environments at once: prompts, histories, plans in progress and random streams by slot."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from mtdiff.pipelines.planner import PlannerPipeline
from mtdiff.pipelines.prompts import Prompt


class PlannerAgent:
    """Plans for all slots in one batch, carries out the first `execute` actions, then plans again.

    Args:
        pipeline: a trained planner.
        execute: actions carried out per plan, 1 to H; by default the pipeline's.
        overrides: arguments of `PlannerPipeline.__call__` other than its defaults, e.g. `guidance_scale=1.5`.

    Attributes:
        plan_seconds: (batch size, seconds) of every plan so far.
    """

    def __init__(self, pipeline: PlannerPipeline, *, execute: int | None = None, **overrides: object):
        self.pipeline = pipeline
        self.execute = pipeline.config.execute if execute is None else execute
        horizon = pipeline.representation.horizon
        if not 1 <= self.execute <= horizon:
            raise ValueError(f"execute: must be between 1 and the horizon {horizon}, got {self.execute}")
        self.overrides = overrides
        self.plan_seconds: list[tuple[int, float]] = []

    def reset(self, tasks: Sequence[str], seeds: Sequence[int]) -> None:
        count = len(tasks)
        self._generators = [torch.Generator().manual_seed(int(seed) % 2**63) for seed in seeds]
        self._choices: list[list[Prompt]] = []
        if self.prompted:
            # Fetched once a task, since a prompt library copies what it hands out.
            known = {task: self.pipeline.prompts[task] for task in dict.fromkeys(tasks)}
            self._choices = [known[task] for task in tasks]
        self._prompts = [self._draw(slot) for slot in range(count)] if self._choices else []
        self._histories: list[list[np.ndarray]] = [[] for _ in range(count)]
        self._plans: list[np.ndarray] = [np.empty((0, 0), dtype=np.float32) for _ in range(count)]

    def act(self, states: np.ndarray, slots: np.ndarray) -> np.ndarray:
        for state, slot in zip(states, slots, strict=True):
            self._histories[slot] = [*self._histories[slot], state][-self._length :]
        waiting = [slot for slot in slots if not len(self._plans[slot])]
        # A batch holds histories of one length, but slots may have begun at different times.
        for length in sorted({len(self._histories[slot]) for slot in waiting}):
            self._plan([slot for slot in waiting if len(self._histories[slot]) == length])
        actions = np.stack([self._plans[slot][0] for slot in slots])
        for slot in slots:
            self._plans[slot] = self._plans[slot][1:]
        return actions

    @property
    def prompted(self) -> bool:
        """Whether the planner is told its task by a prompt."""
        return self.pipeline.conditioning.reading("prompt_states") is not None

    @property
    def _length(self) -> int:
        encoder = self.pipeline.conditioning.reading("history")
        return encoder.length if encoder else 1

    def _draw(self, slot: int) -> Prompt:
        which = torch.randint(len(self._choices[slot]), (1,), generator=self._generators[slot])
        return self._choices[slot][int(which)]

    def _plan(self, slots: Sequence[int]) -> None:
        begun = time.perf_counter()
        if self._choices and self.pipeline.config.prompt_policy == "every_plan":
            for slot in slots:
                self._prompts[slot] = self._draw(slot)
        (actions,) = self.pipeline(
            prompt=[self._prompts[slot] for slot in slots] if self._prompts else None,
            history=np.stack([np.stack(self._histories[slot]) for slot in slots]),
            generator=[self._generators[slot] for slot in slots],
            num_actions=self.execute,
            return_dict=False,
            **self.overrides,  # type: ignore[arg-type]
        )
        for slot, plan in zip(slots, actions.cpu().numpy(), strict=True):
            self._plans[slot] = plan
        self.plan_seconds.append((len(slots), time.perf_counter() - begun))
