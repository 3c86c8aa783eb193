"""A recipe: a whole experiment, resolved and checked."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtdiff.errors import RecipeError, closest
from mtdiff.recipe.check import Rule, resolve
from mtdiff.recipe.layers import read_layers
from mtdiff.recipe.places import Node
from mtdiff.recipe.sections import (
    EXCLUDED,
    LATER,
    SCHEMA,
    SECTIONS,
    PartSection,
    RolesSection,
    Sections,
    SettingsSection,
)
from mtdiff.recipe.yaml_lines import dump
from mtdiff.whole import write_text


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """A checked recipe. `load_recipe` makes one.

    Args:
        name: The file's name without suffix, or "recipe".
        path: The file, or None for a recipe made of a mapping.
        files: The file and those that it extends, child first.
        values: Everything, defaults included: section -> arguments. JSON-able; do not change it.
        vary: The axes of an ablation as written, or None. They are not part of `values` or of the hash.
        sections: The table that the values were checked against.
        tree: Where everything was written.
    """

    name: str
    path: Path | None
    files: tuple[Path, ...]
    values: dict[str, Any]
    vary: Any
    sections: Sections
    tree: Node

    def get(self, key: str) -> Any:
        """Return the value at a dotted key: `recipe.get("backbone.width")`.

        Raises:
            RecipeError: There is no such key.
        """
        value: Any = self.values
        done: list[str] = []
        for step in key.split("."):
            if not isinstance(value, Mapping) or step not in value:
                known = list(value) if isinstance(value, Mapping) else []
                where = f" in {'.'.join(done)}" if done else ""
                raise RecipeError(f"{key}: there is no '{step}'{where}.{closest(step, known)}")
            value = value[step]
            done.append(step)
        return value

    def origin(self, key: str) -> str:
        """Return where the value at a dotted key comes from: "file:line", "command line" or "default"."""
        node = self.tree.at(tuple(key.split(".")))
        return str(node.place) if node is not None and node.place is not None else "default"

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield every (dotted key, value) that is not itself a mapping with values in it."""
        yield from _leaves(self.values, ())

    def build(self, section: str, **runtime: Any) -> Any:
        """Build what a section names.

        Args:
            section: A section of one part or of settings, or one of roles (gives `{role: part}`).
            **runtime: Sizes and other parts; a part is given those that it declared.

        Raises:
            RecipeError: A part does not accept its arguments after all.
        """
        kind, value = self.sections[section], self.values[section]
        if isinstance(kind, PartSection):
            return kind.registry.build(value, **runtime)
        if isinstance(kind, RolesSection):
            return {role: kind.registry.build(spec, **runtime) for role, spec in value.items()}
        if isinstance(kind, SettingsSection):
            return kind.part(section).build(value)
        return value

    def hash(self, fingerprint: str = "") -> str:
        """Return 12 hex digits that are equal when training would give the same result.

        Neither comments, order and `extends`, nor worker counts, trackers and the evaluation count.

        Args:
            fingerprint: The training data's.
        """
        return _digest(_without(self.values, (*EXCLUDED, *_unset(self.values))), fingerprint)

    def section_hash(self, *sections: str, fingerprint: str = "") -> str:
        """Return 12 hex digits of some sections: `recipe.section_hash("suite", "data")` names a dataset."""
        values = {section: self.values[section] for section in sections}
        return _digest(_without(values, [key for key in (*EXCLUDED, *_unset(values)) if "." in key]), fingerprint)

    def to_yaml(self) -> str:
        """Return the resolved recipe, which needs no other file and loads to equal values."""
        return dump({"schema": SCHEMA, **self.values})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the resolved recipe, whole or not at all.

        Raises:
            StorageFault: The disk is full, or the folder is missing or cannot be written.
        """
        write_text(Path(path), self.to_yaml())


def load_recipe(
    source: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Iterable[str] = (),
    *,
    allow_imports: bool = True,
    sections: Sections = SECTIONS,
    rules: Iterable[Rule] | None = None,
) -> Recipe:
    """Read, merge and check a recipe.

    Args:
        source: A path, the name of a shipped recipe ("metaworld/planner_mt10"), or a mapping.
        overrides: `key.path=value` as on the command line; values are YAML.
        allow_imports: Whether the recipe may import the modules that it lists. False for a recipe of others.
        sections: The table of sections.
        rules: Checks across sections; None: all registered ones.

    Raises:
        RecipeError: There is no such recipe.
        InvalidRecipe: Everything that is wrong in it, each with file, line and key; a RecipeError.
    """
    layers = read_layers(source, overrides, sections=sections, schema=SCHEMA)
    values = resolve(layers, sections=sections, rules=rules, allow_imports=allow_imports)
    path = layers.files[0] if layers.files and not isinstance(source, Mapping) else None
    return Recipe(
        name=path.stem if path else "recipe",
        path=path,
        files=layers.files,
        values=values,
        vary=layers.vary,
        sections=sections,
        tree=layers.tree,
    )


def _leaves(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield ".".join((*path, key)), value


def _unset(values: Mapping[str, Any]) -> list[str]:
    """Return the keys of `LATER` that have the values which were the only ones before."""
    found = []
    for key, usual in LATER.items():
        section, _, argument = key.partition(".")
        if isinstance(values.get(section), Mapping) and values[section].get(argument) == usual:
            found.append(key)
    return found


def _without(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    kept = copy.deepcopy(dict(values))
    for key in keys:
        *parents, last = key.split(".")
        inner: Any = kept
        for step in parents:
            inner = inner.get(step, {})
        inner.pop(last, None)
    return kept


def _digest(values: Mapping[str, Any], fingerprint: str) -> str:
    content = {"schema": SCHEMA, "values": values, "fingerprint": fingerprint}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
