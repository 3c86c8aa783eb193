"""`vary:`: one recipe that stands for a grid of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mtdiff.argument_check import show
from mtdiff.errors import RecipeError
from mtdiff.recipe.recipe import Recipe, load_recipe


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One recipe of a grid.

    Attributes:
        coordinates: axis -> what its value is called; empty where nothing is varied.
        recipe: checked, without `vary`.
    """

    coordinates: dict[str, str]
    recipe: Recipe

    @property
    def name(self) -> str:
        """The coordinates in one line."""
        return ", ".join(f"{key.rpartition('.')[2]}={label}" for key, label in self.coordinates.items())


def variants(recipe: Recipe) -> list[Variant]:
    """Return every recipe that a recipe stands for, the last axis changing fastest.

    An axis is a dotted key with a list of values, `backbone: [gpt2, residual_mlp]`, or with values by name where they
    are too long to be one: `suite.tasks: {one: [reach], ten: mt10}`. A value is merged as on the command line: another
    `name` replaces a whole part.

    Raises:
        RecipeError: `vary` is no mapping, an axis is empty, two values are called alike, or recipes of the grid are
            wrong: each with its coordinates.
    """
    if recipe.vary is None:
        return [Variant(coordinates={}, recipe=recipe)]
    if not isinstance(recipe.vary, Mapping) or not recipe.vary:
        got = show(recipe.vary)
        raise RecipeError(f"{recipe.name}: vary: should be a mapping of keys to lists of values, got {got}.")
    axes = [[(key, label, value) for label, value in _axis(recipe, key)] for key in recipe.vary]
    found, wrong = [], []
    for point in itertools.product(*axes):
        changes = [f"{key}={json.dumps(value)}" for key, _, value in point]
        coordinates = {key: label for key, label, _ in point}
        try:
            loaded = load_recipe(recipe.values, changes, sections=recipe.sections)
        except RecipeError as error:
            where = ", ".join(f"{key}={label}" for key, label in coordinates.items())
            wrong += [f"{recipe.name}: vary, {where}: {line}" for line in str(error).splitlines()]
            continue
        found.append(Variant(coordinates=coordinates, recipe=replace(loaded, name=recipe.name, path=recipe.path)))
    if wrong:
        raise RecipeError("\n".join(wrong))
    return found


def _axis(recipe: Recipe, key: str) -> list[tuple[str, Any]]:
    values = recipe.vary[key]
    if not isinstance(values, list | Mapping) or not values:
        raise RecipeError(
            f"{recipe.name}: vary.{key}: should be a list of values, or values by name, got {show(values)}."
        )
    named = list(values.items()) if isinstance(values, Mapping) else [(_called(value), value) for value in values]
    named = [(str(label), value) for label, value in named]
    for label, _ in named:
        if sum(other == label for other, _ in named) > 1:
            raise RecipeError(f"{recipe.name}: vary.{key}: two values are called {label}; give them names.")
    return named


def _called(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name", show(value)))
    return value if isinstance(value, str) else show(value)
