"""Find and load what was trained: a run, a saved pipeline, or a repository on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtdiff.errors import DataError, MTDiffError
from mtdiff.whole import broken


def pipeline_folder(source: str | Path) -> Path | None:
    """The folder of the saved pipeline that `source` means, or None if it is no folder here.

    Raises:
        MTDiffError: if it is a folder, but neither a trained run nor a saved pipeline.
    """
    folder = Path(source).expanduser()
    for candidate in (folder, folder / "pipeline"):
        if (candidate / "model_index.json").is_file():
            return candidate
    if not folder.exists():
        return None
    if (folder / "recipe.yaml").is_file():
        raise MTDiffError(f"{folder}: this run has not finished training; go on with `mtdiff train ... --resume`")
    raise MTDiffError(f"{folder}: neither a run nor a saved pipeline; it has no model_index.json")


def load(source: str | Path, **kwargs: Any) -> Any:
    """Load a trained pipeline.

    Args:
        source: a run's folder, a folder written by `save_pretrained`, or a repository id "user/name".
        kwargs: passed on to `from_pretrained`: `revision`, `dtype`, `scheduler=...`.

    Raises:
        DataError: it is damaged, and which file of it.
        MTDiffError: if there is nothing of that kind there.
    """
    from diffusers import DiffusionPipeline

    import mtdiff.pipelines  # noqa: F401  (tells diffusers where our classes are)

    folder = pipeline_folder(source)
    if folder is None and len(Path(source).parts) != 2:
        raise MTDiffError(f"{source}: no such run or pipeline folder, and not a repository id like user/name")
    if folder is None:
        try:
            return DiffusionPipeline.from_pretrained(str(source), **kwargs)
        except OSError as error:  # which errors of connections and of repositories are too
            raise MTDiffError(f"{source}: cannot be loaded from the Hub ({_first_line(error)})") from error
    if damage := broken(folder) or _unreadable(folder):
        raise DataError(f"{folder}: is damaged: {damage}")
    try:
        pipeline = DiffusionPipeline.from_pretrained(str(folder), **kwargs)
    except Exception as error:  # a damaged file can fail in any way
        raise DataError(f"{folder}: cannot be loaded as a pipeline ({_first_line(error)})") from error
    _refuse_other_weights(pipeline, folder)
    return pipeline


def _unreadable(folder: Path) -> str | None:
    """Return the first file of a saved pipeline that is no JSON or no safetensors, and why; None if all are."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.rglob("*.json")):
        try:
            if not isinstance(json.loads(path.read_bytes()), dict):
                raise ValueError("should be a mapping")
        except (OSError, ValueError) as error:
            return f"{path.relative_to(folder)} cannot be read as JSON ({error})"
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{path.relative_to(folder)} cannot be read as safetensors ({error})"
    return None


def _refuse_other_weights(pipeline: Any, folder: Path) -> None:
    """Refuse weights by other names than the parts have: diffusers would leave random numbers where one is missing."""
    from safetensors import safe_open

    for name, part in pipeline.components.items():
        path = folder / name / "diffusion_pytorch_model.safetensors"
        if hasattr(part, "state_dict") and path.is_file():
            with safe_open(path, framework="pt") as file:
                odd = sorted(set(file.keys()) ^ set(part.state_dict()))
            if odd:
                raise DataError(f"{folder}: is damaged: {name}/{path.name} and config.json do not agree about {odd[0]}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
