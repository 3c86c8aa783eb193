"""Docstrings as MyST Markdown."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mtdiff.signature import argument_docs

_BLOCKS = ("Args", "Arguments", "Attributes", "Returns", "Raises", "Yields")
_HEAD = re.compile(rf"({'|'.join(_BLOCKS)}):\s*")


def sections(docstring: str | None) -> dict[str, str]:
    """Split a Google-style docstring: "" is the prose, the other keys are `Args`, `Returns`, `Raises` ..."""
    found: dict[str, list[str]] = {"": []}
    block = ""
    for line in inspect.cleandoc(docstring or "").splitlines():
        if head := _HEAD.fullmatch(line):
            block = "Args" if head[1] == "Arguments" else head[1]
            found[block] = []
            continue
        if block and line.strip() and not line.startswith(" "):
            block = ""  # prose goes on after a block
            found[""].append("")
        found[block].append(line)
    return {name: inspect.cleandoc("\n".join(("", *lines))).strip() for name, lines in found.items()}


def escape(text: str) -> str:
    """Leave text as it reads: outside of `code` and indented lines, Markdown's marks mean themselves."""
    lines = (line if line.startswith("    ") else _escape_line(line) for line in text.splitlines())
    return "\n".join(lines)


def _escape_line(line: str) -> str:
    pieces = re.split(r"(`[^`]*`)", line)
    return "".join(p if p.startswith("`") else re.sub(r"([<$*_\\\[\]])", r"\\\1", p) for p in pieces)


def entries(block: str) -> list[tuple[str, str]]:
    """The entries of an `Args:`, `Attributes:` or `Raises:` block: (name, text on one line)."""
    return list(argument_docs("\nArgs:\n" + "\n".join(f"    {line}" for line in block.splitlines())).items())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are already Markdown."""
    lines = ([cell.replace("|", r"\|") for cell in line] for line in (head, ["---"] * len(head), *rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(text: str) -> str:
    """Text as inline code; nothing for nothing."""
    return f"`{text}`" if text else ""


def value(default: Any) -> str:
    """A default as YAML has it."""
    if isinstance(default, list | tuple):
        return f"[{', '.join(map(value, default))}]"
    if isinstance(default, str):
        return default if re.fullmatch(r"[\w./@-]*[A-Za-z_/][\w./@-]*", default) else json.dumps(default)
    return json.dumps(default, default=str, ensure_ascii=False)
