"""Values that know where they were written, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtdiff.errors import RecipeError


@dataclass(frozen=True)
class Place:
    """Where a value was written: `file:line`, a file, or "command line"."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Node:
    """A value and its place. `value` is a `dict[str, Node]`, a `list[Node]` or a scalar."""

    value: Any
    place: Place | None = None

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, path: tuple[Any, ...]) -> Node | None:
        """Return the node below this one, or None."""
        node = self
        for step in path:
            try:
                node = node.value[step]
            except (KeyError, IndexError, TypeError):
                return None
            if not isinstance(node, Node):  # a string has items too
                return None
        return node

    def nearest_place(self, path: tuple[Any, ...]) -> Place | None:
        """Return where the value at `path` was written, or the closest one around it that has a place."""
        for end in range(len(path), -1, -1):
            node = self.at(path[:end])
            if node is not None and node.place is not None:
                return node.place
        return None


@dataclass(frozen=True)
class Problem:
    """Something wrong in a recipe: where, at which key, and what."""

    place: Place | None
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.place, self.key, self.message) if part)


class InvalidRecipe(RecipeError):
    """A recipe with everything that is wrong in it, one problem a line."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


def from_plain(value: Any, place: Place | None = None, path: tuple[str, ...] = ()) -> Node:
    """Return Python data as nodes that share one place.

    Raises:
        InvalidRecipe: Something in it cannot be said in YAML.
    """
    if isinstance(value, Mapping):
        return Node({str(k): from_plain(v, place, (*path, str(k))) for k, v in value.items()}, place)
    if isinstance(value, list | tuple):
        return Node([from_plain(v, place, (*path, str(i))) for i, v in enumerate(value)], place)
    if value is None or isinstance(value, bool | int | float | str):
        return Node(value, place)
    message = f"should be plain data (text, number, list, mapping), got {type(value).__name__}"
    raise InvalidRecipe([Problem(place, ".".join(path), message)])
