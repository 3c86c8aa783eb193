"""One Parquet file of episodes, a row each, with the types of Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mtdiff.data.trajectories import Trajectory, TrajectoryDataset
from mtdiff.errors import DataError
from mtdiff.whole import beside, writing

# Columns that are no labels. The last three follow from the others and are there for people who browse.
COLUMNS = (
    "task",
    "states",
    "actions",
    "rewards",
    "success",
    "terminated",
    "truncated",
    "steps",
    "return",
    "succeeded",
)


def write_shard(path: Path, episodes: Sequence[Trajectory]) -> None:
    """Write episodes, one row each, so that the file is there whole or not at all.

    Raises:
        DataError: a label with a column's name or of a type that has no column.
        StorageFault: the file could not be written.
    """
    from datasets import Features, List, Value  # slow to import, and only writing needs it

    first = episodes[0]

    def rows(width: int) -> Any:
        return List(List(Value("float32"), length=width))

    features = {
        "task": Value("string"),
        "states": rows(first.states.shape[1]),
        "actions": rows(first.actions.shape[1]),
        "rewards": List(Value("float32")),
        "success": List(Value("bool")),
        "terminated": Value("bool"),
        "truncated": Value("bool"),
        "steps": Value("int64"),
        "return": Value("float64"),
        "succeeded": Value("bool"),
    }
    columns: dict[str, list[Any]] = {
        "task": [e.task for e in episodes],
        "rewards": [e.rewards for e in episodes],
        "success": [e.success for e in episodes],
        "terminated": [e.terminated for e in episodes],
        "truncated": [e.truncated for e in episodes],
        "steps": [len(e) for e in episodes],
        "return": [float(e.rewards.astype(np.float64).sum()) for e in episodes],
        "succeeded": [bool(e.success.any()) for e in episodes],
    }
    for key, value in first.labels.items():
        if key in COLUMNS:
            raise DataError(f"label '{key}': this is the name of a column; choose another.")
        columns[key] = [e.labels[key] for e in episodes]
        features[key] = _label_feature(key, value)
    schema = Features(features).arrow_schema
    arrays = []
    for entry in schema:
        if entry.name in ("states", "actions"):
            arrays.append(_nested([getattr(e, entry.name) for e in episodes], entry.type))
        else:
            arrays.append(pa.array(columns[entry.name], entry.type))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_arrays(arrays, schema=schema)
    with beside(path) as partial:  # with checksums, because a file is read before the manifest knows its sha256
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


def read_shard(path: Path) -> TrajectoryDataset:
    """Read one file as a dataset.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True).combine_chunks()
        return _dataset(table, path)
    except DataError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read as Parquet ({reason.rstrip('.')}).") from error


def read_array(path: Path, name: str) -> NDArray[Any]:
    """Return one array of what `read_shard` returns, without reading the others' columns.

    Args:
        path: a file that was written by `write_shard` and has been read before.
        name: states, actions, rewards, success, lengths, terminated or truncated.
    """
    column = "steps" if name == "lengths" else name
    table = pq.read_table(path, columns=[column], page_checksum_verification=True).combine_chunks()
    if name in ("lengths", "terminated", "truncated"):
        return table[column].to_numpy()
    values, rows = _flat(table[column])
    if name == "states":
        return values
    inner = np.ones(len(values) + len(rows), bool)
    inner[np.cumsum(rows + 1) - 1] = False
    return _padded(values, inner)


def _padded(values: NDArray[Any], inner: NDArray[np.bool_]) -> NDArray[Any]:
    """Return values (steps, ...) in the rows of their states (R, ...); an episode's last row is zero."""
    whole = np.zeros((len(inner), *values.shape[1:]), values.dtype)
    whole[inner] = values
    return whole


def _dataset(table: pa.Table, path: Path) -> TrajectoryDataset:
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise DataError(f"{path}: has no column {', '.join(missing)}; it was not written by mtdiff.")
    states, rows = _flat(table["states"])
    if states.ndim != 2 or states.dtype != np.float32:
        raise DataError(f"{path}: states should be rows of single precision, got {states.dtype} {states.shape}.")
    count = len(rows)
    offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    inner = np.ones(len(states), bool)
    inner[offsets[1:] - 1] = False

    def padded(name: str) -> NDArray[Any]:
        values, lengths = _flat(table[name])
        if not np.array_equal(lengths, rows - 1):
            raise DataError(f"{path}: {name} and states do not have the same steps.")
        return _padded(values, inner)

    names = table["task"].to_pylist()
    tasks = list(dict.fromkeys(names))
    return TrajectoryDataset(
        states=states,
        actions=padded("actions"),
        rewards=padded("rewards"),
        success=padded("success"),
        offsets=offsets,
        task_index=np.array([tasks.index(name) for name in names], np.int64).reshape(count),
        tasks=tasks,
        terminated=np.array(table["terminated"].to_pylist(), bool),
        truncated=np.array(table["truncated"].to_pylist(), bool),
        labels={key: table[key].to_pylist() for key in table.column_names if key not in COLUMNS},
    )


def _label_feature(key: str, value: Any) -> Any:
    from datasets import List, Value

    for kind, name in ((bool, "bool"), (int, "int64"), (float, "float64"), (str, "string")):
        if isinstance(value, kind):
            return Value(name)
    if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        return List(Value("float64"))
    raise DataError(f"label '{key}': should be a number, a flag, a text or a list of numbers, got {value!r}.")


def _nested(arrays: Sequence[NDArray[np.float32]], kind: pa.ListType) -> pa.ListArray:
    """Return a column of (T, width) arrays without taking them apart."""
    width = kind.value_type.list_size
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(arrays).reshape(-1)), width)
    offsets = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values).cast(kind)


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return a list column's values joined, (R,) or (R, width), and the lengths of its rows."""
    array = column.combine_chunks()
    lengths = np.diff(array.offsets.to_numpy())
    values = array.flatten()
    if pa.types.is_fixed_size_list(values.type):
        width = values.type.list_size
        return values.flatten().to_numpy(zero_copy_only=True).reshape(-1, width), lengths
    return values.to_numpy(zero_copy_only=False), lengths
