"""What a result was made with: versions, code, hardware; and how that differs from where it is made again."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mtdiff
from mtdiff.errors import DataError

if TYPE_CHECKING:
    from mtdiff.recipe import Recipe

_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "datasets", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "mtdiff": mtdiff.__version__, **packages}


@functools.cache
def code(without: tuple[str, ...] = ()) -> str:
    """Return 12 hex digits of mtdiff's own code, which changes more often than its version.

    Args:
        without: patterns of paths in the package, such as "cli*.py", that are left out.
    """
    package = Path(mtdiff.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if any(fnmatch.fnmatch(path.relative_to(package).as_posix(), pattern) for pattern in without):
            continue
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def hardware() -> str:
    """Processor, its cores that may be used, and GPUs, in words."""
    import torch

    from mtdiff.environments.processes import available_cores

    parts = [f"{_processor()}, {available_cores()} cores"]
    if torch.cuda.is_available():
        parts.append(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    return "; ".join(parts)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def stored(recipe: Recipe) -> dict[str, Any] | None:
    """Return what is known of the run whose stored recipe this is, None for a recipe of no run.

    Raises:
        DataError: its run.json is damaged.
    """
    beside = recipe.path.parent / "run.json" if recipe.path and recipe.path.name == "recipe.yaml" else None
    if beside is None or not beside.is_file():
        return None
    try:
        info = json.loads(beside.read_text(encoding="utf-8"))
        return {**info, **{key: info[key] for key in ("name", "hash", "data", "versions", "hardware")}}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{beside}: is damaged ({type(error).__name__}: {error})") from error


def differences(there: Mapping[str, Any], here: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return what is not as it was when a recipe was trained before: a line each, the weightiest first.

    Args:
        there: `run.json` of that run.
        here: `run.json` of the one that trains it again.
        recipe: the stored one, with the changes of the command line.
    """
    changed = [key for key, _ in recipe.items() if recipe.origin(key) == "command line"]
    lines = [f"recipe: {key} is {json.dumps(recipe.get(key))}, set on the command line" for key in changed]
    if there["data"]["fingerprint"] != here["data"]["fingerprint"]:
        sizes = [f"{info['data']['episodes']} episodes ({info['data']['fingerprint'][:12]})" for info in (there, here)]
        lines.append(f"data: {sizes[0]} there, {sizes[1]} here")
    if "init" in there or "init" in here:
        begun = [info.get("init", {}).get("content", "random")[:12] for info in (there, here)]
        if begun[0] != begun[1]:
            lines.append(f"first weights: {begun[0]} there, {begun[1]} here")
    pairs = {name: (there["versions"].get(name), here["versions"].get(name)) for name in here["versions"]}
    pairs |= {key: (there.get(key), here.get(key)) for key in ("code", "hardware", "processes", "mixed_precision")}
    words = {"code": "code of mtdiff", "mixed_precision": "precision"}
    return lines + [
        f"{words.get(name, name)}: {one or 'unknown'} there, {other} here"
        for name, (one, other) in pairs.items()
        if one != other
    ]


def report(there: Mapping[str, Any], lines: list[str]) -> list[str]:
    """Return what is said when a stored recipe is trained again."""
    name = f"{there['name']}-{there['hash']}"
    if not lines:
        return [f"reproduce: {name} again, with the same recipe, data, code, versions and hardware"]
    return [f"reproduce: {name} again; what differs:", *(f"  {line}" for line in lines)]
