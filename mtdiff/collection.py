"""Collect a dataset: episodes of worker processes, in shards on disk, resumable at any point."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from mtdiff.data.sources.source import Recorder
from mtdiff.data.trajectory import Trajectory
from mtdiff.environments.processes import Worker, available_cores
from mtdiff.environments.suite import Environment, Suite, portable, rebuild
from mtdiff.errors import DataError, EnvironmentFault

SETTINGS = "collection.json"


@dataclass(frozen=True)
class _Shard:
    """Episodes that are written together."""

    path: str
    task: str
    split: str
    episodes: range


def collect(
    *,
    suite: Suite,
    source: Recorder,
    folder: str | Path,
    pipelines: Sequence[str | Path] = (),
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Collect what `source` describes on the tasks of `suite`; `TrajectoryDataset.load(folder)` reads it.

    The result does not depend on the number of workers or on interruptions: finished shards stay, and the
    same call goes on where it was stopped, also after Ctrl-C. If the folder is complete already, nothing is
    collected; files that are missing or damaged are collected again.

    Args:
        suite: the tasks.
        source: how many episodes, how good, which seed: a source that records.
        folder: made if need be.
        pipelines: what `source` lets act, for a source with `teachers`.
        workers: processes; None takes the available cores.
        progress: show a bar on stderr. Nothing is ever printed on stdout.

    Returns:
        `folder`, `episodes`, `steps`, `prompts`, `retries` (expert episodes that failed and were replaced),
        `collected` (episodes recorded by this call), `seconds`, `fingerprints` per split, and `tasks`: the
        rows of `TrajectoryDataset.summary` with `prompts` and `retries`.

    Raises:
        DataError: the folder was collected with other settings, or an expert keeps failing.
        EnvironmentFault: a simulator failed or a worker died, and finished shards are kept; or the suite has no
            scripted experts.
        StorageFault: a file could not be written; finished shards are kept.
    """
    from mtdiff.data import shards, storage

    started = time.perf_counter()
    if not getattr(suite, "has_demonstrator", True):
        suite.demonstrator(suite.tasks[0])  # says what to do without one
    folder = Path(folder)
    settings = {"suite": suite.describe(), "data": source.describe()}
    versions = {**suite.versions(), "mtdiff": _version("mtdiff"), "numpy": _version("numpy")}
    for split in source.episodes(suite.tasks[0]):
        source.limit(suite, split)  # refuse impossible lengths before any work
    plan = _plan(suite, source, storage.EPISODES_PER_SHARD)
    complete = (folder / storage.MANIFEST).is_file()
    _claim(folder, settings, versions, complete=complete)
    if complete:
        manifest = storage.read_manifest(folder)
        listed = {shard["path"]: shard for split in manifest["splits"].values() for shard in split["shards"]}
        todo = [s for s in plan if s.path not in listed or storage.damage(folder, listed[s.path])]
    else:
        todo = [shard for shard in plan if not _is_done(folder, shard)]
    if todo or not complete:
        for shard in todo:  # before the manifest, which alone can tell that a file is damaged
            (folder / shard.path).unlink(missing_ok=True)
        (folder / storage.MANIFEST).unlink(missing_ok=True)
        for shard, episodes in _record(suite, source, todo, pipelines, workers=workers, progress=progress):
            shards.write_shard(folder / shard.path, episodes)
        paths: dict[str, list[str]] = {}
        for shard in plan:
            paths.setdefault(shard.split, []).append(shard.path)
        storage.write_manifest(
            folder,
            shards=paths,
            tasks=suite.tasks,
            metadata={**settings, "seed": source.seed, "versions": versions},
        )
    recorded = sum(len(shard.episodes) for shard in todo)
    return summarize(folder, recorded, time.perf_counter() - started)


def _plan(suite: Suite, source: Recorder, size: int) -> list[_Shard]:
    from mtdiff.data.storage import shard_name

    return [
        _Shard(shard_name(split, task, number), task, split, range(start, min(start + size, count)))
        for task in suite.tasks  # a task's prompts right after its episodes, while its simulator is warm
        for split, count in source.episodes(task).items()
        for number, start in enumerate(range(0, count, size))
    ]


def _is_done(folder: Path, shard: _Shard) -> bool:
    from mtdiff.data.shards import read_shard

    path = folder / shard.path
    if not path.is_file():
        return False
    try:
        return len(read_shard(path)) == len(shard.episodes)
    except DataError:
        return False  # torn by a crash of the machine: recorded again


def _claim(folder: Path, settings: dict[str, Any], versions: dict[str, str], *, complete: bool) -> None:
    """Say in the folder what is being collected there, or refuse if it is something else."""
    from mtdiff.data.storage import FOLDERS, MANIFEST, write_beside

    path = folder / SETTINGS
    if not path.is_file():
        if any((folder / name).exists() for name in (MANIFEST, *FOLDERS.values())):
            raise DataError(f"{folder}: holds trajectories that were not collected here; choose another folder.")
        write_beside(path, json.dumps({**settings, "versions": versions}, indent=2) + "\n")
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        there = {section: dict(there[section]) for section in ("suite", "data", "versions")}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error}); remove the folder and collect again.") from error
    now = {**settings, "versions": versions}
    # A finished dataset is good whatever is installed today; half of one should not be finished by another
    # simulator.
    sections = ("suite", "data") if complete else ("suite", "data", "versions")
    differences = [
        f"{section}.{key} is {_short(there[section].get(key))} there and {_short(new)} now"
        for section in sections
        for key in sorted({*there[section], *now[section]})
        if there[section].get(key) != (new := now[section].get(key))
    ]
    if differences:
        raise DataError(
            f"{folder}: was collected with other settings: {'; '.join(differences)}. "
            "Choose another folder or remove this one."
        )


def _record(
    suite: Suite,
    source: Recorder,
    shards: list[_Shard],
    pipelines: Sequence[str | Path],
    *,
    workers: int | None,
    progress: bool,
) -> Iterator[tuple[_Shard, list[Trajectory]]]:
    """Yield shards as soon as all their episodes are recorded."""
    from tqdm import tqdm

    jobs = deque((shard, episode) for shard in shards for episode in shard.episodes)
    if not jobs:
        return
    count = min(available_cores() if workers is None else workers, len(jobs))
    if count < 1:
        raise EnvironmentFault(f"collect: workers should be at least 1, got {workers}.")
    recorded: dict[_Shard, dict[int, Trajectory]] = {shard: {} for shard in shards}
    acting = [str(Path(place).resolve()) for place in pipelines]
    arguments = {"suite": portable(suite), "source": portable(source), "pipelines": acting}
    server = f"{_Recorder.__module__}:{_Recorder.__qualname__}"
    pool: list[Worker] = []
    under_way: dict[Connection, tuple[Worker, deque[tuple[_Shard, int]]]] = {}

    def give(worker: Worker, queue: deque[tuple[_Shard, int]]) -> None:
        if jobs:
            shard, episode = jobs.popleft()
            queue.append((shard, episode))
            worker.send("record", shard.task, shard.split, episode)

    bar = tqdm(total=len(jobs), desc="collect", unit="episode", disable=not progress, dynamic_ncols=True)
    steps, started = 0, time.perf_counter()
    try:
        for i in range(count):
            worker = Worker(name=f"collection worker {i}", server=server, arguments=arguments)
            pool.append(worker)
            under_way[worker.connection] = (worker, deque())
        for _ in range(2):  # one episode being recorded, one waiting, so that no worker waits for this process
            for worker, queue in under_way.values():
                give(worker, queue)
        while busy := [connection for connection, (_, queue) in under_way.items() if queue]:
            for connection in wait(busy):
                assert isinstance(connection, Connection)
                worker, queue = under_way[connection]
                shard, episode = queue[0]
                try:
                    trajectory = worker.receive()
                except EnvironmentFault as error:
                    raise EnvironmentFault(
                        f"collect: {shard.task}, {shard.split} episode {episode}: {error}\n"
                        "Finished shards are kept; the same call goes on from there."
                    ) from error
                queue.popleft()
                give(worker, queue)
                recorded[shard][episode] = trajectory
                steps += len(trajectory)
                bar.set_postfix_str(
                    f"{shard.task}, {steps / (time.perf_counter() - started):.0f} steps/s", refresh=False
                )
                bar.update()
                if len(recorded[shard]) == len(shard.episodes):
                    done = recorded.pop(shard)
                    yield shard, [done[number] for number in shard.episodes]
    finally:
        bar.close()
        for worker in pool:
            worker.close()


class _Recorder:
    """What lives in a worker: one simulator at a time, since episodes come task by task."""

    def __init__(self, *, suite: dict[str, Any], source: dict[str, Any], pipelines: Sequence[str]) -> None:
        self.suite: Suite = rebuild(suite)
        self.source: Recorder = rebuild(source)
        if pipelines:
            self.source.pipelines = tuple(pipelines)  # type: ignore[attr-defined]
        self.environment: Environment | None = None

    def record(self, task: str, split: str, episode: int) -> Trajectory:
        if self.environment is None or self.environment.task != task:
            self.close()
            self.environment = self.suite.make(task)
            self.demonstrator = self.suite.demonstrator(task)
        return self.source.record(self.suite, self.environment, self.demonstrator, split=split, episode=episode)

    def close(self) -> None:
        if self.environment is not None:
            self.environment.close()


def summarize(folder: Path, recorded: int, seconds: float) -> dict[str, Any]:
    """Return what `collect` returns, for any complete dataset folder.

    Args:
        folder: the dataset.
        recorded: episodes that are new.
        seconds: how long they took.
    """
    from mtdiff.data.storage import read_manifest
    from mtdiff.data.trajectories import TrajectoryDataset

    manifest = read_manifest(folder)
    parts = {split: TrajectoryDataset.load(folder, split=split) for split in manifest["splits"]}
    main = parts["trajectories"]
    rows = [{**row, "prompts": 0, "retries": 0} for row in main.summary()]
    for row in rows:
        for split, part in parts.items():
            own = np.flatnonzero(part.task_index == part.tasks.index(row["task"]))
            row["retries"] += sum(part.labels["attempt"][e] for e in own) if "attempt" in part.labels else 0
            if split == "prompts":
                row["prompts"] = len(own)
    return {
        "folder": str(folder),
        "episodes": len(main),
        "steps": main.num_steps,
        "prompts": sum(row["prompts"] for row in rows),
        "retries": sum(row["retries"] for row in rows),
        "collected": recorded,
        "seconds": seconds,
        "fingerprints": {split: part.fingerprint for split, part in parts.items()},
        "tasks": rows,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


def _short(value: Any) -> str:
    if isinstance(value, Mapping | list) and len(str(value)) > 60:
        return f"{str(value)[:57]}..."
    return str(value)
