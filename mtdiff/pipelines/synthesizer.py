"""MTDiff-S: write transitions of the task that a short demonstration shows (He et al. 2023, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from mtdiff.conditioning.encoder import Condition
from mtdiff.errors import DataError, choices
from mtdiff.pipelines.fields import PromptLike, as_list, read_fields, read_prompt
from mtdiff.pipelines.prompts import Prompt
from mtdiff.pipelines.sampler import Generators, SamplerPipeline, count, per_sample
from mtdiff.representations.transitions import Scale, TransitionsRepresentation
from mtdiff.schedulers.solver import probe


@dataclass
class SynthesizerOutput(BaseOutput):
    """What a synthesizer returns: pieces of B episodes in physical units, each of T transitions.

    Attributes:
        states: (B, T + 1, O); the state after the last action is the last one.
        actions: (B, T, A), inside [-1, 1].
        rewards: (B, T).
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor


class SynthesizerPipeline(SamplerPipeline):
    """Samples pieces of episodes given a prompt.

    Args:
        backbone: the denoising network.
        conditioning: encoders of the conditions; none may read a history or a return.
        representation: what x is.
        scheduler: any diffusers scheduler that samples; swap it with `from_config` as usual.
        normalizer: physical units to model space.
        prompts: demonstrations by task.
        num_inference_steps: default number of sampling timesteps S.
        temperature: default factor on the variance of the noise.
        initial_temperature: default factor on the variance of the first noise; None means `temperature`.
        suite: the environments it was trained for, as a part.
    """

    kind, makes = "synthesizer", "a sample"
    representation: TransitionsRepresentation

    def __init__(
        self,
        backbone: ModelMixin,
        conditioning: ModelMixin,
        representation: ModelMixin,
        scheduler: SchedulerMixin,
        normalizer: ModelMixin,
        prompts: ModelMixin,
        num_inference_steps: int = 10,
        temperature: float = 1.0,
        initial_temperature: float | None = None,
        suite: dict[str, Any] | None = None,
    ):
        super().__init__()
        parts = {"backbone": backbone, "conditioning": conditioning, "representation": representation}
        self._take(
            {**parts, "scheduler": scheduler, "normalizer": normalizer, "prompts": prompts},
            {
                "num_inference_steps": num_inference_steps,
                "temperature": temperature,
                "initial_temperature": initial_temperature,
                "suite": suite,
            },
        )

    @property
    def transitions(self) -> int:
        """T, transitions of a sample."""
        representation = self.representation
        empty = torch.zeros(1, representation.horizon, representation.channels, device=representation.bounds.device)
        return representation.decode(empty)["actions"].shape[1]

    @torch.inference_mode()
    def __call__(
        self,
        prompt: PromptLike | None = None,
        num_samples: int | None = None,
        num_inference_steps: int | None = None,
        temperature: float | None = None,
        initial_temperature: float | None = None,
        generator: Generators = None,
        return_dict: bool = True,
        task: str | Sequence[str] | None = None,
        scale_of: str | Sequence[Prompt] | None = None,
    ) -> SynthesizerOutput | tuple[Tensor, Tensor, Tensor]:
        """Synthesize.

        Args:
            prompt: a demonstration of the task in physical units: a `Prompt`, a mapping with "states" (J, O) and
                "actions" (J, A), the name of a task in `pipe.prompts` (its first prompt), or a list of B of them.
            num_samples: B, where one prompt or task is given: what depends on it is computed once for all of them.
            num_inference_steps: S, sampling timesteps, between 1 and the timesteps of training.
            temperature: factor on the variance of all noise.
            initial_temperature: factor on the variance of the first noise; by default `temperature`.
            generator: one generator, or one per sample. A sample's noise depends on its own generator alone.
            return_dict: return a `SynthesizerOutput` instead of a tuple.
            task: name of a task of training, or B of them, for a synthesizer that is told the task by its number.
            scale_of: for a synthesizer whose states have units of their task: that task's name, of training or of
                `pipe.prompts`, or demonstrations that they are measured on. By default those of `task`, or else of
                every prompt, measured on its J steps alone where it is not named.

        Raises:
            DataError: if a condition the model was trained with is missing, or has the wrong shape.
            ValueError: if a number is out of range.
        """
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        temperatures = self._temperatures(temperature, initial_temperature)
        solver = probe(self.scheduler, steps)
        fields, told = read_fields(self, {"prompt": prompt, "task": task})
        asked = max(count(generator), told) if num_samples is None else num_samples
        if asked < 1 or (told > 1 and asked != told):
            allowed = "at least 1" if told == 1 else f"{told}, as many as prompts or tasks"
            raise ValueError(f"num_samples: must be {allowed}, got {asked}")
        scale = self.scale_for(prompt if task is None else task, scale_of)
        condition = self.conditioning.branches(fields, guided=False)
        shared = self.backbone.prefix(condition, solver.timesteps, batch=told, room=self.representation.horizon)
        if told == 1:
            shared = shared.spread(asked)
        x = self._draw(
            self.backbone.prepare(Condition(tokens={}), solver.timesteps, prefix=shared),
            solver,
            per_sample(generator, asked),
            entries=self.representation.horizon,
            temperatures=temperatures,
        )
        found = self.representation.decode(x, scale)
        states = self.representation.repeat(self.normalizer.physical_states(found["states"]))
        actions = self.normalizer.physical_actions(found["actions"])
        rewards = self.normalizer.physical_rewards(found["rewards"]).squeeze(-1)
        output = SynthesizerOutput(states=states.clone(), actions=actions.clone(), rewards=rewards.clone())
        return output if return_dict else output.to_tuple()

    def scale_for(self, shown: Any, given: str | Sequence[Prompt] | None = None) -> Scale | None:
        """Units of the states of every sample, (1, 1, O) or (B, 1, O); None if they are those of all data.

        Args:
            shown: `task` of a call, or else its `prompt`.
            given: `scale_of` of a call.

        Raises:
            DataError: an unknown task, no demonstrations, or some where nothing depends on them.
        """
        if self.representation.config.scale == "data":
            if given is not None:
                raise DataError("scale_of: the states of this synthesizer have the same units whatever the task")
            return None
        if given is not None and not isinstance(given, str):
            return self._measured(given)
        trained = list(self.conditioning.config.tasks)
        if given is None and shown is None and len(trained) > 1:
            raise DataError(f"scale_of: the states of each task have other units; name one of {', '.join(trained)}")
        names = as_list(given or shown or trained)
        scales = [self._units(one) if isinstance(one, str) else self._measured([one]) for one in names]
        return Scale(*(torch.cat(parts) for parts in zip(*scales, strict=True)))

    def _units(self, task: str) -> Scale:
        trained = list(self.conditioning.config.tasks)
        if task in trained:
            part, number = self.representation, trained.index(task)
            return Scale(part.task_loc[number, None, None], part.task_spread[number, None, None])
        if task not in self.prompts:
            raise DataError(f"scale_of: {choices('task', task, sorted({*trained, *self.prompts}))}")
        return self._measured(self.prompts[task])

    def _measured(self, prompts: Sequence[PromptLike]) -> Scale:
        if not prompts:
            raise DataError("scale_of: the list of demonstrations is empty")
        states, known = torch.cat([read_prompt(self, one).states for one in prompts]), self.normalizer
        # Not clipped as what was trained on is: a new task may lie anywhere.
        placed = (states.to(known.where) - known.state_loc) / known.state_scale
        return Scale(*(part[None, None] for part in self.representation.scale_of(known, placed)))
