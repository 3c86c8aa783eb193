"""A signature and a docstring as a schema: arguments, their documentation, a pydantic model."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mtdiff.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Nested:
    """Marks an argument as the name and arguments of another part.

    Args:
        registry: Where that part is registered.
        without: Arguments of the part that cannot be set in this place.
        because: Why not, and what to do: a sentence in which `{key}` stands for the argument.
    """

    registry: Registry
    without: tuple[str, ...] = ()
    because: str = "cannot be set here"


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument of a part.

    Args:
        name: Its name in the signature and in YAML.
        annotation: Its type, resolved.
        default: Its default; meaningless if `required`.
        required: Whether it has no default.
        doc: Its text in the docstring, on one line.
        nested: The mark in its annotation if it names another part.
    """

    name: str
    annotation: Any
    default: Any = None
    required: bool = False
    doc: str = ""
    nested: Nested | None = None

    @property
    def optional(self) -> bool:
        """Whether it may be null."""
        return type(None) in members(self.annotation)


def read_arguments(target: Callable[..., Any], *, runtime: tuple[str, ...] = ()) -> dict[str, Argument]:
    """Return what a class or function takes, without its runtime arguments.

    Raises:
        TypeError: `*args` or `**kwargs`, an argument without annotation or with one that cannot be resolved,
            or a runtime argument that the signature lacks.
    """
    title = f"{target.__module__}.{target.__qualname__}"
    call: Any = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    if call is object.__init__:
        return {}
    parameters = list(inspect.signature(call).parameters.values())[1 if isinstance(target, type) else 0 :]
    try:
        hints = typing.get_type_hints(inspect.unwrap(call), include_extras=True)
    except NameError as error:
        raise TypeError(f"{title}: an annotation cannot be resolved at run time: {error}") from error
    docs = argument_docs(target.__doc__) or argument_docs(call.__doc__)
    if missing := [name for name in runtime if name not in {p.name for p in parameters}]:
        raise TypeError(f"{title}: declares runtime argument '{missing[0]}', which its signature lacks")
    factories: dict[str, Any] = {}
    if isinstance(target, type) and dataclasses.is_dataclass(target):
        fields = dataclasses.fields(target)
        factories = {f.name: f.default_factory for f in fields if f.default_factory is not dataclasses.MISSING}
    arguments = {}
    for parameter in parameters:
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{title}: takes {parameter}, but a signature is a schema: name the arguments")
        if name in runtime:
            continue
        if name not in hints:
            raise TypeError(f"{title}: argument '{name}' has no annotation")
        default = parameter.default
        if name in factories:
            default = factories[name]()
        required = default is parameter.empty
        arguments[name] = Argument(
            name=name,
            annotation=hints[name],
            default=None if required else default,
            required=required,
            doc=docs.get(name, ""),
            nested=_nested(hints[name]),
        )
    return arguments


def argument_docs(docstring: str | None) -> dict[str, str]:
    """Return the texts of a Google-style `Args:` block by argument, each on one line."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    heads = [i for i, line in enumerate(lines) if re.fullmatch(r"(Args|Arguments):\s*", line)]
    start = heads[0] if heads else len(lines)
    docs: dict[str, str] = {}
    names: list[str] = []
    indent = 0
    for line in lines[start + 1 :]:
        depth = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        if depth == 0:
            break
        entry = re.fullmatch(r"\s+`?(\w+(?:,\s*\w+)*)`?\s*(?:\(.*?\))?:\s*(.*)", line)
        if entry and (not names or depth <= indent):
            names, indent = re.split(r",\s*", entry[1]), depth
            docs.update(dict.fromkeys(names, entry[2].strip()))
        else:
            docs.update({name: f"{docs[name]} {line.strip()}".strip() for name in names})
    return docs


def argument_model(title: str, arguments: Mapping[str, Argument]) -> type[BaseModel]:
    """Return arguments as a pydantic model that forbids unknown fields and converts only int to float."""
    from pydantic import ConfigDict, Field, create_model

    config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, validate_default=True, arbitrary_types_allowed=True
    )
    config["protected_namespaces"] = ()
    fields: dict[str, Any] = {
        a.name: (a.annotation, Field(... if a.required else a.default, description=a.doc or None))
        for a in arguments.values()
    }
    with warnings.catch_warnings():
        # An argument may be called "copy" or "json"; pydantic minds, but only as a warning.
        warnings.filterwarnings("ignore", message=".*shadows an attribute", category=UserWarning)
        return create_model(title, __config__=config, **fields)


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation alone."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _nested(annotation: Any) -> Nested | None:
    if get_origin(annotation) is Annotated:
        return next((mark for mark in annotation.__metadata__ if isinstance(mark, Nested)), None)
    if get_origin(annotation) in (Union, types.UnionType):
        return next((mark for mark in map(_nested, get_args(annotation)) if mark), None)
    return None
