"""Write a dataset of synthetic transitions: shard by shard, resumable at any point, by any number of processes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtdiff.data import shards, storage
from mtdiff.data.split_summary import summarize
from mtdiff.data.trajectories import DEFAULT_SPLIT, Trajectory
from mtdiff.errors import DataError
from mtdiff.hub import Source as Given
from mtdiff.synthesis_claim import claim
from mtdiff.synthesis_source import Source, read_source
from mtdiff.world import join, on_main, planning_device, together

TRANSITIONS_PER_SHARD = 40_000  # about; seconds of work, and some megabytes of memory
_SHARE = 128  # a shard shows no more prompts than give each of them so many samples, which are sampled together


@dataclass(frozen=True)
class _Shard:
    """Samples of one task that are written together."""

    path: str
    task: str
    number: int
    samples: int


def synthesize(
    source: Given,
    *,
    tasks: Sequence[str],
    transitions: int,
    folder: str | Path,
    prompts: Mapping[str, Sequence[str | Path]] | None = None,
    seed: int = 0,
    batch: int = 256,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Write `transitions` transitions of every task; `TrajectoryDataset.load(folder)` reads them.

    Every episode is a sample: T transitions that begin anywhere in an episode, never a success, cut off at their end.
    Its noise and its prompt follow from `seed`, the task and the number of the shard, so that the result depends
    neither on interruptions nor, beyond rounding, on `batch` and the number of processes. Finished shards stay, and
    the same call goes on where it was stopped; a complete folder is left as it is, and files of it that are missing
    or damaged are written again. Memory does not grow with `transitions`.

    Args:
        source: a run, a saved pipeline's folder, or a repository: a synthesizer.
        tasks: their names, in the order of the dataset; any name that has a prompt.
        transitions: of every task, at least 1; rounded up to whole samples.
        folder: made if need be.
        prompts: task to files of `mtdiff prompt make`, shown in the place of the synthesizer's own prompts.
        seed: of all noise and of which prompt is shown.
        batch: samples at once, at most; they are shown the same prompt.
        overrides: changes of `sampling.*`, as on the command line.
        progress: show a bar on stderr, of the first process.

    Returns:
        `folder`, `transitions`, `samples`, `transitions_per_sample`, `asked` (per task), `synthesized` (transitions
        written by this call), `seconds`, `transitions_per_second` (of all processes; None if nothing was written),
        `processes`, `fingerprint`, `generator`, `sampling`, `seed`, and `tasks`: rows of task, samples, transitions,
        mean_return, prompts.

    Raises:
        MTDiffError: `source` is no synthesizer or cannot be told a task, an argument is out of range, or the folder
            holds something else.
        StorageFault: a file could not be written; finished shards are kept.
    """
    started, folder = time.perf_counter(), Path(folder)
    _refuse(tasks, transitions=transitions, batch=batch)
    state = join()
    model = read_source(source, tasks=tasks, prompts=prompts or {}, overrides=overrides, device=planning_device())
    plan = _plan(tasks, transitions, model.length)
    settings = _settings(model, tasks, transitions, seed)
    todo = on_main(lambda: _prepare(folder, settings, plan))
    mine = [plan[number] for number in todo[state.process_index :: state.num_processes]]
    made = together(lambda: _write(folder, model, mine, seed=seed, batch=batch, progress=progress))
    if todo or not on_main(lambda: (folder / storage.MANIFEST).is_file()):
        on_main(lambda: _finish(folder, settings, plan, suite=model.pipeline.config.suite))
    summary = on_main(lambda: _summary(folder, settings, plan))
    written, slowest = sum(plan[number].samples for number in todo) * model.length, max(made)
    return {
        **summary,
        "transitions_per_sample": model.length,
        "synthesized": written,
        "seconds": time.perf_counter() - started,
        "transitions_per_second": written / slowest if written else None,
        "processes": state.num_processes,
    }


def _refuse(tasks: Sequence[str], **counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise DataError(f"{name}: must be at least 1, got {value}.")
    if not tasks:
        raise DataError("task: name at least one task to synthesize.")
    for task in tasks:
        if list(tasks).count(task) > 1:
            raise DataError(f"task: {task} is named twice.")
        if not task or task.startswith(".") or any(letter in task for letter in '/\\:*?"<>|\0'):
            raise DataError(f"task: a name is a part of a file's name, so it cannot be '{task}'.")


def _plan(tasks: Sequence[str], transitions: int, length: int) -> list[_Shard]:
    samples, size = -(-transitions // length), -(-TRANSITIONS_PER_SHARD // length)
    return [
        _Shard(storage.shard_name(DEFAULT_SPLIT, task, number), task, number, min(size, samples - start))
        for task in tasks
        for number, start in enumerate(range(0, samples, size))
    ]


def _settings(model: Source, tasks: Sequence[str], transitions: int, seed: int) -> dict[str, Any]:
    from mtdiff.runs import versions

    settings = {
        "generator": {"name": model.name, "source": model.given, "recipe": model.recipe, "content": model.content()},
        "tasks": list(tasks),
        "transitions": transitions,
        "seed": seed,
        "sampling": model.sampling(),
        "prompts": model.prompt_record(),
        "versions": versions(),
    }
    return json.loads(json.dumps(settings))  # as it is read back


def _prepare(folder: Path, settings: Mapping[str, Any], plan: Sequence[_Shard]) -> list[int]:
    """Claim the folder; return the numbers of the shards that are to be written."""
    complete = (folder / storage.MANIFEST).is_file()
    claim(folder, settings, complete=complete)
    if complete:
        manifest = storage.read_manifest(folder)
        listed = {shard["path"]: shard for shard in manifest["splits"][DEFAULT_SPLIT]["shards"]}
        todo = [n for n, s in enumerate(plan) if s.path not in listed or storage.damage(folder, listed[s.path])]
    else:
        todo = [n for n, shard in enumerate(plan) if not _is_done(folder / shard.path, shard.samples)]
    if todo:
        for number in todo:  # before the manifest, which alone can tell that a file is damaged
            (folder / plan[number].path).unlink(missing_ok=True)
        (folder / storage.MANIFEST).unlink(missing_ok=True)
    return todo


def _is_done(path: Path, samples: int) -> bool:
    try:
        return path.is_file() and len(shards.read_shard(path)) == samples
    except DataError:
        return False  # torn by a crash of the machine: written again


def _write(folder: Path, model: Source, plan: Sequence[_Shard], *, seed: int, batch: int, progress: bool) -> float:
    """Sample and write shards; return the seconds that took."""
    from tqdm import tqdm

    state, started = join(), time.perf_counter()
    total = sum(shard.samples for shard in plan) * model.length
    share = f" (1 of {state.num_processes} processes)" if state.num_processes > 1 else ""
    hidden = not (progress and total and state.is_main_process)
    with tqdm(
        total=total, desc=f"synthesize{share}", unit=" transitions", unit_scale=True, disable=hidden, dynamic_ncols=True
    ) as bar:
        for shard in plan:
            bar.set_postfix_str(shard.task, refresh=False)
            shards.write_shard(folder / shard.path, _sample(model, shard, seed=seed, batch=batch, report=bar.update))
    return time.perf_counter() - started


def _sample(model: Source, shard: _Shard, *, seed: int, batch: int, report: Callable[[int], Any]) -> list[Trajectory]:
    """The samples of a shard, those with the same prompt one after the other."""
    digest = hashlib.sha256(json.dumps([seed, shard.task, shard.number]).encode()).digest()
    random, noise = np.random.default_rng([*digest[:16]]), torch.Generator().manual_seed(int.from_bytes(digest[16:20]))
    episodes: list[Trajectory] = []
    for prompt, samples in _shares(random, shard.samples, len(model.prompts.get(shard.task, ())) or 1):
        for count in _even(samples, -(-samples // batch)):
            found = model.draw(shard.task, prompt, count, noise)
            arrays = [array.cpu().numpy() for array in (found.states, found.actions, found.rewards)]
            for states, actions, rewards in zip(*arrays, strict=True):
                episodes.append(
                    Trajectory(
                        states=states,
                        actions=actions,
                        rewards=rewards,
                        success=np.zeros(len(actions), bool),
                        terminated=False,
                        truncated=True,
                        task=shard.task,
                        labels={"prompt": prompt},
                    )
                )
            report(count * model.length)
    return episodes


def _shares(random: np.random.Generator, samples: int, prompts: int) -> Iterator[tuple[int, int]]:
    """Which prompts are shown, each one once, and to how many samples."""
    count = min(prompts, -(-samples // _SHARE))
    yield from zip(sorted(random.permutation(prompts)[:count].tolist()), _even(samples, count), strict=True)


def _even(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def _finish(folder: Path, settings: Mapping[str, Any], plan: Sequence[_Shard], *, suite: Any) -> None:
    generator = {key: value for key, value in settings["generator"].items() if key != "source"}
    storage.write_manifest(
        folder,
        shards={DEFAULT_SPLIT: [shard.path for shard in plan]},
        tasks=settings["tasks"],
        metadata={
            "suite": {"name": suite["name"]} if suite else {},
            "data": {
                "name": "synthesized",
                "generator": generator,
                **{key: settings[key] for key in ("tasks", "transitions", "seed", "sampling", "prompts")},
            },
            "seed": settings["seed"],
            "versions": settings["versions"],
        },
    )


def _summary(folder: Path, settings: Mapping[str, Any], plan: Sequence[_Shard]) -> dict[str, Any]:
    found = summarize([folder / shard.path for shard in plan], settings["tasks"])
    rows = [
        {
            "task": row["task"],
            "samples": row["episodes"],
            "transitions": row["steps"],
            "mean_return": row["mean_return"],
            "prompts": settings["prompts"].get(row["task"], {}).get("count", 0),
        }
        for row in found.rows
    ]
    return {
        "folder": str(folder),
        "transitions": found.steps,
        "samples": found.episodes,
        "asked": settings["transitions"],
        "fingerprint": storage.read_manifest(folder)["splits"][DEFAULT_SPLIT]["fingerprint"],
        **{key: settings[key] for key in ("generator", "sampling", "seed")},
        "tasks": rows,
    }
