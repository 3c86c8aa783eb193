"""From files and command line to one tree: `extends`, and how one layer goes over another.

Mappings merge deeply, lists and scalars replace. A part whose `name` changes is replaced whole, so that no
argument of the old part survives in the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtdiff.errors import RecipeError
from mtdiff.recipe.finding import find_recipe, show_path
from mtdiff.recipe.places import InvalidRecipe, Node, Place, Problem, from_plain
from mtdiff.recipe.sections import PartSection, RolesSection, Sections, SettingsSection
from mtdiff.recipe.yaml_lines import parse, read

COMMAND_LINE = Place("command line")


# --- reading ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Layers:
    """A recipe with its parents and overrides merged, unchecked.

    Args:
        tree: Sections only; a bare name is already `{name: ...}`.
        files: The recipe's file and those that it extends, child first.
        imports: Modules to import, parents' first, each with the place that names it.
        vary: The axes of an ablation, as written.
        problems: What is wrong with the layers themselves.
    """

    tree: Node
    files: tuple[Path, ...]
    imports: dict[str, Place | None]
    vary: Any
    problems: list[Problem]


def read_layers(source: Any, overrides: Iterable[str], *, sections: Sections, schema: int) -> Layers:
    """Read a recipe, what it extends, and overrides.

    Raises:
        RecipeError: A file is missing or is not YAML, `extends` goes round in a circle, or a schema is newer.
    """
    documents: list[Node] = []  # child first
    files: list[Path] = []
    problems: list[Problem] = []
    beside: Path | None = None
    place: Place | None = None
    while source is not None:
        if isinstance(source, Mapping):
            document = from_plain(source)
        else:
            try:
                path = find_recipe(source, beside=beside)
            except RecipeError as error:
                if place is None:
                    raise
                raise InvalidRecipe([Problem(place, "extends", str(error))]) from error
            if path in files:
                chain = " -> ".join(show_path(file) for file in (*files[files.index(path) :], path))
                raise InvalidRecipe([Problem(place, "extends", f"goes round in a circle: {chain}.")])
            files.append(path)
            beside = path.parent
            document, found = read(path, show_path(path))
            problems += found
        document = _mapping(document, schema)
        documents.append(document)
        parent = document.value.get("extends", Node(None))
        source, place = parent.value, parent.place
        if source is not None and not isinstance(source, str):
            message = "should be the path of a recipe or the name of a shipped one."
            raise InvalidRecipe([Problem(place, "extends", message)])
    tree = _default_roles(sections, without=documents[-1])
    for document in reversed(documents):
        tree = replace(merge(tree, spread(document, sections), sections), place=documents[0].place)
    line, found = read_overrides(overrides, sections)
    problems += found
    imports = _imports([*reversed(documents), line], problems)
    tree = replace(merge(tree, line, sections), place=tree.place)
    vary = tree.value.get("vary", Node(None)).plain()
    values = {k: n for k, n in tree.value.items() if k not in ("extends", "imports", "schema", "vary")}
    return Layers(tree=replace(tree, value=values), files=tuple(files), imports=imports, vary=vary, problems=problems)


def _mapping(document: Node, schema: int) -> Node:
    if document.value is None:
        document = replace(document, value={})
    if not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else repr(document.value)
        message = f"should be a mapping of sections to parts and settings, got {kind}"
        raise InvalidRecipe([Problem(document.place, "", message)])
    version = document.value.get("schema", Node(schema))
    if isinstance(version.value, bool) or not isinstance(version.value, int) or version.value < 1:
        raise InvalidRecipe([Problem(version.place, "schema", f"should be {schema}, got {version.value!r}.")])
    if version.value > schema:
        message = f"this recipe is of schema {version.value}, and this mtdiff reads up to {schema}. Upgrade mtdiff."
        raise InvalidRecipe([Problem(version.place, "schema", message)])
    return document


def _default_roles(sections: Sections, without: Node) -> Node:
    """Return the lowest layer: the roles that a recipe has whose lowest file does not list any."""
    return Node({
        key: Node({role: Node({"name": Node(name)}) for role, name in section.default.items()})
        for key, section in sections.items()
        if isinstance(section, RolesSection) and key not in without.value and not section.optional
    })  # fmt: skip


def _imports(documents: list[Node], problems: list[Problem]) -> dict[str, Place | None]:
    """Return the modules of all layers: a parent's parts stay importable whatever its children import."""
    modules: dict[str, Place | None] = {}
    for document in documents:
        node = document.value.get("imports", Node(None))
        entries = node.value if isinstance(node.value, list) else [] if node.value is None else [node]
        for entry in entries:
            if isinstance(entry.value, str):
                modules.setdefault(entry.value, entry.place)
            else:
                message = "should be a list of module names."
                problems.append(Problem(entry.place, "imports", message))
    return modules


def read_overrides(overrides: Iterable[str], sections: Sections) -> tuple[Node, list[Problem]]:
    """Return `key.path=value` arguments as one layer; a value is YAML."""
    layer = Node({}, COMMAND_LINE)
    problems: list[Problem] = []
    for text in overrides:
        key, equals, value_text = text.partition("=")
        steps = tuple(key.strip().split("."))
        if not equals or not all(steps):
            problems.append(Problem(COMMAND_LINE, "", f"'{text}' should be key=value or key.path=value."))
            continue
        if steps[0] in ("extends", "schema"):
            problems.append(Problem(COMMAND_LINE, steps[0], "belongs in a file."))
            continue
        try:
            parsed, found = parse(value_text, COMMAND_LINE.source)
        except InvalidRecipe as error:
            problems += [Problem(COMMAND_LINE, key, problem.message) for problem in error.problems]
            continue
        problems += [Problem(COMMAND_LINE, f"{key}.{problem.key}".rstrip("."), problem.message) for problem in found]
        node = _unlined(parsed)
        for step in reversed(steps):
            node = Node({step: node}, COMMAND_LINE)
        # Overrides are one layer: `backbone.width=8 backbone=gpt2` is gpt2 of width 8 in either order.
        layer = merge(layer, spread(node, sections), sections, nameless=False)
    return layer, problems


def _unlined(node: Node) -> Node:
    value = node.value
    if isinstance(value, dict):
        value = {key: _unlined(inner) for key, inner in value.items()}
    elif isinstance(value, list):
        value = [_unlined(inner) for inner in value]
    return Node(value, COMMAND_LINE)


# --- merging ----------------------------------------------------------------------------------------------


def spread(document: Node, sections: Sections) -> Node:
    """Write out bare names: `backbone: gpt2` as `backbone: {name: gpt2}`."""

    def named(node: Node) -> Node:
        return Node({"name": node}, node.place) if isinstance(node.value, str) else node

    values = dict(document.value)
    for key, node in values.items():
        section = sections.get(key)
        if isinstance(section, PartSection):
            values[key] = named(node)
        elif isinstance(section, RolesSection) and isinstance(node.value, dict):
            values[key] = replace(node, value={role: named(part) for role, part in node.value.items()})
        elif isinstance(section, SettingsSection) and isinstance(node.value, dict):
            inner = {k: named(n) if k in section.nested else n for k, n in node.value.items()}
            values[key] = replace(node, value=inner)
    return replace(document, value=values)


def merge(base: Node, over: Node, sections: Sections, *, nameless: bool = True) -> Node:
    """Return one layer over another.

    Args:
        base: The layer below.
        over: The layer above; both written out by `spread`.
        sections: Says which values are parts.
        nameless: Whether a part without a name in `base` has its section's default name.
    """
    merged = dict(base.value)
    for key, node in over.value.items():
        section = sections.get(key)
        below = merged.get(key)
        if below is None or (isinstance(section, SettingsSection) and below.value is None):
            merged[key] = node
        elif isinstance(section, PartSection):
            merged[key] = _merge_part(below, node, section.default if nameless else None)
        elif isinstance(section, SettingsSection) and node.value is None:
            continue  # a heading with nothing under it changes nothing
        elif isinstance(section, RolesSection | SettingsSection) and _both_mappings(below, node):
            inner = dict(below.value)
            for name, value in node.value.items():
                inner[name] = _merge_part(inner[name], value, None) if name in inner else value
            merged[key] = replace(node, value=inner)
        else:
            merged[key] = _merge_part(below, node, None)
    return replace(base, value=merged)


def _merge_part(base: Node, over: Node, default: str | None) -> Node:
    if not _both_mappings(base, over):
        return over
    was, now = base.value.get("name"), over.value.get("name")
    if now is not None and now.value != (was.value if was is not None else default or now.value):
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = _merge_part(merged[key], node, None) if key in merged else node
    return replace(over, value=merged)  # what is wrong with the whole is more likely the change's fault


def _both_mappings(base: Node, over: Node) -> bool:
    return isinstance(base.value, dict) and isinstance(over.value, dict)
