"""`vary:`: one recipe that stands for a grid of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mtdiff.argument_check import show
from mtdiff.errors import RecipeError, choices
from mtdiff.recipe.finding import find_recipe
from mtdiff.recipe.recipe import Recipe, load_recipe

_SECTION = "ablation"
_RECIPE = "recipe"
_SHARED = ("suite", "data", "evaluation")  # what a row of another recipe has from the grid's, to be comparable
_OPTIMISER = (
    "best_episodes", "loss", "timestep_bias", "learning_rate", "learning_rate_schedule", "warmup", "weight_decay",
    "max_grad_norm", "ema_decay", "ema_every", "ema_start",
)  # fmt: skip
"""Of training, what stays its own; updates and batches are the grid's."""
_Axes = dict[str, list[tuple[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One recipe of a grid.

    Attributes:
        coordinates: axis -> what its value is called; empty where nothing is varied.
        recipe: checked, without `vary` and `ablation`.
        named: name of the row that it is of, if that is not one of the grid.
        pooled: axes whose values are repetitions of a row.
    """

    coordinates: dict[str, str]
    recipe: Recipe
    named: str | None = None
    pooled: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The coordinates in one line."""
        return ", ".join(([self.named] if self.named else []) + _spelt(self.coordinates))

    @property
    def row(self) -> str:
        """What it is called together with its repetitions: the recipe's name where nothing else is varied."""
        own = {key: label for key, label in self.coordinates.items() if key not in self.pooled}
        return self.named or ", ".join(_spelt(own)) or self.recipe.name

    @property
    def repetition(self) -> str:
        """Which of its row's repetitions it is; empty where there is only one."""
        return ", ".join(_spelt({key: label for key, label in self.coordinates.items() if key in self.pooled}))


def variants(recipe: Recipe) -> list[Variant]:
    """Return every recipe that a recipe stands for, the last axis changing fastest; then those of its named rows.

    An axis is a dotted key with a list of values, `backbone: [gpt2, residual_mlp]`, or with values by name where they
    are too long to be one: `suite.tasks: {one: [reach], ten: mt10}`. A value is merged as on the command line: another
    `name` replaces a whole part. The section `ablation` leaves points out and adds rows, also of other recipes.

    Raises:
        RecipeError: `vary` is no mapping, an axis is empty, values or rows are called alike, an exclusion names what is
            not there or leaves nothing, or recipes of the grid are wrong: each with its coordinates.
    """
    extra: Mapping[str, Any] = recipe.values.get(_SECTION) or {}
    rows = {name: dict(changes) for name, changes in extra.get("rows", {}).items() if changes is not None}
    if recipe.vary is None and not rows:
        return [Variant(coordinates={}, recipe=recipe)]
    axes: _Axes = {}
    if recipe.vary is not None:
        if not isinstance(recipe.vary, Mapping) or not recipe.vary:
            got = show(recipe.vary)
            raise RecipeError(f"{recipe.name}: vary: should be a mapping of keys to lists of values, got {got}.")
        axes = {key: _axis(recipe, key) for key in recipe.vary}
    pooled = tuple(extra.get("pool", ("seed",)))
    for number, key in enumerate(pooled):
        if key not in (*axes, "seed"):
            raise _fault(recipe, f"pool.{number}", choices("axis", key, axes))
    excluded = [_exclusion(recipe, number, axes) for number in range(len(extra.get("exclude", ())))]
    base = {key: value for key, value in recipe.values.items() if key != _SECTION}
    bases = {
        name: _based(recipe, name, changes.pop(_RECIPE), base) for name, changes in rows.items() if _RECIPE in changes
    }
    checked: set[tuple[Any, ...]] = set()
    found: list[Variant] = []
    wrong: list[str] = []
    for named, points in _points(recipe, axes, pooled, rows):
        for point in points:
            coordinates = {key: label for key, (label, _) in point.items()}
            if any(all(coordinates.get(key) in labels for key, labels in one.items()) for one in excluded):
                continue
            changes = [f"{key}={json.dumps(value)}" for key, (_, value) in point.items()]
            changes += [f"{key}={json.dumps(value)}" for key, value in (rows[named] if named else {}).items()]
            begun = bases.get(named or "", base)
            # Whether parts fit together does not depend on a seed, and takes most of the time.
            alike = (named, *(label for key, label in coordinates.items() if not key.endswith("seed")))
            rules = () if alike in checked else None
            checked.add(alike)
            try:
                loaded = load_recipe(begun, changes, sections=recipe.sections, rules=rules)
            except RecipeError as error:
                where = ", ".join([f"row {named}"] * bool(named) + [f"{k}={label}" for k, label in coordinates.items()])
                wrong += [f"{recipe.name}: vary, {where}: {line}" for line in str(error).splitlines()]
                continue
            loaded = replace(loaded, name=recipe.name, path=recipe.path)
            found.append(Variant(coordinates=coordinates, recipe=loaded, named=named, pooled=pooled))
    if wrong:
        raise RecipeError("\n".join(wrong))
    if not found:
        raise _fault(recipe, "exclude", "leaves nothing of the grid.")
    _refuse_clashes(recipe, rows, found)
    return found


def _based(recipe: Recipe, name: str, other: Any, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return another recipe on the grid's data, with its budget and evaluation: what a row begins with."""
    place = f"rows.{name}.{_RECIPE}"
    if not isinstance(other, str):
        raise _fault(recipe, place, f"should be the name or path of a recipe, got {show(other)}.")
    try:
        path = find_recipe(other, beside=recipe.path.parent if recipe.path else None)
        loaded = load_recipe(path, sections=recipe.sections)
    except RecipeError as error:
        raise _fault(recipe, place, str(error)) from error
    values = {**loaded.values, **{key: base[key] for key in _SHARED if key in base}}
    if "training" in base and "training" in values:
        own = {key: values["training"][key] for key in _OPTIMISER if key in values["training"]}
        values["training"] = {**base["training"], **own}
    return values


def _points(
    recipe: Recipe, axes: _Axes, pooled: Sequence[str], rows: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str | None, list[dict[str, tuple[str, Any]]]]]:
    """Yield the grid, named None, and every named row, each with its points: axis -> (label, value)."""

    def product(keys: Sequence[str]) -> list[dict[str, tuple[str, Any]]]:
        return [dict(zip(keys, point, strict=True)) for point in itertools.product(*(axes[key] for key in keys))]

    repeated = [key for key in axes if key in pooled]
    if len(repeated) < len(axes) or not rows:
        yield None, product(list(axes))
    for name, changes in rows.items():
        for key in repeated:
            if key in changes:
                raise _fault(recipe, f"rows.{name}.{key}", "every row has all values of this axis; leave it out.")
        yield name, product(repeated)


def _exclusion(recipe: Recipe, number: int, axes: _Axes) -> dict[str, list[str]]:
    """One entry of `exclude`: axis -> labels."""
    found: dict[str, list[str]] = {}
    for key, value in recipe.values[_SECTION]["exclude"][number].items():
        if key not in axes:
            raise _fault(recipe, f"exclude.{number}", choices("axis", key, axes))
        known = [label for label, _ in axes[key]]
        found[key] = [str(_called(one)) for one in (value if isinstance(value, list) else [value])]
        for label in found[key]:
            if label not in known:
                raise _fault(recipe, f"exclude.{number}.{key}", choices("value", label, known))
    if not found:
        raise _fault(recipe, f"exclude.{number}", "should name at least one axis, got {}.")
    return found


def _refuse_clashes(recipe: Recipe, rows: Mapping[str, Any], found: Sequence[Variant]) -> None:
    of_grid = {variant.row for variant in found if variant.named is None}
    for name in rows:
        if name in of_grid:
            raise _fault(recipe, f"rows.{name}", "a row of the grid is called so too; give this one another name.")


def _fault(recipe: Recipe, key: str, message: str) -> RecipeError:
    place = recipe.origin(f"{_SECTION}.{key.partition('.')[0]}")
    return RecipeError(f"{place}: {_SECTION}.{key}: {message}")


def _spelt(coordinates: Mapping[str, str]) -> list[str]:
    """`key=label` of every axis; of a key just so many of its last steps as no other axis ends in."""
    found = []
    for key, label in coordinates.items():
        steps = key.split(".")
        for count in range(1, len(steps) + 1):
            short = ".".join(steps[-count:])
            if not any(other != key and f".{other}".endswith(f".{short}") for other in coordinates):
                break
        found.append(f"{short}={label}")
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
