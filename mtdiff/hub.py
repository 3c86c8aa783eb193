"""Find and load what was trained: a run, a saved pipeline, or a repository on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtdiff.errors import DataError, MTDiffError
from mtdiff.sharing.repository import Repository
from mtdiff.whole import broken

Source = str | Path | Repository
"""A run's folder, a saved pipeline's, or a repository: "user/name", "user/name@revision"."""


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


def given(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Source:
    """Return what somebody named on the command line: a folder that is there, or else a repository.

    Raises:
        MTDiffError: it is neither, or a folder with a revision.
    """
    if pipeline_folder(source) is None:
        return Repository.named(source, revision=revision, trust_remote_code=trust_remote_code)
    if revision is not None:
        raise MTDiffError(f"{source}: is a folder here, and only a repository has revisions, got {revision}")
    return source


def fetch(source: Source) -> Path:
    """Return the folder of a saved pipeline, pulled from the Hub if it is not one here.

    Raises:
        MTDiffError: there is nothing of that kind; see `mtdiff.sharing.pull.pull`.
    """
    from mtdiff.sharing.pull import pull

    if isinstance(source, Repository):
        return pull(source)
    return pipeline_folder(source) or pull(Repository.named(source))


def name_of(source: Source, folder: Path) -> str:
    """Return what a folder of its results is called: as its own, or as the repository that was pulled into it."""
    if isinstance(source, Repository):
        return source.folder_name
    return Repository.named(source).folder_name if pipeline_folder(source) is None else folder.name


def trusted(source: Source) -> bool:
    """Return whether a source may run code of its own."""
    return isinstance(source, Repository) and source.trust_remote_code


def load(
    source: Source,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> Any:
    """Load a trained pipeline. Nothing that is loaded runs code or is unpickled, unless it is trusted.

    Args:
        source: a run's folder, a folder written by `save_pretrained`, or a repository id "user/name".
        revision: a repository's branch, tag or commit.
        cache_dir: where repositories are kept; by default the Hub client's place, see HF_HOME.
        local_files_only: take a repository from there without asking the Hub, as with HF_HUB_OFFLINE=1.
        token: for a repository that is not public; by default HF_TOKEN, or that of `hf auth login`.
        trust_remote_code: let a repository run code: import what its recipe lists, read classes and pickles of its own.
        kwargs: passed on to `from_pretrained`: `dtype`, `scheduler=...`.

    Raises:
        DataError: it is damaged, and which file of it.
        MTDiffError: if there is nothing of that kind there.
    """
    from diffusers import DiffusionPipeline

    import mtdiff.pipelines  # noqa: F401  (tells diffusers where our classes are)

    folder = None if isinstance(source, Repository) else pipeline_folder(source)
    pulled = folder is None
    if folder is None:
        if not isinstance(source, Repository):
            source = Repository.named(
                source,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                token=token,
                trust_remote_code=trust_remote_code,
            )
        trust_remote_code = source.trust_remote_code
        folder = fetch(source)
    elif revision is not None:
        raise MTDiffError(f"{source}: is a folder here, and only a repository has revisions, got {revision}")
    where = str(source) if pulled else str(folder)
    if damage := (None if pulled else broken(folder)) or _unreadable(folder):  # pulling has compared checksums
        raise DataError(f"{where}: is damaged: {damage}")
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            str(folder),
            use_safetensors=None if trust_remote_code else True,
            trust_remote_code=trust_remote_code,
            **kwargs,
        )
    except Exception as error:  # a damaged file can fail in any way
        raise DataError(f"{where}: cannot be loaded as a pipeline ({_first_line(error)})") from error
    _refuse_other_weights(pipeline, folder, where)
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


def _refuse_other_weights(pipeline: Any, folder: Path, where: str) -> None:
    """Refuse weights by other names than the parts have: diffusers would leave random numbers where one is missing."""
    from safetensors import safe_open

    for name, part in pipeline.components.items():
        path = folder / name / "diffusion_pytorch_model.safetensors"
        if hasattr(part, "state_dict") and path.is_file():
            with safe_open(path, framework="pt") as file:
                odd = sorted(set(file.keys()) ^ set(part.state_dict()))
            if odd:
                raise DataError(f"{where}: is damaged: {name}/{path.name} and config.json do not agree about {odd[0]}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
