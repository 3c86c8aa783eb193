"""Trajectories in a folder: Parquet files with one row per episode, a card, and a manifest that says all is
there.

README.md          the card; its front matter makes `datasets.load_dataset(folder)` work
dataset.json       the manifest, written last: a folder without it is not complete
data/              <task>-00000.parquet ...
prompts/           likewise, demonstrations to be shown as prompts
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.shards import read_shard, write_shard
from mtdiff.data.trajectories import DEFAULT_SPLIT, TrajectoryDataset
from mtdiff.errors import DataError, choices
from mtdiff.whole import write_text, writing

SCHEMA_VERSION = 1
MANIFEST, CARD = "dataset.json", "README.md"
SYNTHESIS = "synthesis.json"  # says that the data are synthesized, and with what settings
FOLDERS = {DEFAULT_SPLIT: "data", "prompts": "prompts"}
EPISODES_PER_SHARD = 25


def shard_name(split: str, task: str, number: int) -> str:
    """Return a shard's path inside the folder, with forward slashes."""
    return f"{FOLDERS[split]}/{task}-{number:05d}.parquet"


def write_beside(path: Path, text: str) -> None:
    """Write a text file, its folder too, so that it is there whole or not at all.

    Raises:
        StorageFault: it could not be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def write_manifest(folder: Path, *, shards: Mapping[str, Sequence[str]], tasks: Sequence[str], metadata: Any) -> None:
    """Finish a folder whose shards are all there: the card, then the manifest. Holds one shard in memory at a time.

    Args:
        folder: where.
        shards: paths inside the folder by split, in order.
        tasks: order of the task names.
        metadata: kept as it is.
    """
    from mtdiff.data.card import write_card
    from mtdiff.data.split_summary import fingerprint, summarize

    parts = {split: summarize([folder / path for path in paths], tasks) for split, paths in shards.items()}
    splits = {
        split: {
            "fingerprint": fingerprint(parts[split]),
            "episodes": parts[split].episodes,
            "steps": parts[split].steps,
            "shards": [
                {
                    "path": path,
                    "episodes": episodes,
                    "bytes": (folder / path).stat().st_size,
                    "sha256": _hash(folder / path),
                }
                for path, episodes in zip(paths, parts[split].counts, strict=True)
            ],
        }
        for split, paths in shards.items()
    }
    whole = parts[DEFAULT_SPLIT]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "tasks": list(tasks),
        "state_dim": whole.state_dim,
        "action_dim": whole.action_dim,
        "metadata": metadata,
        "splits": splits,
    }
    write_beside(folder / CARD, write_card(parts, metadata=metadata))
    write_beside(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a complete folder.

    Raises:
        DataError: there is none, or it is from another version of the format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        what = "is not complete (no dataset.json)" if (folder / "data").is_dir() else "holds no dataset"
        how = "Collect it, or collect it to its end, with the command `mtdiff collect`."
        if (folder / SYNTHESIS).is_file():
            how = "Write it to its end with the same `mtdiff synthesize`."
        raise DataError(f"{folder}: {what}. {how}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["schema_version"] == SCHEMA_VERSION:
            _require_all(manifest)
            return manifest
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({type(error).__name__}: {error}).") from error
    raise DataError(f"{path}: has schema version {version}; this mtdiff reads {SCHEMA_VERSION}.")


def _require_all(manifest: dict[str, Any]) -> None:
    """Touch everything in a manifest that is read somewhere: what is missing or of another type raises."""
    if not all(isinstance(task, str) for task in manifest["tasks"]) or not isinstance(manifest["metadata"], dict):
        raise TypeError("tasks should be a list of names, and metadata a mapping")
    if not manifest["splits"][DEFAULT_SPLIT]["shards"]:
        raise ValueError(f"split {DEFAULT_SPLIT} has no shards")
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            if not isinstance(shard["path"] + shard["sha256"], str) or not isinstance(shard["bytes"], int):
                raise TypeError("a shard should have a path, a sha256 and a number of bytes")


def damage(folder: Path, shard: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a shard of the manifest, or None."""
    path = folder / shard["path"]
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != shard["bytes"]:
        return f"has {path.stat().st_size} bytes, should have {shard['bytes']}"
    if _hash(path) != shard["sha256"]:
        return "has changed since it was written (its sha256 differs from dataset.json's)"
    return None


def load(folder: Path, *, split: str = DEFAULT_SPLIT) -> TrajectoryDataset:
    """See `TrajectoryDataset.load`."""
    manifest = read_manifest(folder)
    if split not in manifest["splits"]:
        raise DataError(f"{folder}: {choices('split', split, manifest['splits'])}")
    shards = manifest["splits"][split]["shards"]
    for shard in shards:
        if fault := damage(folder, shard):
            how = "Synthesize" if (folder / SYNTHESIS).is_file() else "Collect"
            raise DataError(f"{folder / shard['path']}: {fault}. {how} again into this folder to mend it.")
    pieces = [read_shard(folder / shard["path"]) for shard in shards]
    named = dict.fromkeys(task for piece in pieces for task in piece.tasks)
    if missing := [task for task in named if task not in manifest["tasks"]]:
        raise DataError(f"{folder / MANIFEST}: is damaged (it does not name task {missing[0]}, which the files have).")
    return join(pieces, tasks=manifest["tasks"], metadata=manifest["metadata"])


def save(folder: Path, splits: Mapping[str, TrajectoryDataset]) -> None:
    """See `TrajectoryDataset.save`."""
    if any((folder / name).exists() for name in (MANIFEST, *FOLDERS.values())):
        raise DataError(f"{folder}: holds trajectories already; choose another folder or remove it.")
    main = splits[DEFAULT_SPLIT]
    shards: dict[str, list[str]] = {}
    for split, data in splits.items():
        shards[split] = []
        for task in data.tasks:
            episodes = np.flatnonzero(data.task_index == data.tasks.index(task))
            for number, start in enumerate(range(0, len(episodes), EPISODES_PER_SHARD)):
                name = shard_name(split, task, number)
                write_shard(folder / name, [data[int(e)] for e in episodes[start : start + EPISODES_PER_SHARD]])
                shards[split].append(name)
    write_manifest(folder, shards=shards, tasks=main.tasks, metadata=main.metadata)


def join(pieces: Sequence[TrajectoryDataset], *, tasks: Sequence[str], metadata: Any) -> TrajectoryDataset:
    """Put datasets one after the other."""
    tasks = list(tasks)
    starts = np.cumsum([0, *(len(piece.states) for piece in pieces)])

    def all_of(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(piece, name) for piece in pieces])

    index = [np.array([tasks.index(name) for name in piece.tasks], np.int64)[piece.task_index] for piece in pieces]
    return TrajectoryDataset(
        **{name: all_of(name) for name in ("states", "actions", "rewards", "success", "terminated", "truncated")},
        offsets=np.concatenate([[0], *(p.offsets[1:] + s for p, s in zip(pieces, starts, strict=False))]).astype(
            np.int64
        ),
        task_index=np.concatenate(index),
        tasks=tasks,
        labels={key: [v for piece in pieces for v in piece.labels[key]] for key in pieces[0].labels},
        metadata=metadata,
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
