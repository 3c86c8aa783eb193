"""Pages that are written from signatures and docstrings: parts, settings, recipes, the command line.

A page of the source asks for one with a comment, `% generated: parts backbones`, which is replaced when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args, get_origin

from api_page import api
from prose import code, entries, escape, sections, table, value
from sphinx.errors import ExtensionError

from mtdiff.argument_check import spell
from mtdiff.recipe import SECTIONS, PartSection, RolesSection, SettingsSection, shipped_recipes
from mtdiff.registry import REGISTRIES, Argument, Part

_MARK = re.compile(r"^% generated: ([a-z]+) ?(\w*)$", re.MULTILINE)


def setup(app: Any) -> dict[str, Any]:
    app.connect("source-read", _fill)
    app.connect("env-before-read-docs", _every_registry_has_its_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _fill(app: Any, page: str, source: list[str]) -> None:
    source[0] = _MARK.sub(lambda mark: PAGES[mark[1]](*filter(None, [mark[2]])), source[0])


def _every_registry_has_its_page(app: Any, env: Any, pages: list[str]) -> None:
    missing = [kind for kind in REGISTRIES if f"parts/{kind}" not in env.found_docs]
    if missing:
        raise ExtensionError(f"registries without a page: docs/parts/{missing[0]}.md must say '% generated: parts'")
    # What the code says may have changed although the page's own text has not.
    pages[:] = sorted({*pages, *(page for page in env.found_docs if _MARK.search(env.doc2path(page).read_text()))})


def parts(kind: str) -> str:
    """Every part of a registry."""
    registry = REGISTRIES[kind]
    members = [registry[name] for name in registry]
    overview = table(
        ["part", "what it is"], ([f"[`{part.name}`](#{kind}-{part.name})", escape(part.summary)] for part in members)
    )
    return "\n".join([overview, *(_part(part, anchor=f"{kind}-{part.name}") for part in members)])


def _part(part: Part, anchor: str, head: str = "##") -> str:
    told = sections(part.target.__doc__)
    lines = [f"({anchor})=", f"{head} {part.name}", "", escape(told[""]), ""]
    if part.runtime:
        names = ", ".join(map(code, part.runtime))
        lines += [f"From the data and the other parts, never in YAML: {names}.", ""]
    if part.arguments:
        lines += [table(["argument", "type", "default", "what it does"], map(_row, part.arguments.values()))]
    else:
        lines += ["It takes no arguments.", ""]
    if "Raises" in told:
        lines += ["Refused:", "", *(f"- {escape(text)}" for _, text in entries(told["Raises"])), ""]
    if isinstance(part.target, type):
        lines += [f"In Python: `{part.target.__module__}.{part.target.__qualname__}`.", ""]
    return "\n".join(lines)


def _row(argument: Argument) -> list[str]:
    default = "required" if argument.required else code(value(argument.default))
    kind = code(spell(argument.annotation)) + _limits(argument.annotation)
    if argument.nested:
        kind = f"[a part](../parts/{next(k for k, r in REGISTRIES.items() if r is argument.nested.registry)}.md)"
    return [code(argument.name), kind, default, escape(argument.doc)]


def _limits(annotation: Any) -> str:
    """Limits in an annotation, such as `Annotated[int, Ge(1)]`."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    marks = [(type(mark).__name__.lower(), mark) for mark in getattr(annotation, "__metadata__", ())]
    limits = [f"{words[name]} {getattr(mark, name)}" for name, mark in marks if name in words]
    inner = [_limits(member) for member in get_args(annotation) if get_origin(annotation) is not None]
    return "".join([*(f", {limit}" for limit in limits), *inner])


def settings() -> str:
    """Every section of a recipe, those that hold settings with their arguments."""
    rows, tables = [], []
    for name, section in SECTIONS.items():
        default = ""
        if isinstance(section, SettingsSection):
            where = f"[settings](#settings-{name})"
            tables.append(_part(section.part(name), anchor=f"settings-{name}"))
        elif isinstance(section, PartSection | RolesSection):
            page = next(kind for kind, registry in REGISTRIES.items() if registry is section.registry)
            where = f"[{'roles to parts' if isinstance(section, RolesSection) else 'a part'}](../parts/{page}.md)"
            roles = isinstance(section, RolesSection)
            default = ", ".join(f"{k}: {v}" for k, v in section.default.items()) if roles else section.default or ""
        else:
            where, default = code(spell(section.annotation)) + _limits(section.annotation), value(section.default)
        rows.append([code(name), where, code(default), escape(section.doc)])
    return "\n".join([table(["section", "holds", "default", "what it decides"], rows), *tables])


def recipes() -> str:
    """Every shipped recipe, as its file is."""
    lines = []
    for name, path in shipped_recipes().items():
        lines += [f"## {name}", "", f"```{{code-block}} yaml\n:caption: recipes/{name}.yaml\n", path.read_text(), "```"]
        lines += [""]
    return "\n".join(lines)


def commands() -> str:
    """`mtdiff VERB --help` of every verb."""
    import typer

    from mtdiff.cli import app

    return _help(typer.main.get_command(app), "mtdiff")


def _help(group: Any, path: str) -> str:
    lines = []
    for verb, command in group.commands.items():
        name = f"{path} {verb}"
        if hasattr(command, "commands"):
            lines.append(_help(command, name))
            continue
        context = type(command).context_class(command, info_name=name, max_content_width=100)
        lines += [f"## {name}", "", "```text", command.get_help(context).strip(), "```", ""]
    return "\n".join(lines)


PAGES: dict[str, Callable[..., str]] = {
    "parts": parts, "settings": settings, "recipes": recipes, "commands": commands, "api": api,
}  # fmt: skip
