"""JSON Schema of recipes, for editors: completion, documentation on hover, and misspelt words underlined.

It is laxer than the checker in one point: it misses no required argument, because `extends` may provide it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtdiff.argument_check import expected
from mtdiff.recipe.sections import (
    SCHEMA,
    SECTIONS,
    PartSection,
    RolesSection,
    Sections,
    SettingsSection,
)
from mtdiff.registry import Nested, Part, Registry
from mtdiff.signature import Argument, argument_model

Schema = dict[str, Any]


def json_schema(*, sections: Sections = SECTIONS) -> Schema:
    """Return the JSON Schema (draft 2020-12) of a recipe, with all registered parts."""
    definitions: Schema = {}
    properties: Schema = {
        "schema": {"const": SCHEMA, "description": "Version of the recipe format."},
        "extends": {
            "type": "string",
            "description": "A recipe that this one changes: a path or a shipped name.",
        },
        "imports": {
            "type": "array",
            "items": {"type": "string"},
            "default": [],
            "description": "Modules that register third-party parts.",
        },
        "vary": {"type": "object", "description": "Axes of an ablation: key -> list of values."},
    }
    for key, section in sections.items():
        if isinstance(section, PartSection):
            found = _parts(section.registry, definitions, section.default)
        elif isinstance(section, RolesSection):
            default = dict(section.default)
            part = {"oneOf": [*_parts(section.registry, definitions, None)["oneOf"], {"type": "null"}]}
            found = {"type": ["object", "null"], "default": default}
            if section.roles:
                found |= {"properties": dict.fromkeys(section.roles, part), "additionalProperties": False}
            else:
                found |= {"additionalProperties": part}
        elif isinstance(section, SettingsSection):
            found = _arguments(section.part(key), definitions, nested=section.nested)
            found["type"] = ["object", "null"]
        else:
            argument = Argument(name=key, annotation=section.annotation, default=section.default)
            found = _argument(argument, definitions)
        properties[key] = found | ({"description": section.doc} if section.doc else {})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mtdiff recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _parts(registry: Registry, definitions: Schema, default: str | None, without: tuple[str, ...] = ()) -> Schema:
    """Return `oneOf` a bare name, a name with its arguments, or arguments of a part named elsewhere."""
    names = registry.names()
    variants: list[Schema] = [{"type": "string", "enum": names}] if names else []
    anywhere: Schema = {}
    for name in names:
        part = registry[name]
        where = f"{registry.kind}.{name}" + ("".join(f"-{key}" for key in without))
        if where not in definitions:
            definitions[where] = {}  # a part may contain its own kind
            variant = _arguments(part, definitions, without=without)
            variant["properties"] = {"name": {"const": name, "description": part.summary}} | variant["properties"]
            definitions[where] = variant | {"required": ["name"], "title": name, "description": part.summary}
        variants.append({"$ref": f"#/$defs/{where}"})
        anywhere |= dict.fromkeys(definitions[where].get("properties", {}), True)
    anywhere.pop("name", None)
    variants.append(
        {
            "type": "object",
            "not": {"required": ["name"]},
            "properties": anywhere,
            "additionalProperties": False,
            "description": f"Arguments of the {registry.kind} named in 'extends', or of the default one.",
        }
    )
    return {"oneOf": variants} | ({"default": default} if default else {})


def _arguments(
    part: Part,
    definitions: Schema,
    *,
    nested: Mapping[str, Nested] | None = None,
    without: tuple[str, ...] = (),
) -> Schema:
    properties: Schema = {}
    for key, argument in part.arguments.items():
        if key in without:
            continue
        mark = (nested or {}).get(key, argument.nested)
        if mark is None:
            properties[key] = _argument(argument, definitions)
            continue
        found = _parts(mark.registry, definitions, None, mark.without)
        if argument.optional:
            found["oneOf"].append({"type": "null"})
        if not argument.required:
            found["default"] = argument.default
        properties[key] = found | ({"description": argument.doc} if argument.doc else {})
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _argument(argument: Argument, definitions: Schema) -> Schema:
    schema = argument_model("one", {argument.name: argument}).model_json_schema()
    definitions.update(schema.get("$defs", {}))
    found: Schema = schema["properties"][argument.name]
    found.pop("title", None)
    found.setdefault("description", f"{expected(argument.annotation).capitalize()}.")
    return found
