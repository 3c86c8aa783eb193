"""YAML 1.2 in which every value knows its file and line.

PyYAML follows YAML 1.1, where `3e-4` is a string and `no` is false. Here plain scalars follow the core schema
of YAML 1.2, duplicate keys are refused, and nothing but plain data can be written: no tags, no merge keys.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.emitter import Emitter
from yaml.nodes import MappingNode, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.representer import SafeRepresenter
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner
from yaml.serializer import Serializer

from mtdiff.recipe.places import InvalidRecipe, Node, Place, Problem

MAX_NODES = 100_000
"""No recipe is this long; a few nested aliases can be, and would fill the memory."""

TAG = "tag:yaml.org,2002:"
PLAIN = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
}


class _CoreResolver(BaseResolver):  # type: ignore[misc, unused-ignore]
    """Resolves plain scalars as YAML 1.2's core schema does."""

    def resolve(self, kind: type, value: Any, implicit: Any) -> str:
        if kind is ScalarNode and implicit[0]:
            return TAG + next((name for name, form in PLAIN.items() if form.fullmatch(value)), "str")
        kinds: dict[type, str] = {MappingNode: "map", SequenceNode: "seq"}
        return TAG + kinds.get(kind, "str")


class _Loader(Reader, Scanner, Parser, Composer, _CoreResolver):  # type: ignore[misc, unused-ignore]
    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _CoreResolver.__init__(self)


class _Dumper(Emitter, Serializer, SafeRepresenter, _CoreResolver):  # type: ignore[misc, unused-ignore]
    def __init__(
        self,
        stream: Any,
        default_style: Any = None,
        default_flow_style: Any = None,
        sort_keys: bool = False,
        **emitter: Any,
    ) -> None:
        serializer = {k: emitter.pop(k) for k in ("encoding", "explicit_start", "explicit_end", "version", "tags")}
        Emitter.__init__(self, stream, **emitter)
        Serializer.__init__(self, **serializer)
        SafeRepresenter.__init__(self, default_style, default_flow_style, sort_keys)
        _CoreResolver.__init__(self)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> Any:
        # PyYAML folds these three line breaks away unless they are escaped.
        style = '"' if any(mark in data for mark in "\x85\u2028\u2029") else None
        return self.represent_scalar(TAG + "str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def dump(values: Any) -> str:
    """Return plain data as YAML that `parse` reads back to the same data."""
    text: str = yaml.dump(values, Dumper=_Dumper, width=110, sort_keys=False, allow_unicode=True)
    return text


def parse(text: str, source: str) -> tuple[Node, list[Problem]]:
    """Read one YAML document.

    Args:
        text: The document.
        source: What to call it in messages.

    Returns:
        The document (an empty one has the value None) and the problems that leave the rest readable.

    Raises:
        InvalidRecipe: It is not YAML.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return Node(None, Place(source)), []
        builder = _Builder(source)
        return builder.build(root, (), Place(source)), builder.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise InvalidRecipe([Problem(Place(source, line), "", _syntax(error, text, line))]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not YAML: the character {chr(error.character)!r} is not allowed"
        raise InvalidRecipe([Problem(Place(source, line), "", message)]) from error
    except RecursionError:
        raise InvalidRecipe([Problem(Place(source), "", "nested too deeply")]) from None


def read(path: Path, source: str) -> tuple[Node, list[Problem]]:
    """Read a YAML file; as `parse`.

    Raises:
        InvalidRecipe: It cannot be read, is not UTF-8 or is not YAML.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8 text (byte {error.object[error.start]:#04x}). Save it as UTF-8"
        raise InvalidRecipe([Problem(Place(source, line), "", message)]) from error
    except OSError as error:
        raise InvalidRecipe([Problem(Place(source), "", f"cannot be read: {error.strerror}")]) from error
    return parse(text, source)


class _Builder:
    """Turns composed YAML nodes into ours, noting problems that leave the rest readable."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self._open: list[int] = []
        self._count = 0

    def build(self, node: Any, path: tuple[str, ...], place: Place) -> Node:
        self._count += 1
        if self._count > MAX_NODES:
            raise InvalidRecipe([Problem(place, "", f"too long: more than {MAX_NODES} values")])
        if id(node) in self._open:
            raise InvalidRecipe([Problem(place, ".".join(path), "an alias that contains itself")])
        self._open.append(id(node))
        try:
            return Node(self._value(node, path, place), place)
        finally:
            self._open.pop()

    def _value(self, node: Any, path: tuple[str, ...], place: Place) -> Any:
        name = node.tag.removeprefix(TAG)
        known = {MappingNode: ("map",), SequenceNode: ("seq",)}.get(type(node), ("str", *PLAIN))
        if name not in known:
            self._note(place, path, f"the tag {_short(node.tag)} is not allowed: a recipe is plain data")
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(n, (*path, str(i)), self._place(n)) for i, n in enumerate(node.value)]
        if name != "str" and not PLAIN[name].fullmatch(node.value):
            self._note(place, path, f"'{node.value}' is not of the type that its tag !!{name} says")
            return None
        try:
            return scalar(name, node.value)
        except ValueError:  # Python reads no integer of thousands of digits, and no argument takes one
            return node.value

    def _mapping(self, node: Any, path: tuple[str, ...]) -> dict[str, Node]:
        values: dict[str, Node] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, ScalarNode):
                self._note(place, path, "a key should be a word")
                continue
            key = key_node.value
            if key == "<<":
                self._note(place, path, "merge keys (<<) are not YAML 1.2. Use 'extends' or write it out")
            elif key in values:
                first = values[key].place
                line = first.line if first else None
                self._note(place, (*path, key), f"given twice, first in line {line}. Remove one")
            else:
                values[key] = self.build(value_node, (*path, key), place)
        return values

    def _place(self, node: Any) -> Place:
        return Place(self.source, node.start_mark.line + 1)

    def _note(self, place: Place, path: tuple[str, ...], message: str) -> None:
        self.problems.append(Problem(place, ".".join(path), f"{message}."))


def scalar(name: str, text: str) -> Any:
    """Return the value of a scalar of YAML 1.2's core schema; `name` is its type there, such as "int"."""
    if name == "null":
        return None
    if name == "bool":
        return text.lower() == "true"
    if name == "int":
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if name == "float":
        bare = text.lower().lstrip("+-").lstrip(".")
        if bare in ("inf", "nan"):
            return -math.inf if text[0] == "-" else float(bare)
        return float(text)
    return text


def _syntax(error: Any, text: str, line: int | None) -> str:
    lines = text.splitlines()
    if line is not None and line <= len(lines) and "\t" in lines[line - 1][: error.problem_mark.column + 1]:
        return "not YAML: a tab. Indent with spaces"
    if "single document" in str(error.context):
        return "not a recipe: a second document begins here (---). Keep one per file"
    context = f" ({error.context})" if error.context else ""
    return f"not YAML: {error.problem}{context}"


def _short(tag: str) -> str:
    return tag if tag.startswith("!") else "!!" + tag.removeprefix(TAG)
