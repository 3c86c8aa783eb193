"""Bring a repository's files into the cache, and refuse what is not whole or could run code.

Only JSON, YAML and safetensors of a model are brought, or JSON and Parquet of a dataset; films and code stay where they
are.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from mtdiff.errors import DataError, MTDiffError, RecipeError
from mtdiff.sharing.repository import HubUnreachable, Kind, Repository, asking
from mtdiff.whole import SEAL, broken

_DATA = (".json", ".safetensors")
_BROUGHT: dict[Kind, list[str]] = {
    "model": ["*.json", "*.safetensors", "recipe.yaml"],
    "dataset": ["dataset.json", "synthesis.json", "*.parquet", "meta/*"],
}
_LEFT: dict[Kind, list[str]] = {"model": ["evaluation/*"], "dataset": ["videos/*", "images/*"]}


def pull(repository: Repository, *, kind: Kind = "model") -> Path:
    """Return the folder in the cache that holds a repository's files, after bringing those that are not there.

    Raises:
        DataError: a model's file is missing, damaged or foreign; which one.
        MTDiffError: it cannot be brought, and why; or it would run code and is not trusted to.
    """
    try:
        folder = _bring(repository, kind)
    except HubUnreachable as away:
        try:  # what is in the cache serves meanwhile
            folder = _bring(replace(repository, local_files_only=True), kind)
        except MTDiffError:
            raise away from None
    if kind == "model":
        _check(repository, folder)
    return folder


def _bring(repository: Repository, kind: Kind) -> Path:
    from huggingface_hub import snapshot_download

    trusted = repository.trust_remote_code and kind == "model"
    with asking(repository, kind):
        found = snapshot_download(
            repository.name,
            repo_type=kind,
            revision=repository.revision,
            cache_dir=repository.cache_dir,
            local_files_only=repository.local_files_only,
            token=repository.token,
            allow_patterns=None if trusted else _BROUGHT[kind],
            ignore_patterns=_LEFT[kind],
        )
    return Path(found)


def commit(folder: Path) -> str:
    """Return the commit that a folder in the cache holds."""
    return folder.name


def _check(repository: Repository, folder: Path) -> None:
    names = _names(repository, folder)
    if "model_index.json" not in names:
        raise MTDiffError(f"{repository}: holds no saved pipeline; it has no model_index.json")
    damage = broken(folder) or _foreign(folder, names)
    if damage:
        raise DataError(
            f"{repository}: is damaged: {damage}. Remove {folder} and what it links to, to pull it again; if that does "
            "not help, it was pushed so"
        )
    if repository.trust_remote_code:
        _import(folder)
        return
    if runs := _code(folder, names):
        raise MTDiffError(
            f"{repository}: {runs}. Nothing that is pulled runs code; if you trust it, pass trust_remote_code=True, on "
            "the command line --trust-remote-code"
        )


def _names(repository: Repository, folder: Path) -> list[str]:
    """Every file of the repository, those that were not brought too."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        tree = get_cached_repo_tree(repository.name, revision=commit(folder), cache_dir=repository.cache_dir)
    except CachedRepoTreeNotFoundError:  # a cache of an older client
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(file.path for file in tree)


def _foreign(folder: Path, names: list[str]) -> str | None:
    """Return the first file among a part's that was not pushed with it, None if there is none."""
    seal = folder / SEAL
    if not seal.is_file():
        return None
    own = set(json.loads(seal.read_bytes()))
    parts = {name.partition("/")[0] for name in own if "/" in name}
    strange = [name for name in names if name not in own and name.partition("/")[0] in parts and name.endswith(_DATA)]
    return f"{strange[0]} does not belong to it ({SEAL} does not name it)" if strange else None


def _code(folder: Path, names: list[str]) -> str | None:
    """Return what would run code if the pipeline were loaded, None if nothing would."""
    index = _mapping(folder)
    if not isinstance(index.get("_class_name"), str):
        return "its model_index.json asks for a pipeline class of its own"
    parts = [name for name, value in index.items() if isinstance(value, list)]
    for name in names:
        if name.partition("/")[0] in parts and "/" in name and not name.endswith(_DATA):
            return f"{name} could run code when it is read, and only JSON and safetensors are"
    if waiting := [module for module in _imports(folder) if module not in sys.modules]:
        return f"its recipe would import '{waiting[0]}', which runs the code of that module"
    return None


def _imports(folder: Path) -> list[str]:
    """The modules that whoever reads the recipe imports, found by what reads it: no other reading can differ."""
    from mtdiff.recipe.layers import read_layers
    from mtdiff.recipe.sections import SCHEMA, SECTIONS

    path = folder / "recipe.yaml"
    try:
        return list(read_layers(path, [], sections=SECTIONS, schema=SCHEMA).imports) if path.is_file() else []
    except RecipeError:  # nobody can import what cannot be read; weights load without
        return []


def _import(folder: Path) -> None:
    from mtdiff.recipe.check import import_modules
    from mtdiff.recipe.places import InvalidRecipe

    if problems := import_modules(dict.fromkeys(_imports(folder)), allow=True):
        raise InvalidRecipe(problems)


def _mapping(folder: Path) -> dict[str, object]:
    path = folder / "model_index.json"
    try:
        found = json.loads(path.read_bytes())
        return {**found}
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
