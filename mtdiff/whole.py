"""Files and folders that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mtdiff.errors import StorageFault

SEAL = "checksums.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Say which file it is that cannot be written.

    Args:
        path: the file or folder.
        others: errors by which libraries tell it, besides `OSError`.

    Raises:
        StorageFault: the disk is full, a limit is reached, or nobody may write there.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, *others)):
            raise
        known = isinstance(error, OSError) and error.errno
        reason = os.strerror(known) if known else (str(error).splitlines() or [type(error).__name__])[0]
        full = known in _FULL or any(os.strerror(number) in str(error) for number in _FULL)
        more = " Make room and repeat the command: what was finished before is kept." if full else ""
        raise StorageFault(f"{path}: cannot be written: {reason.rstrip('.')}.{more}") from error


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to be written; it takes the place of `path` at the end, or leaves nothing behind.

    Raises:
        StorageFault: it could not be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            yield partial
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file so that no reader ever finds half of it.

    Raises:
        StorageFault: it could not be written.
    """
    with beside(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def take_place(new: Path, final: Path) -> None:
    """Put a finished folder where another one may be; no reader ever finds a mixture of the two."""
    away = _put_away(final)
    new.rename(final)
    shutil.rmtree(away, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder if it is there, so that half of it is never taken for the whole."""
    shutil.rmtree(_put_away(folder), ignore_errors=True)


def _put_away(folder: Path) -> Path:
    away = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(away, ignore_errors=True)  # a process was killed in the middle of this
    if folder.exists():
        folder.rename(away)
    return away


def seal(folder: Path) -> None:
    """Write down the size and content of every file in a folder, for `broken` to compare.

    Raises:
        StorageFault: it could not be written.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    sums = {path.relative_to(folder).as_posix(): [path.stat().st_size, _sha256(path)] for path in files}
    write_text(folder / SEAL, json.dumps(sums, indent=1) + "\n")


def broken(folder: Path) -> str | None:
    """Return what is wrong with a sealed folder: its first file that is missing or not as it was written.

    Returns:
        `<file> is missing`, for example; None if all is as it was, or the folder was never sealed.
    """
    path = folder / SEAL
    if not path.is_file():
        return None
    try:
        sums = {str(name): (int(size), str(digest)) for name, (size, digest) in json.loads(path.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        return f"{SEAL} is damaged: {error}"
    for name, (size, digest) in sums.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, should have {size}"
        if _sha256(file) != digest:
            return f"{name} has changed since it was written (remove {SEAL} if the change is yours)"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
