"""What is being synthesized into a folder, written there first, so that nothing else is mixed with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtdiff.data.storage import SYNTHESIS, write_beside
from mtdiff.errors import DataError


def claim(folder: Path, settings: Mapping[str, Any], *, complete: bool) -> None:
    """Say in the folder what is being synthesized there, or refuse if it is something else.

    Args:
        folder: where; made if need be.
        settings: generator, tasks, transitions, seed, sampling, prompts and versions.
        complete: whether the folder is finished, so that it is good whatever is installed today.

    Raises:
        DataError: the folder holds other data, or data of other settings: which ones.
        StorageFault: the claim could not be written.
    """
    path = folder / SYNTHESIS
    if not path.is_file():
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder}: is a file; choose a folder.")
        there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        if there := [name for name in there if not name.startswith(".")]:
            raise DataError(
                f"{folder}: holds something that was not synthesized here ({there[0]}); choose another folder."
            )
        write_beside(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        before = _compared(json.loads(path.read_text(encoding="utf-8")), complete=complete)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({error}); remove the folder and synthesize again.") from error
    now = _compared(settings, complete=complete)
    differences = [
        f"{key} is {_short(before.get(key))} there and {_short(now.get(key))} now"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise DataError(
            f"{folder}: was synthesized with other settings: {'; '.join(differences)}. "
            "Choose another folder or remove this one."
        )


def _compared(settings: Mapping[str, Any], *, complete: bool) -> dict[str, Any]:
    """What must be equal for the same data."""
    found = {"generator.content": settings["generator"]["content"]}
    found |= {key: settings[key] for key in ("tasks", "transitions", "seed")}
    found |= {f"sampling.{key}": value for key, value in settings["sampling"].items()}
    found |= {f"prompts.{task}": prompts["digest"] for task, prompts in settings["prompts"].items()}
    return found if complete else found | {f"versions.{key}": value for key, value in settings["versions"].items()}


def _short(value: Any) -> str:
    return text if len(text := str(value)) <= 60 else f"{text[:57]}..."
