"""MTDiff-P: plan actions for any task a short demonstration shows (He et al. 2023, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from mtdiff.backbones.backbone import Backbone
from mtdiff.conditioning.encoder import Encoder
from mtdiff.conditioning.mapping import Conditioning
from mtdiff.data.normalizer import Normalizer
from mtdiff.diffusion import draw_noise, sample
from mtdiff.errors import DataError
from mtdiff.pipelines.prompts import Prompt, PromptLibrary
from mtdiff.representations.representation import Representation
from mtdiff.schedulers.solver import probe

PromptLike = str | Prompt | Mapping[str, Any] | Sequence["str | Prompt | Mapping[str, Any]"]
Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass
class PlannerOutput(BaseOutput):
    """What a planner returns.

    Attributes:
        actions: the plan in physical units, (B, n, A), inside [-1, 1].
    """

    actions: Tensor


class PlannerPipeline(DiffusionPipeline):
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
        target_return: default return asked for, in [0, 1].
        prompt_policy: "episode" or "every_plan", see `Sampling`.
        suite: the environments it was trained for, as a part: what `mtdiff evaluate` runs it in.
    """

    backbone: Backbone
    conditioning: Conditioning
    representation: Representation
    normalizer: Normalizer
    prompts: PromptLibrary

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
    ):
        super().__init__()
        self.register_modules(
            backbone=backbone,
            conditioning=conditioning,
            representation=representation,
            scheduler=scheduler,
            normalizer=normalizer,
            prompts=prompts,
        )
        self.register_to_config(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            temperature=temperature,
            initial_temperature=initial_temperature,
            execute=execute,
            target_return=target_return,
            prompt_policy=prompt_policy,
            suite=suite,
        )
        for module in (backbone, conditioning):
            _settle(module)

    @torch.no_grad()
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
    ) -> PlannerOutput | tuple[Tensor]:
        r"""Plan.

        Args:
            prompt: a demonstration of the task in physical units: a `Prompt`, a mapping with "states" (J, O) and
                "actions" (J, A), the name of a task in `pipe.prompts` (its first prompt), or a list of B of them.
            history: states seen so far in physical units, newest last, (n, O) or (B, n, O) with n >= 1; only the
                last L are read, and fewer than L mean that the episode has just begun.
            target_return: return asked for, in [0, 1] of each task's data; one number or B.
            num_inference_steps: S, sampling timesteps, between 1 and the timesteps of training.
            guidance_scale: uncond + guidance_scale (cond - uncond); 1.0 skips the unconditional pass.
            temperature: factor on the variance of all noise.
            initial_temperature: factor on the variance of the first noise; by default `temperature`.
            num_actions: plan only the first n of H actions. With a causal backbone that costs less and changes
                none of them; otherwise the whole horizon is planned and cut.
            generator: one generator, or one per sample. A sample's noise depends on its own generator alone.
            return_dict: return a `PlannerOutput` instead of a tuple.

        Returns:
            Actions of shape (B, n, A), inside [-1, 1].

        Raises:
            DataError: if a condition the model was trained with is missing, or has the wrong shape.
            ValueError: if a number is out of range, or guidance is asked of a model that cannot be guided.
        """
        defaults = self.config
        steps = defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        temperature = defaults.temperature if temperature is None else temperature
        if initial_temperature is None:
            initial_temperature = defaults.initial_temperature
        horizon = self.representation.horizon
        count = horizon if num_actions is None else num_actions
        if not 1 <= count <= horizon:
            raise ValueError(f"num_actions: must be between 1 and the horizon {horizon}, got {count}")
        for name, value in (("temperature", temperature), ("initial_temperature", initial_temperature)):
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name}: must be a finite number of at least 0, got {value}")

        fields, batch = self._fields(prompt, history, target_return, _count(generator))
        branches = 1
        if scale != 1.0:
            fields, drop = self._guided(fields, batch)
            branches = 2
        else:
            drop = None
        condition = self.conditioning(fields, drop)

        solver = probe(self.scheduler, steps)
        predict = self.backbone.prepare(condition, solver.timesteps, branches)
        # Noise is drawn for the whole horizon and cut, so that planning fewer actions changes none of them.
        noise = draw_noise(
            (horizon, self.representation.channels),
            _per_sample(generator, batch),
            len(solver) + 1 if solver.stochastic else 1,
        )
        grain = self.backbone.granularity
        planned = -(-count // grain) * grain if self.backbone.causal else horizon
        x = sample(
            predict,
            solver,
            noise[:, :, :planned].to(self.device),
            prediction_type=self.scheduler.config.prediction_type,
            guidance_scale=scale,
            bounds=self.representation.bounds.float(),
            temperature=temperature,
            initial_temperature=initial_temperature,
        )
        actions = self.normalizer.physical_actions(self.representation.decode(x)["actions"])[:, :count]
        return PlannerOutput(actions=actions) if return_dict else (actions,)

    def _guided(self, fields: dict[str, Tensor], batch: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Double the batch: as asked, and once more with everything withheld that training withheld."""
        roles = list(self.conditioning.droppable)
        if not roles:
            raise ValueError(
                "guidance_scale: only 1.0 is possible, because no condition of this model was trained with dropout"
            )
        doubled = {name: torch.cat([value, value]) for name, value in fields.items()}
        second = torch.arange(2 * batch, device=self.device) >= batch
        return doubled, dict.fromkeys(roles, second)

    def _fields(self, prompt: Any, history: Any, target_return: Any, generators: int) -> tuple[dict[str, Tensor], int]:
        """Check the conditions, bring them to model space and to one batch size."""
        fields: dict[str, Tensor] = {}
        if encoder := self._asked("prompt_states", "prompt", prompt):
            prompts = [self._prompt(one, encoder.length) for one in _as_list(prompt)]
            if not prompts:
                raise DataError("prompt: the list of prompts is empty")
            states = torch.stack([one.states for one in prompts]).to(self.device)
            actions = torch.stack([one.actions for one in prompts]).to(self.device)
            fields["prompt_states"] = self.normalizer.states(states)
            fields["prompt_actions"] = self.normalizer.actions(actions)
        if encoder := self._asked("history", "history", history):
            fields["history"] = self._history(history, encoder.length)
        if self.conditioning.reading("return"):
            value = self.config.target_return if target_return is None else target_return
            fields["return"] = torch.as_tensor(value, dtype=torch.float32, device=self.device).reshape(-1, 1)
            if not fields["return"].isfinite().all():
                raise DataError("target_return: contains NaN or infinity")
        sizes = {name: len(value) for name, value in fields.items()}
        batch = max([generators, *sizes.values()])
        wrong = {name: size for name, size in sizes.items() if size not in (1, batch)}
        if wrong:
            counts = sizes | ({"generator": generators} if generators > 1 else {})
            raise DataError(f"batch sizes must be equal or 1, got {counts}")
        dtype = self.backbone.dtype
        return {k: v.expand(batch, *v.shape[1:]).to(dtype) for k, v in fields.items()}, batch

    def _asked(self, field: str, name: str, value: Any) -> Encoder | None:
        """The encoder that reads a field, if any; its value must then be there."""
        encoder = self.conditioning.reading(field)
        if encoder is not None and value is None:
            raise DataError(f"{name}: this planner was trained with it, so a plan needs it; got nothing")
        return encoder

    def _prompt(self, prompt: Any, length: int) -> Prompt:
        if isinstance(prompt, str):
            prompt = self.prompts[prompt][0]
        elif isinstance(prompt, Mapping):
            missing = {"states", "actions"} - set(prompt)
            if missing:
                raise DataError(f"prompt: needs 'states' and 'actions', got {', '.join(map(str, prompt)) or 'nothing'}")
            prompt = Prompt(states=prompt["states"], actions=prompt["actions"])
        elif not isinstance(prompt, Prompt):
            raise DataError(
                "prompt: must be a task name, a Prompt or a mapping with states and actions, "
                f"got {type(prompt).__name__}"
            )
        expected = ((length, len(self.normalizer.state_loc)), (length, len(self.normalizer.action_loc)))
        got = (tuple(prompt.states.shape), tuple(prompt.actions.shape))
        if got != expected:
            raise DataError(
                f"prompt: states and actions must have shapes {expected[0]} and {expected[1]}, "
                f"got {got[0]} and {got[1]}"
            )
        return prompt

    def _history(self, history: Any, length: int) -> Tensor:
        states = torch.as_tensor(history, dtype=torch.float32, device=self.device)
        states = states[None] if states.ndim == 2 else states
        width = len(self.normalizer.state_loc)
        if states.ndim != 3 or states.shape[1] < 1 or states.shape[2] != width:
            raise DataError(
                f"history: must have shape (n, {width}) or (B, n, {width}) with n >= 1, got {tuple(states.shape)}"
            )
        if not states.isfinite().all():
            raise DataError("history: contains NaN or infinity")
        states = self.normalizer.states(states[:, -length:])
        padding = states.new_zeros(len(states), length - states.shape[1], width)
        return torch.cat([padding, states], dim=1)


def _settle(module: Any) -> None:
    """Make a network sample alike whether it was just trained or loaded: no dropout, and aligned weights.

    A loaded file is mapped into memory at any address, and sums over unaligned weights are rounded otherwise.
    """
    if isinstance(module, nn.Module):
        module.eval()
        for parameter in module.parameters():
            if parameter.data_ptr() % 64:
                parameter.data = parameter.data.clone()


def _as_list(prompt: Any) -> list[Any]:
    return list(prompt) if isinstance(prompt, list | tuple) else [prompt]


def _count(generator: Generators) -> int:
    return 1 if generator is None or isinstance(generator, torch.Generator) else len(generator)


def _per_sample(generator: Generators, batch: int) -> list[torch.Generator | None]:
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * batch
    if len(generator) != batch:
        raise ValueError(f"generator: need one, or one for each of the {batch} samples, got {len(generator)}")
    return list(generator)
