"""Is a merged recipe valid? Fills in every default, or lists everything that is wrong, before work starts."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from mtdiff.argument_check import check_arguments, show
from mtdiff.errors import MTDiffError, choices
from mtdiff.recipe.layers import Layers
from mtdiff.recipe.places import InvalidRecipe, Node, Place, Problem, from_plain
from mtdiff.recipe.sections import (
    RESERVED,
    PartSection,
    RolesSection,
    Sections,
    SettingsSection,
    ValueSection,
)
from mtdiff.registry import Argument, Nested, Part, Registry

Rule = Callable[[dict[str, Any]], Iterable[tuple[str, str]]]
"""Looks at resolved values across sections and yields (key, message) for combinations that cannot work."""

RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Register a rule; a decorator. mtdiff's own rules live in `mtdiff.rules`.

    A rule sees a recipe whose every section is valid by itself: `values["backbone"]["width"]`.
    """
    RULES.append(function)
    return function


def house_rules() -> list[Rule]:
    """Return all registered rules."""
    if importlib.util.find_spec("mtdiff.rules"):
        importlib.import_module("mtdiff.rules")
    return RULES


def import_modules(modules: Mapping[str, Place | None], *, allow: bool) -> list[Problem]:
    """Import the modules that register third-party parts, and return what went wrong."""
    problems = []
    for module, place in modules.items():
        if not allow:
            message = (
                f"'{module}' would be imported, which runs its code, and this recipe is not trusted to do so."
                f" Import {module} yourself if you trust it."
            )
            problems.append(Problem(place, "imports", message))
            continue
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            itself = f"{module}.".startswith(f"{error.name}.")
            what = "it" if itself else f"'{error.name}', which it needs,"
            message = f"cannot import '{module}': {what} is not installed here."
            problems.append(Problem(place, "imports", message))
        except Exception as error:  # somebody else's code: anything can happen, and the user must hear what
            message = f"cannot import '{module}': {type(error).__name__}: {error}"
            problems.append(Problem(place, "imports", message))
    return problems


def resolve(layers: Layers, *, sections: Sections, rules: Iterable[Rule] | None, allow_imports: bool) -> dict[str, Any]:
    """Return all values with defaults, in the order of `sections`.

    Raises:
        InvalidRecipe: With everything that is wrong.
    """
    failed = import_modules(layers.imports, allow=allow_imports)
    checker = _Checker(layers.tree, unknown_parts=not failed)
    checker.problems += [*layers.problems, *failed]
    for key in layers.tree.value:
        if key not in sections:
            checker.note((key,), choices("section", key, [*sections, *RESERVED]))
    values: dict[str, Any] = {"imports": list(layers.imports)} if layers.imports else {}
    chosen = layers.tree.value.get("pipeline")
    kind = chosen.value if chosen is not None else getattr(sections.get("pipeline"), "default", None)
    for key, section in sections.items():
        node = layers.tree.value.get(key)
        if node is None and getattr(section, "optional", False):
            continue
        if kind not in (getattr(section, "pipelines", ()) or (kind,)):
            if node is not None and not _inherited(node, chosen):
                checker.note((key,), f"a {kind} has none. Leave it out, or take another 'pipeline'.")
            continue
        if isinstance(section, PartSection):
            values[key] = checker.part((key,), node, section.registry, section.default)
        elif isinstance(section, RolesSection):
            values[key] = checker.roles(key, node, section)
        elif isinstance(section, SettingsSection):
            values[key] = checker.settings(key, node, section)
        else:
            values[key] = checker.value(key, node, section)
    if not checker.problems:
        # A rule may rely on every argument being known and of its type, not on its being in range.
        for one in house_rules() if rules is None else rules:
            for key, message in one(values):
                checker.note(tuple(key.split(".")), message)
    checker.problems += checker.out_of_range
    if checker.problems:
        raise InvalidRecipe(_in_order(checker.problems))
    return values


def _inherited(node: Node, chosen: Node | None) -> bool:
    """Whether a section comes from a recipe of another pipeline, beneath the one that chose this pipeline."""
    if chosen is None or chosen.place is None or node.place is None:
        return False
    return node.place.source not in (chosen.place.source, "command line")


def _in_order(problems: list[Problem]) -> list[Problem]:
    """Sort by line within a file; files stay in the order in which they first appear."""
    sources = list(dict.fromkeys(p.place.source if p.place else "" for p in problems))

    def position(problem: Problem) -> tuple[int, int]:
        place = problem.place
        return sources.index(place.source if place else ""), (place.line or 0) if place else 0

    return sorted(problems, key=position)


class _Checker:
    """Collects problems, each with the place of the value it is about."""

    def __init__(self, tree: Node, *, unknown_parts: bool) -> None:
        self.tree = tree
        self.problems: list[Problem] = []
        self.out_of_range: list[Problem] = []
        # When an import failed its parts are not known, and to call them unknown would mislead.
        self.unknown_parts = unknown_parts

    def note(self, path: tuple[Any, ...], message: str) -> None:
        self.problems.append(self.problem(path, message))

    def problem(self, path: tuple[Any, ...], message: str) -> Problem:
        return Problem(self.tree.nearest_place(path), ".".join(map(str, path)), message)

    def value(self, key: str, node: Node | None, section: ValueSection) -> Any:
        argument = Argument(name=key, annotation=section.annotation, default=section.default)
        given = {key: node.plain()} if node is not None else {}
        filled, _, problems = check_arguments("the recipe", {key: argument}, given)
        for path, message in problems:
            self.note(path, message)
        return filled.get(key)

    def roles(self, key: str, node: Node | None, section: RolesSection) -> dict[str, Any]:
        if node is None or node.value is None:
            return {}
        if not isinstance(node.value, dict):
            self.note((key,), f"should be a mapping of roles to parts, got {show(node.plain())}.")
            return {}
        values = {}
        # In one order however they are written: it decides the order of tokens, and the hash does not see it.
        order = [*section.default, *sorted(set(node.value) - set(section.default))]
        for role in (role for role in order if role in node.value):
            part = node.value[role]
            if section.roles and role not in section.roles:
                self.note((key, role), choices("role", role, section.roles))
            elif part.value is not None:
                values[role] = self.part((key, role), part, section.registry, section.default.get(role))
        return values

    def settings(self, key: str, node: Node | None, section: SettingsSection) -> dict[str, Any]:
        mapping = node.value if node is not None and node.value is not None else {}
        if not isinstance(mapping, dict):
            self.note((key,), f"should be a mapping of settings, got {show(Node(mapping).plain())}.")
            return {}
        part = section.part(key)
        before = len(self.problems)
        values = self.arguments((key,), part, mapping, section.nested)
        if len(self.problems) == before:
            self.ranges(key, part, values)
        return values

    def ranges(self, key: str, part: Part, values: Mapping[str, Any]) -> None:
        """Note what the class of settings says about values that are of their types.

        It raises at the first: that one is set back to its default, until there is nothing left to say.
        """
        tried = dict(values)
        while True:
            try:
                part.build(tried)
            except (ValueError, MTDiffError) as error:
                # The class knows what its arguments mean together. "width: should be ..." names one of them.
                head, colon, tail = str(error).partition(": ")
                named = bool(colon) and head in part.arguments
                path = (key, head) if named else (key,)
                self.out_of_range.append(self.problem(path, tail if named else str(error)))
                if not named or head not in tried or part.arguments[head].required:
                    return
                del tried[head]
            else:
                return

    def part(
        self,
        path: tuple[Any, ...],
        node: Node | None,
        registry: Registry,
        default: str | None,
        nested: Nested | None = None,
    ) -> dict[str, Any]:
        if node is not None and isinstance(node.value, str):
            node = Node({"name": node}, node.place)
        if node is not None and not isinstance(node.value, dict):
            names = ", ".join(registry.names())
            got = show(node.plain())
            self.note(path, f"should be a {registry.kind} or a mapping with its name, got {got}. Allowed: {names}.")
            return {}
        mapping = dict(node.value) if node is not None else {}
        name_node = mapping.pop("name", None)
        name = name_node.value if name_node is not None else default
        if name is None:
            names = ", ".join(registry.names()) or "none"
            self.note(path, f"needs the name of a {registry.kind}. Allowed: {names}.")
            return {}
        if not isinstance(name, str) or name not in registry:
            if self.unknown_parts:
                self.note((*path, "name"), choices(registry.kind, show(name).strip("'"), registry.names()))
            return {}
        part = registry[name]
        without = [key for key in (nested.without if nested else ()) if key in mapping]
        for key in without:
            assert nested is not None
            self.note((*path, key), nested.because.format(key=key) + ".")
            del mapping[key]
        exclude = nested.without if nested else ()
        return {"name": name, **self.arguments(path, part, mapping, {}, exclude)}

    def arguments(
        self,
        path: tuple[Any, ...],
        part: Part,
        mapping: Mapping[str, Node],
        nested: Mapping[str, Nested],
        exclude: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Check the arguments of a part, and the parts that they name."""
        arguments = {
            key: replace(argument, nested=nested.get(key, argument.nested))
            for key, argument in part.arguments.items()
            if key not in exclude
        }
        given = {key: node.plain() for key, node in mapping.items()}
        values, _, problems = check_arguments(part.name, arguments, given, runtime=part.runtime)
        for below, message in problems:
            self.note((*path, *below), message)
        for key, argument in arguments.items():
            if argument.nested is not None and key in values:
                node = mapping.get(key) or from_plain(argument.default)
                if node.value is not None or not argument.optional:
                    values[key] = self.part((*path, key), node, argument.nested.registry, None, argument.nested)
        return values
