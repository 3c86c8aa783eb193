"""MTDiff-P: plan actions for any task a short demonstration shows (He et al. 2023, section 3.2)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from mtdiff.pipelines.copies import PARTS, TaskCopies
from mtdiff.pipelines.fields import PromptLike, read_fields
from mtdiff.pipelines.maps import MapLike
from mtdiff.pipelines.prefix import EpisodePrefix
from mtdiff.pipelines.sampler import Generators, SamplerPipeline, per_sample
from mtdiff.pipelines.sampler import count as given_for
from mtdiff.schedulers.solver import probe


@dataclass
class PlannerOutput(BaseOutput):
    """What a planner returns.

    Attributes:
        actions: the plan in physical units, (B, n, A), inside [-1, 1].
    """

    actions: Tensor


class PlannerPipeline(SamplerPipeline):
    """Samples action sequences given a prompt, a history and a target return.

    Args:
        backbone: the denoising network.
        conditioning: encoders of the conditions.
        representation: what x is.
        scheduler: any diffusers scheduler that samples; swap it with `from_config` as usual.
        normalizer: physical units to model space.
        prompts: demonstrations by task.
        num_inference_steps: default number of sampling timesteps S.
        guidance_scale: default weight of guidance; 1.0 is off.
        temperature: default factor on the variance of the noise.
        initial_temperature: default factor on the variance of the first noise; None means `temperature`.
        execute: default number of actions an agent carries out per plan.
        target_return: default return asked for, in the units of the label that was trained.
        prompt_policy: "episode", "pool" or "every_plan", see `Sampling`.
        suite: the environments it was trained for, as a part: what `mtdiff evaluate` runs it in.
        copies: weights that were fine-tuned for single tasks, if there are any; an agent acts with a task's own.
    """

    kind, makes = "planner", "a plan"
    _optional_components = ["copies"]  # noqa: RUF012 (diffusers' own name and type)

    def __init__(
        self,
        backbone: ModelMixin,
        conditioning: ModelMixin,
        representation: ModelMixin,
        scheduler: SchedulerMixin,
        normalizer: ModelMixin,
        prompts: ModelMixin,
        num_inference_steps: int = 10,
        guidance_scale: float = 1.0,
        temperature: float = 0.5,
        initial_temperature: float | None = None,
        execute: int = 4,
        target_return: float = 1.0,
        prompt_policy: str = "episode",
        suite: dict[str, Any] | None = None,
        copies: TaskCopies | None = None,
    ):
        super().__init__()
        parts = {"backbone": backbone, "conditioning": conditioning, "representation": representation}
        self._take(
            {**parts, "scheduler": scheduler, "normalizer": normalizer, "prompts": prompts, "copies": copies},
            {
                "num_inference_steps": num_inference_steps,
                "guidance_scale": guidance_scale,
                "temperature": temperature,
                "initial_temperature": initial_temperature,
                "execute": execute,
                "target_return": target_return,
                "prompt_policy": prompt_policy,
                "suite": suite,
            },
        )

    def for_task(self, task: str) -> PlannerPipeline:
        """The planner of a task: with the weights that were fine-tuned for it, or this one if there are none."""
        if self.copies is None or task not in self.copies:
            return self
        networks = {}
        for part in PARTS:
            module = getattr(self, part)
            own = {name: value for name, value in self.copies[task].items() if name.startswith(f"{part}.")}
            networks[part] = copy.deepcopy(module)
            networks[part].load_state_dict(
                {name.removeprefix(f"{part}."): value.to(module.dtype) for name, value in own.items()}
            )
        shared = {name: value for name, value in self.components.items() if name not in (*PARTS, "copies")}
        return PlannerPipeline(**networks, **shared, **{name: self.config[name] for name in self.settings()})

    @torch.inference_mode()
    def prefix(
        self,
        prompt: PromptLike | None = None,
        task: str | Sequence[str] | None = None,
        target_return: float | Sequence[float] | Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_actions: int | None = None,
        batch: int = 1,
        memory: int | None = None,
        map: MapLike | None = None,
    ) -> EpisodePrefix:
        """Compute once what all plans of an episode share; hand it to every call: `pipe(prefix=..., history=...)`.

        The plans are the same as without it. It is of no use after the weights or the scheduler have changed.

        Args:
            prompt: as in a call; likewise `task`, `target_return`, `num_inference_steps`, `guidance_scale`.
            task: see `prompt`.
            target_return: see `prompt`.
            num_inference_steps: see `prompt`.
            guidance_scale: see `prompt`.
            num_actions: most actions that will be planned with it; the horizon by default.
            batch: B, where no condition tells.
            memory: most bytes it may take; what does not fit is computed anew in every plan.
            map: see `prompt`.

        Raises:
            DataError: as in a call.
            ValueError: as in a call.
        """
        steps, scale, count = self._numbers(num_inference_steps, guidance_scale, num_actions)
        given = {"prompt": prompt, "task": task, "map": map, "target_return": target_return}
        fields, batch = read_fields(self, given, lifetimes=("episode",), batch=batch, counted="batch")
        condition = self.conditioning.branches(fields, guided=scale != 1.0, lifetime="episode")
        return EpisodePrefix(
            shared=self.backbone.prefix(
                condition,
                probe(self.scheduler, steps).timesteps,
                1 if scale == 1.0 else 2,
                batch=batch,
                room=self._entries(count),
                memory=memory,
            ),
            guidance_scale=scale,
            num_actions=count,
        )

    def __call__(
        self,
        prompt: PromptLike | None = None,
        history: Tensor | np.ndarray | None = None,
        target_return: float | Sequence[float] | Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        initial_temperature: float | None = None,
        num_actions: int | None = None,
        generator: Generators = None,
        return_dict: bool = True,
        task: str | Sequence[str] | None = None,
        prefix: EpisodePrefix | None = None,
        map: MapLike | None = None,
    ) -> PlannerOutput | tuple[Tensor]:
        r"""Plan.

        Args:
            prompt: a demonstration of the task in physical units: a `Prompt`, a mapping with "states" (J, O) and
                "actions" (J, A), the name of a task in `pipe.prompts` (its first prompt), or a list of B of them.
            history: states seen so far in physical units, newest last, (n, O) or (B, n, O) with n >= 1; only the
                last L are read, and fewer than L mean that the episode has just begun.
            target_return: return asked for, one number or B, in the units of the label that was trained.
            num_inference_steps: S, sampling timesteps, between 1 and the timesteps of training.
            guidance_scale: uncond + guidance_scale (cond - uncond); 1.0 skips the unconditional branch.
            temperature: factor on the variance of all noise.
            initial_temperature: factor on the variance of the first noise; by default `temperature`.
            num_actions: plan only the first n of H actions. With a causal backbone that costs less and changes
                none of them; otherwise the whole horizon is planned and cut. By default H, or as the prefix was made.
            generator: one generator, or one per sample. A sample's noise depends on its own generator alone.
            return_dict: return a `PlannerOutput` instead of a tuple.
            task: name of a task of training, or B of them, for a planner that is told the task by its number.
            prefix: what `prefix` returned, instead of `prompt`, `task` and `target_return`. Without it nothing is
                kept from one call to the next.
            map: for a planner that is shown the map: a drawing, its numbers (R, C), the name of a task of the suite, or
                a list of B of them.

        Returns:
            Actions of shape (B, n, A), inside [-1, 1].

        Raises:
            DataError: if a condition the model was trained with is missing, or has the wrong shape.
            ValueError: if a number is out of range, or guidance is asked of a model that cannot be guided.
        """
        if prefix is not None:
            num_inference_steps, guidance_scale, num_actions = prefix.agree(
                num_inference_steps, guidance_scale, num_actions
            )
        steps, scale, count = self._numbers(num_inference_steps, guidance_scale, num_actions)
        temperatures = self._temperatures(temperature, initial_temperature)
        with torch.inference_mode():
            solver = probe(self.scheduler, steps)
            given = {"prompt": prompt, "task": task, "map": map, "target_return": target_return, "history": history}
            if prefix is None:
                fields, batch = read_fields(self, given, batch=given_for(generator))
                condition = self.conditioning.branches(fields, guided=scale != 1.0)
            else:
                prefix.require(given, solver.timesteps, given_for(generator))
                fields, batch = read_fields(self, given, lifetimes=("plan",), batch=prefix.batch, counted="prefix")
                condition = self.conditioning.branches(fields, guided=scale != 1.0, lifetime="plan")
            shared = None if prefix is None else prefix.shared
            predict = self.backbone.prepare(condition, solver.timesteps, 1 if scale == 1.0 else 2, shared)
            x = self._draw(
                predict,
                solver,
                per_sample(generator, batch),
                entries=self._entries(count),
                guidance_scale=scale,
                temperatures=temperatures,
            )
            actions = self.normalizer.physical_actions(self.representation.decode(x)["actions"])[:, :count]
        actions = actions.clone()  # a tensor like any other again
        return PlannerOutput(actions=actions) if return_dict else (actions,)

    def _numbers(self, steps: int | None, scale: float | None, count: int | None) -> tuple[int, float, int]:
        """Sampling timesteps, guidance scale and actions to plan: as asked, or the defaults; checked."""
        steps = self.config.num_inference_steps if steps is None else steps
        scale = self.config.guidance_scale if scale is None else scale
        horizon = self.representation.horizon
        count = horizon if count is None else count
        if not 1 <= count <= horizon:
            raise ValueError(f"num_actions: must be between 1 and the horizon {horizon}, got {count}")
        if scale != 1.0 and not self.conditioning.droppable:
            raise ValueError(
                "guidance_scale: only 1.0 is possible, because no condition of this model was trained with dropout"
            )
        return steps, scale, count

    def _entries(self, count: int) -> int:
        """Entries of x that must be sampled to plan `count` actions."""
        grain = self.backbone.granularity
        return -(-count // grain) * grain if self.backbone.causal else self.representation.horizon
