"""Transitions that a trained synthesizer writes: MTDiff-S, its version of one task, SynthER, or any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from mtdiff.augmentations.augmentation import Augmentation
from mtdiff.errors import DataError, at_least
from mtdiff.pipelines import Prompt, SynthesizerOutput, SynthesizerPipeline
from mtdiff.registry import AUGMENTATIONS

if TYPE_CHECKING:
    from mtdiff.data.trajectories import TrajectoryDataset
    from mtdiff.learners import Transitions


@AUGMENTATIONS.register("synthesizer", runtime=("pipeline", "prompts", "task"))
@dataclass(frozen=True, kw_only=True, eq=False)
class SynthesizerAugmentation(Augmentation):
    """Transitions that a synthesizer writes, shown every prompt of the task equally often.

    Args:
        batch: pieces of episodes that are sampled at once, at least 1; it bounds the memory.
        trained_on: for `mtdiff augment`: the recipe's "tasks", with few episodes of the targets among them, or nothing
            but the few episodes of each "target", one synthesizer for each.
        recipe: for `mtdiff augment`: the synthesizer's recipe, a path or a shipped name, whose tasks and data are
            replaced; null means the recipe itself.
        pipeline: the synthesizer, with the sampling that it is to use, on the device that is to do it.
        prompts: demonstrations of the task, at least one; by default the synthesizer's own. Only for one that reads
            prompts.
        task: name of the task, for a synthesizer that is told it; by default that of the real episodes.

    Raises:
        DataError: the list of prompts is empty, or the synthesizer reads none.
        ValueError: `batch` is below 1.
    """

    batch: int = 256
    trained_on: Literal["tasks", "target"] = "tasks"
    recipe: str | None = None
    pipeline: SynthesizerPipeline
    prompts: Sequence[Prompt] | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        at_least(1, batch=self.batch)
        if self.prompts is not None and not len(self.prompts):
            raise DataError("prompts: the list of prompts is empty")
        if self.prompts is not None and self.pipeline.conditioning.reading("prompt_states") is None:
            raise DataError(f"prompts: this synthesizer is shown none, got {len(self.prompts)}")

    def write(self, real: TrajectoryDataset, count: int, *, seed: int) -> Transitions:
        """Sample `count` transitions; of the real episodes only the task is used.

        What is sampled follows from the seed, whatever `batch` is. Pieces follow each other, prompt by prompt; the last
        transition of each is `truncated`, and none is `terminated`. With fewer pieces than prompts, the seed chooses.

        Raises:
            DataError: `real` has several tasks; the synthesizer has no prompt of the task, does not know it by its
                number, or is told no task and was trained on others.
            ValueError: a number is out of range.
        """
        at_least(1, count=count)
        at_least(0, seed=seed)
        task = self.task or _task_of(real)
        shown = self._shown(task)
        pieces = -(-count // self.pipeline.transitions)
        each = np.full(len(shown), pieces // len(shown))
        each[np.random.default_rng(seed).permutation(len(shown))[: pieces % len(shown)]] += 1
        noise = torch.Generator().manual_seed(seed)
        parts: list[dict[str, np.ndarray]] = []
        for told, wanted in zip(shown, each.tolist(), strict=True):
            for begun in range(0, wanted, self.batch):
                now = min(self.batch, wanted - begun)
                made = self.pipeline(num_samples=now, generator=noise, **told)
                assert isinstance(made, SynthesizerOutput)
                parts.append(_rows(made))
        found = {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
        found["truncated"][-1] = True  # what follows it was cut off
        return found

    def _shown(self, task: str) -> list[dict[str, Any]]:
        """What the synthesizer is told, one entry for every prompt."""
        conditioning = self.pipeline.conditioning
        known = conditioning.reading("task") is not None
        trained = list(conditioning.config.tasks)
        told: dict[str, Any] = {"task": task} if known else {}
        if self.pipeline.representation.config.scale == "task":
            told["scale_of"] = task if task in trained or self.prompts is None else list(self.prompts)
        if conditioning.reading("prompt_states") is not None:
            prompts = self.pipeline.prompts[task] if self.prompts is None else self.prompts
            return [{**told, "prompt": prompt} for prompt in prompts]
        if not known and trained != [task]:
            raise DataError(
                f"task: this synthesizer is not told which task is meant and was trained on {', '.join(trained)}, so "
                f"what it writes is no data of {task}"
            )
        return [told]


def _task_of(real: TrajectoryDataset) -> str:
    numbers = sorted(set(real.task_index.tolist()))
    if len(numbers) != 1:
        names = ", ".join(real.tasks[number] for number in numbers)
        raise DataError(f"real: should be the episodes of one task, got those of {names}")
    return real.tasks[numbers[0]]


def _rows(found: SynthesizerOutput) -> dict[str, np.ndarray]:
    """Pieces of episodes (B, T, ...) as B * T transitions."""
    count, length = found.rewards.shape
    states = found.states.cpu()
    last = np.zeros((count, length), bool)
    last[:, -1] = True
    return {
        "state": states[:, :-1].flatten(0, 1).numpy(),
        "action": found.actions.cpu().flatten(0, 1).numpy(),
        "reward": found.rewards.cpu().flatten().numpy(),
        "next_state": states[:, 1:].flatten(0, 1).numpy(),
        "terminated": np.zeros(count * length, bool),
        "truncated": last.flatten(),
    }
