"""What `--json` says about parts and about errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mtdiff.errors import MTDiffError

if TYPE_CHECKING:
    from mtdiff.registry import Part


def describe(part: Part) -> dict[str, Any]:
    """Return what a part is and takes."""
    from mtdiff.argument_check import spell

    arguments = {}
    for argument in part.arguments.values():
        described: dict[str, Any] = {"type": spell(argument.annotation), "required": argument.required}
        if not argument.required:
            described["default"] = json.loads(json.dumps(argument.default, default=str))
        arguments[argument.name] = described | {"doc": argument.doc}
    return {"summary": part.summary, "runtime": list(part.runtime), "arguments": arguments}


def error_document(error: MTDiffError) -> dict[str, Any]:
    """Return an error with its problems, each with file, line and key where it has them."""
    problems = [
        {
            "file": problem.place.source if problem.place else None,
            "line": problem.place.line if problem.place else None,
            "key": problem.key,
            "message": problem.message,
        }
        for problem in getattr(error, "problems", [])
    ]
    return {"error": {"type": type(error).__name__, "message": str(error), "problems": problems}}
