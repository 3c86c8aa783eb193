"""What the command line shows people: tables of parts and of resolved recipes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtdiff.argument_check import spell
from mtdiff.recipe.finding import show_path
from mtdiff.recipe.yaml_lines import PLAIN

if TYPE_CHECKING:
    from mtdiff.recipe import Recipe
    from mtdiff.registry import Part


def console() -> Console:
    """Return a console on stdout."""
    return Console(highlight=False, soft_wrap=False)


def print_parts(found: dict[str, list[Part]], settings: Iterable[str]) -> None:
    """Print parts by kind with their summaries, and where to find more."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kind", style="dim", no_wrap=True)
    table.add_column("part", style="bold cyan", no_wrap=True)
    table.add_column("what it is")
    for kind, members in found.items():
        for i, part in enumerate(members):
            table.add_row(kind if i == 0 else "", part.name, Text(part.summary), end_section=i == len(members) - 1)
        if not members:
            table.add_row(kind, "", Text("none", style="dim"), end_section=True)
    out = console()
    out.print(table)
    out.print("[dim]mtdiff parts NAME shows what a part takes, or a section of settings:[/dim]")
    out.print(f"[dim]{', '.join(settings)}.[/dim]")


def print_part(part: Part) -> None:
    """Print a part's documentation and arguments."""

    out = console()
    out.print(Text.assemble((part.name, "bold cyan"), (f"  {part.kind}", "dim")))
    out.print(Text(_without_blocks(part.doc)), end="\n\n")
    if part.runtime:
        out.print(Text(f"From the data, not in YAML: {', '.join(part.runtime)}.", style="dim"), end="\n\n")
    if not part.arguments:
        out.print(Text("It takes no arguments."), end="\n\n")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("argument", style="bold", no_wrap=True)
    table.add_column("type", style="green")
    table.add_column("default", style="yellow")
    table.add_column("what it does", ratio=1)
    for argument in part.arguments.values():
        default = "required" if argument.required else _spell(argument.default)
        table.add_row(argument.name, Text(spell(argument.annotation)), Text(default), Text(argument.doc))
    out.print(table)


def print_recipe(recipe: Recipe) -> None:
    """Print every value of a recipe and where it comes from."""
    out = console()
    out.print(Text.assemble((recipe.name, "bold cyan"), " is valid, hash ", (recipe.hash(), "bold green")))
    for i, file in enumerate(recipe.files):
        out.print(Text(f"{'extends ' if i else ''}{show_path(file)}", style="dim"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("value")
    table.add_column("from", style="dim", overflow="fold")
    # The files are listed in full above; here the line is what must be legible.
    names = {show_path(file): file.name for file in recipe.files}
    short = names if len(set(names.values())) == len(names) else {}

    def rows(values: dict[str, Any], path: tuple[str, ...]) -> None:
        for key, value in values.items():
            here = (*path, key)
            nested = value if isinstance(value, dict) and value else {}
            shown = nested.get("name", "") if nested else _spell(value)
            origin = recipe.origin(".".join((*here, "name") if "name" in nested else here))
            if nested and "name" not in nested:
                origin = ""
            file, colon, line = origin.rpartition(":")
            origin = f"{short.get(file, file)}{colon}{line}"
            style = "dim" if origin == "default" else ""
            label = Text("  " * len(path) + key, style="bold" if not path else "")
            cell = Text(str(shown), style="bold cyan" if "name" in nested else style)
            table.add_row(label, cell, origin)
            rows({k: v for k, v in nested.items() if k != "name"}, here)

    rows(recipe.values, ())
    out.print(table)
    if recipe.vary is not None:
        out.print(Text("vary: a grid of recipes; the table and the hash are without it."))


def print_collected(summary: dict[str, Any]) -> None:
    """Print what a collection holds, task by task."""
    out = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", style="bold", no_wrap=True)
    for column in ("episodes", "steps", "success", "mean return", "prompts", "retries"):
        table.add_column(column, justify="right")
    for row in summary["tasks"]:
        success, total = f"{row['success']:.0%}", f"{row['mean_return']:.0f}"
        cells = (row["episodes"], row["steps"], success, total, row["prompts"], row["retries"])
        table.add_row(row["task"], *map(str, cells))
    out.print(table)
    out.print(
        Text(
            f"{summary['episodes']} episodes, {summary['steps']} steps in {summary['folder']} "
            f"({summary['collected']} recorded now, {summary['seconds']:.0f} s)"
        )
    )


def print_synthesized(summary: dict[str, Any]) -> None:
    """Print what a synthesis holds, task by task, and how fast it was."""
    out = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", style="bold", no_wrap=True)
    for column in ("samples", "transitions", "mean return", "prompts"):
        table.add_column(column, justify="right")
    for row in summary["tasks"]:
        cells = (row["samples"], row["transitions"], f"{row['mean_return']:.1f}", row["prompts"])
        table.add_row(row["task"], *map(str, cells))
    out.print(table)
    rate = summary["transitions_per_second"]
    now = f"{summary['synthesized']} made now" + (f", {rate:.0f} a second" if rate else "")
    out.print(
        Text(
            f"{summary['transitions']} transitions in {summary['folder']} ({now}, {summary['seconds']:.0f} s); "
            f"{summary['asked']} a task were asked for, in whole samples of {summary['transitions_per_sample']}"
        )
    )


def print_trained(document: dict[str, Any]) -> None:
    """Print where a trained run is and what to do with it."""
    out = console()
    held_out = f", held-out loss {document['val_loss']:.4f}" if "val_loss" in document else ""
    what = "already trained" if document["reused"] else "trained"
    minutes = document["seconds"] / 60
    out.print(Text(f"{what} {document['updates']} updates in {minutes:.1f} min: loss {document['loss']:.4f}{held_out}"))
    out.print(Text.assemble("run       ", (document["run"], "bold")), soft_wrap=True)
    following = f"mtdiff evaluate {document['run']}"
    if document["kind"] == "synthesizer":
        following = f"mtdiff synthesize {document['run']} --task TASK --transitions N --out DIR"
    out.print(Text.assemble("next      ", (following, "cyan")), soft_wrap=True)


def print_evaluation(document: dict[str, Any]) -> None:
    """Print success per task, or return where there is no success to speak of, and where the report is."""
    out = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", style="bold", no_wrap=True)
    measure = document["measure"]
    for column in (measure, "95 % interval", "steps"):
        table.add_column(column, justify="right")

    def span(interval: list[float] | None, digits: int) -> str:
        return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else "-"

    for task, row in document["tasks"].items():
        if measure == "success":
            rate = f"{row['success']:.2f} ({row['successes']}/{row['episodes']})"
            table.add_row(task, rate, span(row["interval"], 2), f"{row['steps']:.0f}")
        else:
            table.add_row(task, f"{row['total_reward']:.1f}", span(row["return_interval"], 1), f"{row['steps']:.0f}")
    table.add_section()
    if measure == "success":
        table.add_row("mean", f"{document['mean_success']:.2f}", span(document["mean_interval"], 2), "")
    else:
        table.add_row("mean", f"{document['mean_return']:.1f}", span(document["mean_return_interval"], 1), "")
    out.print(table)
    for label, key in (("swapped prompts", "swapped_mean"), ("scripted experts", "demonstrator_mean")):
        value = document[f"{key}_{measure}"]
        if value is not None:
            out.print(Text(f"{label}: mean {measure} {value:.{2 if measure == 'success' else 1}f}"))
    for label, value in document.get("others", {}).items():
        out.print(Text(f"{label}: mean {measure} {value:.2f}"))
    for label, value in document.get("scores", {}).items():
        out.print(Text(f"{label}: mean {value:.2f}"))
    if plan := document["latency"]["one environment"]:
        out.print(Text(f"one plan: p50 {1000 * plan['p50']:.1f} ms, p95 {1000 * plan['p95']:.1f} ms"))
    if document["no_video_reason"]:
        out.print(Text(f"no video: {document['no_video_reason']}"))
    out.print(Text.assemble("report: ", (document["report"], "bold")), soft_wrap=True)


def print_plan(document: dict[str, Any]) -> None:
    """Print what `mtdiff augment` would do."""
    out = console()
    varied = ", ".join(f"{key}={label}" for key, label in document["variant"].items())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=varied or None, title_justify="left")
    table.add_column("stage", style="bold", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("", style="dim", no_wrap=True)
    for one in document["collect"]:
        table.add_row("collect", one["what"], "done" if one["done"] else "")
    for one in document["train"]:
        table.add_row("train", ", ".join(one["for"]), f"{one['updates']:,} updates")
    measure = document["measure"]
    table.add_row("learn", f"{measure['learners']} learners, {measure['episodes']:,} episodes of evaluation",
                  f"{measure['updates']:,} updates each")  # fmt: skip
    table.add_row("measure", f"{measure['fidelities']} fidelities", "")
    out.print(table)


def print_augmented(document: dict[str, Any]) -> None:
    """Print the success of every augmentation on groups of targets, and where the page is."""
    out = console()
    for study in document["studies"]:
        varied = ", ".join(f"{key}={label}" for key, label in study["variant"].items())
        for name, rows in study["success"].items():
            title = f"{varied}: {name}" if varied else name
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
            table.add_column("augmentation", no_wrap=True)
            for head in ("success", "difference", "95 %"):
                table.add_column(head, justify="right", no_wrap=True)
            for row in rows:
                low, high = row["interval"] or (None, None)
                span = "" if low is None else f"{low:+.2f} to {high:+.2f}"
                style = "green" if low is not None and low > 0 else "red" if high is not None and high < 0 else ""
                gain = "" if row["difference"] is None else f"{row['difference']:+.2f}"
                table.add_row(row["label"], f"{row['success']:.2f}", Text(gain, style=style), span)
            out.print(table)
        cells = study["cells"]
        out.print(f"{cells['finished']} of {cells['all']} cells are finished, in {document['results']}")
        for name, why in study["failed"].items():
            out.print(Text(f"failed: {name}: {why}", style="red"), soft_wrap=True)
    out.print(Text.assemble("report  ", (document["report"], "bold")), soft_wrap=True)


def print_demo(document: dict[str, Any]) -> None:
    """Print the evaluation, what to type next, and one last line."""
    from mtdiff.demo import last_line

    print_evaluation(document)
    out = console()
    out.print("\nnext:")
    width = max(len(command) for command, _ in document["next"])
    for command, why in document["next"]:
        out.print(Text.assemble("  ", (f"{command:<{width}}", "cyan"), (f"   {why}", "dim")), soft_wrap=True)
    out.print()
    print(last_line(document))


def _spell(value: Any) -> str:
    """Return a value as YAML has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_spell, value))}]"
    if isinstance(value, str):
        return repr(value) if any(form.fullmatch(value) for form in PLAIN.values()) else value
    return json.dumps(value, default=str, ensure_ascii=False)


def _without_blocks(doc: str) -> str:
    """Return a docstring's paragraphs up to `Args:` and the like."""
    lines = doc.splitlines()
    ends = ("Args:", "Arguments:", "Raises:", "Returns:")
    end = next((i for i, line in enumerate(lines) if line.strip() in ends), len(lines))
    paragraphs = "\n".join(lines[:end]).strip().split("\n\n")
    # Prose is wrapped anew; what is indented or a list keeps its lines.
    return "\n\n".join(p if "\n " in p or "\n-" in p else " ".join(p.split("\n")) for p in paragraphs)
