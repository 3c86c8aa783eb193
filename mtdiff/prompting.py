"""Prompts from demonstrations of your own: cut one, keep it in a file, show it to a trained planner or synthesizer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from mtdiff.data.prompt_files import demonstrations
from mtdiff.errors import DataError
from mtdiff.pipelines.prompts import Prompt

if TYPE_CHECKING:
    from mtdiff.environments.suite import Suite
    from mtdiff.pipelines.trained import TrainedPipeline


def make_prompt(
    source: str | Path,
    *,
    task: str,
    length: int = 20,
    episode: int | None = None,
    start: int | None = None,
    spacing: Literal["contiguous", "even"] = "contiguous",
) -> tuple[Prompt, dict[str, Any]]:
    """Cut a prompt out of a demonstration.

    Args:
        source: a dataset folder, an `.npz` episode, a `.npy` prompt file or a folder of those.
        task: whose demonstrations.
        length: J, steps of the prompt, as many as the planner was trained with.
        episode: which of the task's demonstrations, from 0; None takes the best: successful, then by return.
        start: the first step, from 0; None puts the prompt in the middle of the episode.
        spacing: "contiguous", or "even" for steps spread over the whole episode; as in training.

    Returns:
        The prompt, and where it is from: task, episode, episodes, steps, start, length, success, return.

    Raises:
        DataError: no demonstration of the task, or none as long as that.
    """
    if length < 1:
        raise DataError(f"length: must be at least 1, got {length}.")
    if spacing == "even" and start is not None:
        raise DataError("start: evenly spaced steps begin with the episode, so it cannot be chosen.")
    data = demonstrations(Path(source), [task])
    if episode is None:
        long = np.flatnonzero(data.lengths >= length)
        if not len(long):
            longest = data.lengths.max()
            raise DataError(f"{source}: no demonstration of {task} has {length} steps, the longest has {longest}.")
        chosen = int(long[np.lexsort((-data.returns[long], ~data.succeeded[long]))[0]])
    elif 0 <= episode < len(data):
        chosen = episode
    else:
        raise DataError(f"{source}: episode must be between 0 and {len(data) - 1} for {task}, got {episode}.")
    one = data[chosen]
    latest = len(one) - length
    if latest < 0:
        raise DataError(f"{source}: episode {chosen} of {task} has {len(one)} steps, and {length} are asked for.")
    if start is not None and not 0 <= start <= latest:
        raise DataError(
            f"start: must be between 0 and {latest}, so that {length} of {len(one)} steps fit, got {start}."
        )
    first = 0 if spacing == "even" else latest // 2 if start is None else start
    count = np.arange(length)
    at = count * (len(one) - 1) // max(length - 1, 1) if spacing == "even" else first + count
    prompt = Prompt(states=torch.from_numpy(one.states[at]), actions=torch.from_numpy(one.actions[at]))
    return prompt, {
        "task": task,
        "source": str(source),
        "episode": chosen,
        "episodes": len(data),
        "steps": len(one),
        "start": first,
        "length": length,
        "spacing": spacing,
        "success": bool(one.success.any()),
        "return": float(one.rewards.sum(dtype=np.float64)),
    }


def demonstrate(pipeline: TrainedPipeline, suite: Suite, source: Any, *, count: int, seed: int = 0) -> list[str]:
    """Record demonstrations of the suite's tasks that a pipeline has no prompt for, and give it prompts cut from them.

    Args:
        pipeline: changed in place.
        suite: has scripted experts.
        source: records the episodes, as it did for the prompts of training.
        count: demonstrations of a task, and prompts.
        seed: places of the prompts follow from it.

    Returns:
        The tasks.

    Raises:
        DataError: the source does not record, or an expert keeps failing.
        EnvironmentFault: the suite has no scripted experts, or its simulator failed.
    """
    from mtdiff.compose import prompt_library
    from mtdiff.data.trajectories import TrajectoryDataset

    missing = [task for task in suite.tasks if task not in pipeline.prompts]
    if pipeline.conditioning.reading("prompt_states") is None or not missing:
        return []
    if not hasattr(source, "record"):
        raise DataError(
            f"--demonstrate: the data of this {pipeline.kind} were not recorded by a scripted expert but by "
            f"'{source.name}'; show prompts of {', '.join(missing)} with --prompt TASK=FILE."
        )
    episodes = []
    for task in missing:
        environment, expert = suite.make(task), suite.demonstrator(task)
        episodes += [
            source.record(suite, environment, expert, split="prompts", episode=episode) for episode in range(count)
        ]
        environment.close()
    shown = TrajectoryDataset.from_trajectories(episodes, tasks=missing)
    library = prompt_library(pipeline.conditioning, missing, shown, count, seed)
    pipeline.prompts = pipeline.prompts.with_prompts({task: library[task] for task in missing})
    return missing


def prompt_files(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Read `TASK=FILE` arguments of the command line.

    Raises:
        DataError: an argument that is not of this form.
    """
    files: dict[str, list[str]] = {}
    for argument in arguments:
        task, equals, path = argument.partition("=")
        if not (task and equals and path):
            raise DataError(
                f"command line: --prompt {argument}: should be TASK=FILE, such as push-v3=push.safetensors."
            )
        files.setdefault(task, []).append(path)
    return files


def show_prompts(pipeline: TrainedPipeline, files: Mapping[str, Sequence[str | Path]]) -> str:
    """Give a pipeline prompts from files, in the place of those that it has for these tasks.

    Args:
        pipeline: changed in place.
        files: task to files written by `Prompt.save`.

    Returns:
        A digest of the prompts; empty if there are none.

    Raises:
        DataError: the pipeline reads no prompts, or a prompt does not fit it.
    """
    if not files:
        return ""
    encoder = pipeline.conditioning.reading("prompt_states")
    if encoder is None:
        raise DataError(f"prompt {next(iter(files))}: this {pipeline.kind} is not told its task by a prompt.")
    widths = len(pipeline.normalizer.state_loc), len(pipeline.normalizer.action_loc)
    digest, prompts = hashlib.sha256(), {}
    for task, paths in files.items():
        prompts[task] = [Prompt.load(path) for path in paths]
        for path, prompt in zip(paths, prompts[task], strict=True):
            got = prompt.states.shape[1], prompt.actions.shape[1]
            if got != widths:
                raise DataError(
                    f"{path}: states and actions should have {widths[0]} and {widths[1]} numbers, as those that this "
                    f"{pipeline.kind} was trained on, got {got[0]} and {got[1]}."
                )
            if len(prompt.states) != encoder.length:
                raise DataError(
                    f"{path}: has {len(prompt.states)} steps, and this {pipeline.kind} reads prompts of "
                    f"{encoder.length}. Make it with --length {encoder.length}."
                )
            for value in (prompt.states, prompt.actions):
                digest.update(f"{task} {tuple(value.shape)}\n".encode() + value.numpy().tobytes())
    pipeline.prompts = pipeline.prompts.with_prompts(prompts)
    return digest.hexdigest()
