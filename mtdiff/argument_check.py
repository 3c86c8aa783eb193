"""Do values fit a part's arguments? Messages say what was got, what is allowed and what was probably meant.

Pydantic decides what fits; the sentences are ours, because its own name neither the allowed values nor the
closest one.
"""

from __future__ import annotations

import collections.abc
import json
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mtdiff.errors import choices, closest
from mtdiff.signature import Argument, argument_model, members

Problem = tuple[tuple[Any, ...], str]
"""Where below the values, and what is wrong there."""


def check_arguments(
    title: str, arguments: Mapping[str, Argument], values: Mapping[str, Any], *, runtime: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Any], list[Problem]]:
    """Check values against arguments.

    Arguments that name a nested part are passed on as they are: whoever holds their registry checks them.

    Returns:
        (JSON-able values with defaults, the same as the types of the annotations, problems). Where there are
        problems, the first two hold only what fits.
    """
    from pydantic import ValidationError

    problems: list[Problem] = []
    known: dict[str, Any] = {}
    for key, value in values.items():
        if key in arguments:
            known[key] = value
        elif key in runtime:
            problems.append(((key,), f"comes from the data and cannot be set. Allowed: {_names(arguments)}."))
        else:
            allowed = f"Allowed: {_names(arguments)}.{closest(key, arguments)}"
            problems.append(((key,), f"{title} takes no '{key}'. {allowed}"))
    nested = {key for key, argument in arguments.items() if argument.nested is not None}
    filled, typed = {}, {}
    for key, argument in arguments.items():
        if key in nested:
            if argument.required and key not in known:
                problems.append(((), f"{title} needs '{key}'{_about(argument)}"))
            else:
                filled[key] = typed[key] = known.get(key, argument.default)
            continue
        # One model per argument: a value that does not fit must not hide the defaults of the others.
        given = {key: known[key]} if key in known else {}
        try:
            text = json.dumps(given)
        except (TypeError, ValueError):
            problems.append(((key,), f"should be {expected(argument.annotation)}, got {show(known[key])}."))
            continue
        try:
            model = argument_model(title, {key: argument}).model_validate_json(text)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            problems += _explain(argument, known.get(key), errors, title, key in known)
        else:
            filled[key] = model.model_dump(mode="json")[key]
            typed[key] = getattr(model, key)
    return filled, typed, problems


LIMITS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "greater than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
    "finite_number": "a finite number",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
}
CONTAINERS = ("list_type", "tuple_type", "dict_type")


def _explain(argument: Argument, value: Any, errors: list[Any], title: str, given: bool) -> list[Problem]:
    """Turn pydantic's errors about one argument into ours."""
    key, annotation = argument.name, argument.annotation
    if argument.required and not given:
        return [((), f"{title} needs '{key}'{_about(argument)}")]
    if not given:  # a fault of the part, not of the recipe
        raise TypeError(f"{title}: the default of '{key}', {show(argument.default)}, does not fit its annotation")
    if len([member for member in members(annotation) if member is not type(None)]) > 1:
        # Pydantic reports every member of a union. "Right type, out of range" is the one the user must know.
        errors = [error for error in errors if error["type"] in LIMITS and error.get("ctx")]
        if not errors:
            hint = closest(value, map(str, _literals(annotation))) if isinstance(value, str) else ""
            message = f"should be {expected(annotation)}, got {show(value)}.{hint or _rewrite(value)}"
            return [((key,), message)]
    problems: list[Problem] = []
    for error in errors:
        path, inner = _descend(error["loc"][1:], value)
        kind, context = error["type"], error.get("ctx", {})
        if kind == "literal_error" and isinstance(inner, str):
            message = choices(key, inner, map(str, _literals(annotation)))
        elif kind in LIMITS and (path or kind not in CONTAINERS):
            wanted = LIMITS[kind].format(**context)
            message = f"should be {wanted}, got {show(inner)}.{_rewrite(inner) if kind == 'int_type' else ''}"
        elif kind == "value_error":
            message = f"{context['error']}, got {show(inner)}."
        else:
            path, message = (), f"should be {expected(annotation)}, got {show(value)}."
        if ((key, *path), message) not in problems:
            problems.append(((key, *path), message))
    return problems


def _descend(location: tuple[Any, ...], value: Any) -> tuple[tuple[Any, ...], Any]:
    """Follow a pydantic location as far as it exists in the value; it also contains tags of unions."""
    path: list[Any] = []
    for step in location:
        if (isinstance(value, dict) and step in value) or (
            isinstance(value, list | tuple) and isinstance(step, int) and step < len(value)
        ):
            value = value[step]
            path.append(step)
    return tuple(path), value


def _rewrite(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return f" Write {int(value)}."
    return ""


def _about(argument: Argument) -> str:
    return f": {argument.doc}" if argument.doc else "."


def _names(arguments: Iterable[str]) -> str:
    return ", ".join(arguments) or "none"


def spell(annotation: Any) -> str:
    """Return an annotation as a user would write it."""
    origin = get_origin(annotation)
    if annotation is type(None) or annotation is None:
        return "null"
    if origin is Annotated:
        return spell(get_args(annotation)[0])
    if origin is Literal:
        return " | ".join(str(word) for word in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " | ".join(spell(member) for member in get_args(annotation))
    if origin is not None:
        inner = ", ".join("..." if a is Ellipsis else spell(a) for a in get_args(annotation))
        return f"{getattr(origin, '__name__', str(origin)).lower()}[{inner}]"
    return getattr(annotation, "__name__", str(annotation).removeprefix("typing."))


def expected(annotation: Any, *, many: bool = False) -> str:
    """Return what an annotation takes, as the end of "should be ..." (in the plural for `many`)."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return expected(args[0], many=many)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(expected(member, many=many) for member in args))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if annotation in (None, type(None)):
        return "null"
    words = {int: "integer", float: "number", str: "string", bool: "boolean"}
    if annotation in words:
        noun = words[annotation]
        singular = "true or false" if annotation is bool else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
        return f"{noun}s" if many else singular
    kind = origin or annotation
    if kind is tuple and args and Ellipsis not in args:
        inner = dict.fromkeys(expected(a, many=True) for a in args)
        return f"{'lists' if many else 'a list'} of {len(args)} {' and '.join(inner)}"
    if isinstance(kind, type) and issubclass(kind, collections.abc.Mapping):
        return "mappings" if many else "a mapping"
    if isinstance(kind, type) and issubclass(kind, collections.abc.Iterable):
        start = "lists" if many else "a list"
        return f"{start} of {expected(args[0], many=True)}" if args else start
    return spell(annotation)


def show(value: Any) -> str:
    """Return a value as YAML would have it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _literals(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for inner in get_args(annotation) for word in _literals(inner))
