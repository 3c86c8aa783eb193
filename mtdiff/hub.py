"""Find and load what was trained: a run, a saved pipeline, or a repository on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtdiff.errors import MTDiffError


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
        MTDiffError: if there is nothing of that kind there.
    """
    from diffusers import DiffusionPipeline

    import mtdiff.pipelines  # noqa: F401  (tells diffusers where our classes are)

    folder = pipeline_folder(source)
    if folder is None and len(Path(source).parts) != 2:
        raise MTDiffError(f"{source}: no such run or pipeline folder, and not a repository id like user/name")
    return DiffusionPipeline.from_pretrained(str(folder or source), **kwargs)
