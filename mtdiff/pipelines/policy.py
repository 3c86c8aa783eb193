"""A policy with what it is told and measured by: a pipeline that acts without sampling a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor

from mtdiff.conditioning.encoder import Condition
from mtdiff.errors import DataError
from mtdiff.pipelines.fields import PromptLike, read_fields, read_history
from mtdiff.pipelines.maps import MapLike
from mtdiff.pipelines.planner import PlannerOutput
from mtdiff.pipelines.sampler import Generators, count, per_sample
from mtdiff.pipelines.trained import TrainedPipeline
from mtdiff.policies.policy import Policy


class PolicyPipeline(TrainedPipeline):
    """Gives the next actions in a state.

    Args:
        policy: the networks that act.
        conditioning: encoders of the conditions, which last an episode.
        normalizer: physical units to model space.
        prompts: demonstrations by task.
        execute: default number of actions an agent carries out before it asks again.
        target_return: default return asked for, in the units of the label that was trained.
        suite: the environments it was trained for, as a part.
    """

    kind, makes = "policy", "an action"
    networks = ("policy", "conditioning")
    policy: Policy

    def __init__(
        self,
        policy: ModelMixin,
        conditioning: ModelMixin,
        normalizer: ModelMixin,
        prompts: ModelMixin,
        execute: int = 1,
        target_return: float = 1.0,
        suite: dict[str, Any] | None = None,
    ):
        super().__init__()
        self._take(
            {"policy": policy, "conditioning": conditioning, "normalizer": normalizer, "prompts": prompts},
            {"execute": execute, "target_return": target_return, "suite": suite},
        )

    @property
    def sampling(self) -> dict[str, Any]:
        """How it acts if nothing else is asked for."""
        return {"policy": type(self.policy).__name__} | self.defaults

    @torch.inference_mode()
    def condition(
        self,
        prompt: PromptLike | None = None,
        task: str | Sequence[str] | None = None,
        target_return: float | Sequence[float] | Tensor | None = None,
        map: MapLike | None = None,
        batch: int = 1,
    ) -> tuple[Condition, int]:
        """Encode what B episodes are told, see `__call__`; returns the conditions and B.

        Raises:
            DataError: a condition that was trained with is missing or of the wrong shape.
        """
        given = {"prompt": prompt, "task": task, "map": map, "target_return": target_return}
        fields, batch = read_fields(self, given, batch=batch)
        return self.conditioning.branches(fields, guided=False), batch

    @torch.inference_mode()
    def __call__(
        self,
        history: Any,
        prompt: PromptLike | None = None,
        target_return: float | Sequence[float] | Tensor | None = None,
        task: str | Sequence[str] | None = None,
        map: MapLike | None = None,
        past_actions: Any = None,
        past_rewards: Any = None,
        gained: Any = None,
        steps: Any = None,
        generator: Generators = None,
        condition: Condition | None = None,
        return_dict: bool = True,
    ) -> PlannerOutput | tuple[Tensor]:
        """Act.

        Args:
            history: states seen so far in physical units, newest last, (n, O) or (B, n, O) with n >= 1; only the last
                L are read.
            prompt: a demonstration of the task, as for a planner.
            target_return: return asked for, one number or B.
            task: name of a task, or B of them: for policies that are told its number, or scale rewards by task.
            map: as for a planner.
            past_actions: actions that led from state to state, (B, n - 1, A), for policies that read them; zeros if
                not given. Likewise `past_rewards`, (B, n - 1).
            past_rewards: see `past_actions`.
            gained: sum of all rewards of the episode so far, (B,); by default of `past_rewards`.
            steps: steps of the episode so far, (B,); by default n - 1.
            generator: one generator, or one per sample, for policies that draw.
            condition: what `condition` returned, in the place of `prompt`, `task`, `map` and `target_return`; `task`
                and `target_return` may then still be given for the policy itself.
            return_dict: return a `PlannerOutput` instead of a tuple.

        Returns:
            Actions of shape (B, H, A), inside [-1, 1].

        Raises:
            DataError: a condition that was trained with is missing, or something has the wrong shape.
        """
        seen = torch.as_tensor(history, dtype=torch.float32)
        known = seen.shape[1] if seen.ndim == 3 else len(seen)
        fields = read_history(self, self.policy.length, seen)
        batch = max(len(fields["history"]), count(generator))
        if condition is None:
            condition, batch = self.condition(prompt, task, target_return, map, batch=batch)
        fields |= self._past(known, past_actions, past_rewards, batch)
        fields["gained"] = self._column(gained, batch) if gained is not None else fields["past_rewards"].sum(dim=1)
        fields["steps"] = self._column(known - 1 if steps is None else steps, batch)[:, 0].long()
        asked = self.config.target_return if target_return is None else target_return
        fields["return"] = self._column(asked, batch)
        fields["task"] = self._numbers(task, batch)
        fields["seen"] = torch.full((batch,), min(known, self.policy.length), device=self.normalizer.where)
        fields = {name: value.expand(batch, *value.shape[1:]) for name, value in fields.items()}
        acted = self.policy.act(fields, condition, per_sample(generator, batch))
        actions = self.normalizer.physical_actions(acted).clone()
        return PlannerOutput(actions=actions) if return_dict else (actions,)

    def _past(self, known: int, actions: Any, rewards: Any, batch: int) -> dict[str, Tensor]:
        """past_actions and past_rewards (B, L, ...), zero in the present step and before the episode."""
        length, before = self.policy.length, known - 1
        found = {}
        for name, given, width in (
            ("past_actions", actions, self.normalizer.config.action_dim),
            ("past_rewards", rewards, 1),
        ):
            found[name] = torch.zeros(batch, length, width, device=self.normalizer.where)
            if given is None or not before:
                continue
            values = torch.as_tensor(given, dtype=torch.float32, device=self.normalizer.where)
            values = values.reshape(*values.shape[:2], -1) if values.ndim > 1 else values[None, :, None]
            if values.shape[1:] != (before, width) or not values.isfinite().all():
                raise DataError(
                    f"{name}: must be finite numbers of shape (B, {before}, {width}), one less than states, got "
                    f"{tuple(values.shape)}"
                )
            values = self.normalizer.actions(values) if name == "past_actions" else values
            kept = min(before, length - 1)
            if kept:
                found[name][:, length - 1 - kept : length - 1] = values[:, -kept:]
        return found

    def _column(self, value: Any, batch: int) -> Tensor:
        column = torch.as_tensor(value, dtype=torch.float32, device=self.normalizer.where).reshape(-1, 1)
        return column.expand(batch, 1)

    def _numbers(self, task: str | Sequence[str] | None, batch: int) -> Tensor:
        """The tasks' numbers (B,); -1 for one that was not trained, or not told."""
        trained = list(self.conditioning.config.tasks)
        names = [task] if task is None or isinstance(task, str) else list(task)
        numbers = [trained.index(name) if name in trained else -1 for name in names]
        return torch.tensor(numbers, device=self.normalizer.where).expand(batch)
