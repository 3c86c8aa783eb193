"""Demonstrations in files: dataset folders, `.npz` episodes, and the `.npy` prompt files of MTDiff's authors.

A `.npy` prompt file is a pickled array of dicts, one an episode, and pickle runs whatever code a file asks for. This is
the one place in mtdiff that reads pickle. It never runs a file's code: of the names that such a stream may call for,
those that rebuild numpy arrays are answered by plain functions here, and every other one is refused by name.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mtdiff.data.episode_files import episode_from, read_npz
from mtdiff.data.sources.source import as_task, older_names
from mtdiff.data.trajectories import DEFAULT_SPLIT, TrajectoryDataset
from mtdiff.errors import DataError, closest

KINDS = "a dataset folder, an .npz episode, a .npy prompt file or a folder of those"


def demonstrations(path: Path, tasks: Sequence[str]) -> TrajectoryDataset:
    """Read whatever demonstrations of some tasks a path holds.

    Args:
        path: a dataset folder (its prompts, or else its trajectories), a `.npz` episode of the only task, a `.npy`
            prompt file, or a folder of `<task>_prompt.npy`.
        tasks: whose demonstrations; Meta-World's older names with `-v2` are understood.

    Raises:
        DataError: nothing of the kind, a damaged file, or no demonstration of a task.
    """
    path = path.expanduser()
    there: list[str] = []
    if (path / "dataset.json").is_file():
        from mtdiff.data.storage import read_manifest

        split = "prompts" if "prompts" in read_manifest(path)["splits"] else DEFAULT_SPLIT
        whole = TrajectoryDataset.load(path, split=split)
        there = whole.tasks
        episodes = [whole[e] for e in range(len(whole)) if whole[e].task in tasks]
    elif path.is_dir() and any(path.glob("*.npy")):
        episodes = []
        for task in tasks:
            names = [f"{name}{ending}.npy" for name in older_names(task) for ending in ("_prompt", "")]
            file = next((path / name for name in names if (path / name).is_file()), None)
            if file is None:
                raise DataError(f"{path}: has no demonstration of {task}: neither {' nor '.join(names)}.")
            part = read_prompt_file(file, task=task)
            episodes += [part[e] for e in range(len(part))]
    elif path.suffix == ".npy":
        whole = read_prompt_file(path, tasks=tasks)
        there = whole.tasks
        episodes = [whole[e] for e in range(len(whole)) if whole[e].task in tasks]
    elif path.suffix == ".npz":
        if len(tasks) != 1:
            raise DataError(
                f"{path}: an episode does not say its task, and there are {len(tasks)}: {', '.join(tasks)}."
            )
        episodes = [read_npz(path, task=tasks[0])]
    elif path.exists():
        raise DataError(f"{path}: holds no demonstrations. It should be {KINDS}.")
    else:
        raise DataError(f"{path}: there is nothing here. It should be {KINDS}.")
    if missing := [task for task in tasks if task not in {episode.task for episode in episodes}]:
        known = f" It has {', '.join(there)}.{closest(missing[0], there)}" if there else ""
        raise DataError(f"{path}: has no demonstration of {', '.join(missing)}.{known}")
    return TrajectoryDataset.from_trajectories(episodes, tasks=list(tasks))


def files_of(path: Path) -> list[Path]:
    """Return the files that say whether the demonstrations at a path have changed; none if there is nothing."""
    path = path.expanduser()
    if path.is_file():
        return [path]
    manifest = path / "dataset.json"  # knows the content of every other file
    return [manifest] if manifest.is_file() else sorted(path.glob("*.npy"))


def read_prompt_file(path: Path, *, task: str | None = None, tasks: Sequence[str] = ()) -> TrajectoryDataset:
    """Read a `.npy` prompt file of MTDiff's authors without running anything in it.

    Args:
        path: the file: an array of dicts with the keys of `mtdiff.data.episode_files` and `task`.
        task: the task of every episode; None takes what the file says.
        tasks: names to which older ones in the file are mapped.

    Raises:
        DataError: the file is missing or damaged, or it asks for anything but arrays, dicts and texts.
    """
    try:
        with path.open("rb") as file:
            found = _load(file)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # a damaged stream can fail in any way
        raise DataError(f"{path}: cannot be read as a prompt file ({type(error).__name__}: {error}).") from error
    if not isinstance(found, _Array) or not isinstance(found.values, list):
        raise DataError(f"{path}: should be an array of dicts, one an episode.")
    episodes = []
    for e, one in enumerate(found.values):
        where = f"{path}: episode {e}"
        if not isinstance(one, dict):
            raise DataError(f"{where}: should be a dict, got {type(one).__name__}.")
        arrays = {key: value.numbers() if isinstance(value, _Array) else value for key, value in one.items()}
        said = arrays.get("task", "unknown")
        if not isinstance(said, str):
            raise DataError(f"{where}: task should be a text, got {type(said).__name__}.")
        name = as_task(said, tasks) if task is None else task
        episodes.append(episode_from(arrays, task=name, where=where, labels={"file": path.name, "episode": e}))
    return TrajectoryDataset.from_trajectories(episodes)


class _Array:
    """What a pickled array becomes: checked numbers, or a list of objects. No code of numpy's reads the stream."""

    def __init__(self) -> None:
        self.values: list[Any] | np.ndarray = []

    def __setstate__(self, state: Any) -> None:
        *_, shape, kind, column_first, values = state
        if not isinstance(kind, _Kind) or not isinstance(shape, tuple):
            raise DataError("holds an array without a shape or a kind of numbers.")
        self.values = values if kind.holds_objects else _numbers(values, kind, shape, "F" if column_first else "C")
        if kind.holds_objects and (not isinstance(values, list) or len(shape) != 1):
            raise DataError("holds an array of objects that is no list.")

    def numbers(self) -> Any:
        """Return the array that it is."""
        return self.values


class _Kind:
    """What a pickled numpy dtype becomes."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.holds_objects = code in ("O", "O8")
        if not self.holds_objects and not (isinstance(code, str) and code[:1] in tuple("biufU") and code[1:].isdigit()):
            raise DataError(f"holds numbers of kind {code!r}, and only plain numbers and texts are read.")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def dtype(self) -> np.dtype[Any]:
        """Return the dtype that it is."""
        return np.dtype(self.code).newbyteorder(self.order)


class _Answer:
    """A function that a stream may call, whose attributes it cannot set."""

    __slots__ = ("_answer",)
    _answer: Callable[..., Any]

    def __init__(self, answer: Callable[..., Any]) -> None:
        object.__setattr__(self, "_answer", answer)

    def __call__(self, *arguments: Any) -> Any:
        return self._answer(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise DataError(f"tries to change '{name}' of a function.")

    def __setstate__(self, state: Any) -> None:
        raise DataError("tries to change a function.")


def _numbers(values: Any, kind: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(kind, _Kind) or kind.holds_objects or order not in ("C", "F"):
        raise DataError("holds an array of an unknown layout.")
    if isinstance(values, str):  # protocol 2 has no bytes
        values = values.encode("latin1")
    return np.frombuffer(bytes(memoryview(values)), kind.dtype()).reshape(shape, order=order)


def _from_buffer(values: Any, kind: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.values = _numbers(values, kind, shape, order)
    return array


def _scalar(kind: Any, values: Any) -> Any:
    return _numbers(values, kind, (1,))[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise DataError("asks for a text in another encoding.")
    return text.encode("latin1")


_NDARRAY = _Answer(lambda *_: _Array())
_ANSWERS: dict[tuple[str, str], Any] = {("_codecs", "encode"): _Answer(_encode)}
for _home in ("numpy", "numpy.core", "numpy._core"):
    _ANSWERS |= {
        (_home, "ndarray"): _NDARRAY,
        (_home, "dtype"): _Answer(_Kind),
        (f"{_home}.multiarray", "_reconstruct"): _NDARRAY,
        (f"{_home}.multiarray", "scalar"): _Answer(_scalar),
        (f"{_home}.numeric", "_frombuffer"): _Answer(_from_buffer),
    }


class _Unpickler(pickle.Unpickler):
    """Knows the names in `_ANSWERS` and no other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ANSWERS:
            raise DataError(
                f"asks for {module}.{name}, and a prompt file needs no more than arrays, dicts and texts. "
                "Nothing in it was run."
            )
        return _ANSWERS[module, name]


def _load(file: IO[bytes]) -> Any:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"is .npy of version {version}, and 1.0 and 2.0 are read.")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = header(file)
    if not dtype.hasobject:
        raise DataError(f"is an array of {dtype}, not of dicts.")
    return _Unpickler(file, encoding="latin1").load()
