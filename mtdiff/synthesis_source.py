"""What writes synthetic data: a trained synthesizer, how it is sampled, and the prompts that it is shown."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtdiff.compose import set_sampling
from mtdiff.errors import DataError, MTDiffError, RecipeError, choices, closest
from mtdiff.hub import Source as Given
from mtdiff.hub import fetch, load, name_of, trusted
from mtdiff.pipelines.prompts import Prompt
from mtdiff.pipelines.synthesizer import SynthesizerOutput, SynthesizerPipeline
from mtdiff.prompting import show_prompts
from mtdiff.recipe import Recipe, load_recipe
from mtdiff.schedulers.solver import probe

_NETWORK = ("backbone", "conditioning", "representation", "normalizer")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A synthesizer that is ready to write.

    Attributes:
        pipeline: with the sampling that was asked for.
        given: the run, folder or repository, as it was given.
        name: of the run, folder or repository.
        recipe: hash of the recipe that it was trained with, or None if nobody knows.
        prompts: by task; empty if it reads none.
        shown: tasks whose prompts come from files.
    """

    pipeline: SynthesizerPipeline
    given: str
    name: str
    recipe: str | None
    prompts: dict[str, list[Prompt]]
    shown: tuple[str, ...]

    @property
    def length(self) -> int:
        """T, transitions of a sample."""
        return self.pipeline.transitions

    def draw(self, task: str, prompt: int, count: int, noise: torch.Generator) -> SynthesizerOutput:
        """Sample `count` pieces of episodes of a task, all shown the same prompt of it."""
        reading = self.pipeline.conditioning.reading
        told: dict[str, Any] = {"task": task} if reading("task") else {}
        if self.prompts:
            told["prompt"] = self.prompts[task][prompt]
        if self.pipeline.representation.config.scale == "task":
            told["scale_of"] = task
        found = self.pipeline(num_samples=count, generator=noise, **told)
        assert isinstance(found, SynthesizerOutput)
        return found

    def content(self) -> str:
        """Digest of the weights and of what the parts were built with; prompts and sampling are not in it."""
        digest = hashlib.sha256()
        for name in _NETWORK:
            part = getattr(self.pipeline, name)
            config = {key: value for key, value in part.config.items() if not key.startswith("_")}
            digest.update(f"{name} {json.dumps(config, sort_keys=True, default=str)}\n".encode())
            for key, tensor in sorted(part.state_dict().items()):
                _add(digest, key, tensor)
        scheduler = self.pipeline.scheduler
        _add(digest, scheduler.config.prediction_type, scheduler.alphas_cumprod)  # the noise of training
        return digest.hexdigest()

    def sampling(self) -> dict[str, Any]:
        """How it samples: its defaults, and the scheduler with those arguments that are not the scheduler's own."""
        config, scheduler = self.pipeline.config, self.pipeline.scheduler
        own = inspect.signature(type(scheduler).__init__).parameters
        changed = {
            key: value
            for key, value in scheduler.config.items()
            if key in own and key != "trained_betas" and value != own[key].default
        }
        names = ("num_inference_steps", "temperature", "initial_temperature")
        return {"scheduler": {"name": type(scheduler).__name__, **changed}, **{name: config[name] for name in names}}

    def prompt_record(self) -> dict[str, dict[str, Any]]:
        """By task: how many prompts, from where, and a digest of them."""
        record = {}
        for task, prompts in self.prompts.items():
            digest = hashlib.sha256()
            for prompt in prompts:
                _add(digest, "states", prompt.states)
                _add(digest, "actions", prompt.actions)
            where = "files" if task in self.shown else "pipeline"
            record[task] = {"count": len(prompts), "from": where, "digest": digest.hexdigest()}
        return record


def read_source(
    given: Given,
    *,
    tasks: Sequence[str],
    prompts: Mapping[str, Sequence[str | Path]],
    overrides: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> Source:
    """Load a synthesizer and check that it can write what is asked.

    Args:
        given: a run, a saved pipeline's folder, or a repository.
        tasks: what it shall write.
        prompts: task to prompt files, in the place of its own prompts of that task.
        overrides: changes of `sampling.*`, as on the command line.
        device: where it samples.

    Raises:
        MTDiffError: it is no synthesizer, cannot be told a task, or cannot be sampled like that.
    """
    for override in overrides:
        section = override.partition("=")[0].partition(".")[0]
        if section != "sampling":
            raise MTDiffError(
                f"command line: {override}: a synthesis can change sampling, got {section}. "
                "Anything else needs training"
            )
    folder = fetch(given)
    kept = folder / "recipe.yaml"
    # Before the pipeline, whose parts it may have to import.
    recipe = load_recipe(kept, overrides) if kept.is_file() else None
    pipeline = load(folder, trust_remote_code=trusted(given))
    kind = getattr(pipeline, "kind", type(pipeline).__name__)
    if kind != "synthesizer":
        evaluate = f"; `mtdiff evaluate {given}` lets it act" if kind in ("planner", "policy") else ""
        raise MTDiffError(
            f"{given}: is a {kind}, and only a synthesizer writes data{evaluate}. Train a synthesizer with a recipe "
            "that extends presets/synthesizer, such as `mtdiff train metaworld/synthesizer_mt10`"
        )
    name, digest = name_of(given, folder), recipe.hash() if recipe else None
    if (folder.parent / "run.json").is_file():
        from mtdiff.runs import Run

        info = Run(folder.parent).info
        name, digest = f"{info['name']}-{info['hash']}", info["hash"]
    _set_sampling(pipeline, recipe or _recipe_of(pipeline, overrides))
    show_prompts(pipeline, _of_tasks(prompts, tasks))
    _require_told(pipeline, tasks)
    told = pipeline.conditioning.reading("prompt_states") is not None
    library = {task: pipeline.prompts[task] for task in tasks} if told else {}
    pipeline.to(device)
    return Source(pipeline=pipeline, given=str(given), name=name, recipe=digest, prompts=library, shown=tuple(prompts))


def _recipe_of(pipeline: SynthesizerPipeline, overrides: Sequence[str]) -> Recipe:
    """A recipe that knows no more than how a pipeline is sampled; it reads and checks values as every recipe does."""
    timesteps, used = pipeline.scheduler.config.num_train_timesteps, pipeline.config.num_inference_steps
    return load_recipe(
        {
            "extends": "presets/synthesizer",
            "scheduler": {"name": "ddpm", "num_train_timesteps": timesteps},
            "sampling": {"scheduler": None, "num_inference_steps": used},
        },
        overrides,
    )


def _set_sampling(pipeline: SynthesizerPipeline, recipe: Recipe) -> None:
    """Set what the command line says, and refuse numbers that cannot be sampled with."""
    known = sorted({*pipeline.settings(), "scheduler"} - {"suite"})
    given = {
        key.split(".")[1]
        for key, _ in recipe.items()
        if key.startswith("sampling.") and recipe.origin(key) == "command line"
    }
    for key in sorted(given):
        if key not in known:
            raise RecipeError(
                f"command line: sampling.{key}: a synthesizer is not sampled with it. Allowed: {', '.join(known)}"
            )
    set_sampling(pipeline, {key: recipe.values["sampling"][key] for key in given})
    try:
        probe(pipeline.scheduler, pipeline.config.num_inference_steps)
        pipeline._temperatures(None, None)
    except ValueError as error:
        raise RecipeError(f"sampling.{error}") from error


def _of_tasks(prompts: Mapping[str, Sequence[str | Path]], tasks: Sequence[str]) -> Mapping[str, Sequence[str | Path]]:
    for task in prompts:
        if task not in tasks:
            raise DataError(f"prompt: {choices('task', task, tasks)} Add it with --task {task}.")
    return prompts


def _require_told(pipeline: SynthesizerPipeline, tasks: Sequence[str]) -> None:
    """Refuse tasks that the synthesizer has no way to be told."""
    reading, trained = pipeline.conditioning.reading, list(pipeline.conditioning.config.tasks)
    for task in tasks:
        if reading("prompt_states") and task not in pipeline.prompts:
            mine = list(pipeline.prompts)
            raise DataError(
                f"task: this synthesizer has no prompt for {task}; it has {', '.join(mine) or 'none'}."
                f"{closest(task, mine)} Show it one with --prompt {task}=FILE, which `mtdiff prompt make` writes."
            )
        if reading("task") and task not in trained:
            raise DataError(
                f"task: this synthesizer is told the task by its number and was not trained on {task}; it knows "
                f"{', '.join(trained)}.{closest(task, trained)}"
            )
        if not reading("prompt_states") and not reading("task") and trained != [task]:
            raise DataError(
                f"task: this synthesizer is not told which task is meant and was trained on {', '.join(trained)}, so "
                f"it cannot write data of {task} alone."
            )


def _add(digest: Any, key: str, tensor: Tensor) -> None:
    whole = tensor.detach().cpu().contiguous()
    digest.update(f"{key} {whole.dtype} {tuple(whole.shape)}\n".encode())
    digest.update(whole.reshape(-1).view(torch.uint8).numpy().tobytes())
