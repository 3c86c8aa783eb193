"""The public Python names, from their signatures and docstrings."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

from prose import entries, escape, sections

import mtdiff
from mtdiff.registry import REGISTRIES


def api() -> str:
    """Functions first, then classes by the package they live in, then what is other libraries'."""
    ours, others = {}, []
    for name in mtdiff.__all__:
        thing = getattr(mtdiff, name)
        if not callable(thing):
            continue
        if thing.__module__.startswith("mtdiff."):
            ours[name] = thing
        else:
            others.append(f"`mtdiff.{name}` is {thing.__module__.partition('.')[0]}'s: saved pipelines name it.")
    homes: dict[str, dict[str, Any]] = {}
    for name, thing in ours.items():
        home = ".".join(thing.__module__.split(".")[:2]) if isinstance(thing, type) else ""
        homes.setdefault(home, {})[name] = thing
    lines = []
    for home in sorted(homes):
        title = f"`{home}`" if home else "Functions"
        lines += [f"## {title}", ""]
        if home:
            lines += [escape((importlib.import_module(home).__doc__ or "").partition("\n")[0]), ""]
        for name, thing in homes[home].items():
            lines += [
                _class(name, thing) if isinstance(thing, type) else _callable("function", f"mtdiff.{name}", thing)
            ]
    return "\n".join([*lines, *others]) + "\n"


def _class(name: str, cls: type) -> str:
    part = _part_of(cls)
    body = [_prose(cls, skip=("Args",) if part else ())]
    if part:
        kind, known = part
        body.append(f"Its arguments: [`{known}`](../parts/{kind}.md#{kind}-{known}).\n")
    for attribute, member in vars(cls).items():
        if attribute.startswith("_") and attribute != "__call__":
            continue
        if isinstance(member, property) and member.__doc__:
            body.append(_directive("property", attribute, "", _prose(member)))
            continue
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if inspect.isfunction(function) and function.__doc__:
            kind = {classmethod: "classmethod", staticmethod: "staticmethod"}.get(type(member), "method")
            body.append(_callable(kind, attribute, function, bound=kind != "staticmethod"))
    signature = "" if issubclass(cls, Exception) or part else _signature(cls.__init__, bound=True)
    kind = "exception" if issubclass(cls, Exception) else "class"
    return _directive(kind, f"mtdiff.{name}", signature, "\n".join(body), fence=7)


def _callable(kind: str, name: str, function: Any, *, bound: bool = False) -> str:
    return _directive(kind, name, _signature(function, bound=bound), _prose(function))


def _directive(kind: str, name: str, signature: str, body: str, fence: int = 6) -> str:
    ticks = "`" * fence
    return f"{ticks}{{py:{kind}}} {name}{signature}\n\n{body}\n{ticks}\n"


def _signature(function: Any, *, bound: bool) -> str:
    """The signature with annotations as they are written, which a reader knows from the source."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1 if bound else 0 :]
    words, seen_star = [], False
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and not seen_star:
            words.append("*")
        seen_star = seen_star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        prefix = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        typed = "" if p.annotation is p.empty else f": {_written(p.annotation)}"
        default = "" if p.default is p.empty else f" = {_default(p.default)}"
        words.append(f"{prefix}{p.name}{typed}{default}")
    returns = signature.return_annotation
    arrow = "" if returns is signature.empty or function.__name__ == "__init__" else f" -> {_written(returns)}"
    return f"({', '.join(words)}){arrow}"


def _written(annotation: Any) -> str:
    return annotation.replace("\n", " ") if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _default(value: Any) -> str:
    """A default as the source has it; `...` for what would take lines."""
    text = repr(str(value)) if isinstance(value, Path) else repr(value)
    plain = value is None or isinstance(value, bool | int | float | str | tuple | list | dict | Path)
    return text if plain and len(text) <= 40 else "..."


def _prose(thing: Any, skip: tuple[str, ...] = ()) -> str:
    told = sections(thing.__doc__)
    if dataclasses.is_dataclass(thing) and told[""].startswith(f"{getattr(thing, '__name__', '')}("):
        told = {"": ""}  # a dataclass without a docstring gets its signature for one
    lines = [escape(told.pop("")), ""]
    for block, text in told.items():
        if block in skip:
            continue
        if block in ("Returns", "Yields"):
            lines += [f"**{block}** {escape(' '.join(text.split()))}", ""]
        else:
            title = {"Args": "Arguments"}.get(block, block)
            lines += [f"**{title}**", "", *(f"- `{name}`: {escape(said)}" for name, said in entries(text)), ""]
    return "\n".join(lines)


def _part_of(cls: type) -> tuple[str, str] | None:
    for kind, registry in REGISTRIES.items():
        for name in registry:
            if registry[name].target is cls:
                return kind, name
    return None
