"""Read the data of others once, and keep them as a dataset folder like any other.

    <folder>/source.json    what was read, from which files, and how they looked

Everything is written beside its place and renamed at the end, so that half of it is never taken for the whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtdiff.data.sources.source import Reader, refuse_other_suites
from mtdiff.data.storage import FOLDERS, MANIFEST, damage, read_manifest, save, write_beside
from mtdiff.environments.suite import Suite
from mtdiff.errors import DataError
from mtdiff.whole import take_place, writing

RECORD = "source.json"


def read_once(folder: Path, *, suite: Suite, source: Reader) -> int:
    """Read what `source` means into `folder`, unless it is there already.

    A folder in which a file is missing or damaged is read again. If the files that were read have changed since, that
    is an error: what was trained on them could no longer be told apart. If they are gone, the folder serves without.

    Args:
        folder: made if need be.
        suite: what the trajectories must be of.
        source: where they are.

    Returns:
        Episodes read by this call, 0 if all were there.

    Raises:
        DataError: see `Reader.read`; the files changed; the folder holds something else.
        StorageFault: a file could not be written.
    """
    settings = {"suite": suite.describe(), "data": source.describe()}
    if (folder / RECORD).is_file():
        record = _record(folder / RECORD)
        if differences := [key for key in settings if record.get(key) != settings[key]]:
            raise DataError(
                f"{folder}: was read with another {' and '.join(differences)}. Choose another folder, or remove it."
            )
        files = source.files(suite)
        if files and not _unchanged(folder, record, files):
            raise DataError(
                f"{folder}: was read from {record['files']} files, which have changed since ({len(files)} now). Remove "
                "this folder to read them again, or put them back."
            )
        if (folder / MANIFEST).is_file() and not _damaged(folder):
            return 0
    elif any((folder / name).exists() for name in (MANIFEST, *FOLDERS.values())):
        raise DataError(f"{folder}: holds trajectories that were not read here; choose another folder.")
    files = source.files(suite)
    record = {**settings, "files": len(files), "stamp": _stamp(files), "content": _content(files)}
    parts = source.read(suite)
    for split, part in parts.items():
        refuse_other_suites(part, suite, where=f"{source.name}, {split}")
        part.metadata = {**part.metadata, **settings, "content": record["content"], "versions": suite.versions()}
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        save(beside, parts)
        write_beside(beside / RECORD, json.dumps(record, indent=2) + "\n")
        with writing(folder):
            take_place(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)  # a full disk has no room for half of it
        raise
    return sum(map(len, parts.values()))


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {**record, **{key: record[key] for key in ("suite", "data", "files", "stamp", "content")}}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: is damaged ({error}); remove the folder to read the data again.") from error


def _unchanged(folder: Path, record: dict[str, Any], files: Sequence[Path]) -> bool:
    """Compare how the files look, and only if they look different, what they hold: a copy has other times."""
    stamp = _stamp(files)
    if record["stamp"] == stamp:
        return True
    if record["content"] != _content(files):
        return False
    write_beside(folder / RECORD, json.dumps({**record, "stamp": stamp}, indent=2) + "\n")
    return True


def _damaged(folder: Path) -> bool:
    splits = read_manifest(folder)["splits"].values()
    return any(damage(folder, shard) for split in splits for shard in split["shards"])


def _stamp(files: Sequence[Path]) -> str:
    """Digest of names, sizes and times: quick."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _content(files: Sequence[Path]) -> str:
    """Digest of names and contents."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
