"""The verb `mtdiff ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mtdiff.verbs import JsonOption, OutputOption, WorkersOption


def ablate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A .yaml file, or a shipped recipe's name.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes: vary.seed=[0,1] evaluation.episodes_per_task=50"),
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells, their state and commands.")] = False,
    index: Annotated[
        int | None, typer.Option(metavar="I", help="Only the cell of this number, from 0: for job arrays.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ROW", help="Measure this row now; may be repeated.")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Measure nothing; write tables and page.")] = False,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Finished cells, one small file each.")] = Path(
        "results"
    ),
    mix: Annotated[bool, typer.Option("--mix", help="Allow results of other code or data in the table.")] = False,
    jobs: Annotated[int, typer.Option(help="Cells measured side by side.", min=1)] = 1,
    output: OutputOption = Path("outputs"),
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> Any:
    """Compare the recipes of a grid.

    Trains and evaluates every recipe that `vary:` spans and the rows of `ablation:`, and writes a table and a page.
    Finished cells are kept when it is interrupted, and never measured again; cells that differ in sampling or
    evaluation alone share one training.
    """
    from mtdiff.environments.processes import available_cores
    from mtdiff.recipe import load_recipe
    from mtdiff.studies.ablate_plan import make_plan
    from mtdiff.studies.cells import Results

    loaded = load_recipe(recipe, overrides or [])
    if jobs > 1 and workers is None:
        workers = max(1, available_cores() // jobs)
    plan = make_plan(loaded, overrides=overrides or [], root=output, workers=workers)
    if dry_run:
        document = plan.document(Results(results), output)
        if not as_json:
            _print_plan(document)
        return document
    from mtdiff.studies.ablate_study import ablate as run

    study, page = run(plan, root=output, results=results, jobs=jobs, index=index, only=only, report=report, mix=mix)
    document = {"report": str(page), "results": str(results), **study.document()}
    if index is not None:
        document = {"index": index, "result": str(study.store.path(plan.places[index].cell))}
    if not as_json:
        _print(document) if index is None else print(document["result"])
    return document


def _print_plan(document: dict[str, Any]) -> None:
    """Print every cell: two lines, so that commands are whole in any terminal."""
    from rich.text import Text

    from mtdiff.terminal import console

    out = console()
    styles = {"done": "green", "to evaluate": "cyan", "to train": "yellow"}
    for cell in document["cells"]:
        name = ", ".join(filter(None, (cell["row"], cell["repetition"])))
        state = (f"{cell['state']:<12}", styles[cell["state"]])
        out.print(Text.assemble((f"{cell['index']:>3}  ", "dim"), state, (name, "bold")), soft_wrap=True)
        out.print(Text(f"     {cell['command']}", style="dim"), soft_wrap=True)
    states = [cell["state"] for cell in document["cells"]]
    trainings = {cell["training"] for cell in document["cells"] if cell["state"] == "to train"}
    counted = ", ".join(f"{states.count(state)} {state}" for state in styles if state in states)
    out.print(f"{len(states)} cells: {counted}; {len(trainings)} trainings to do")


def _print(document: dict[str, Any]) -> None:
    """Print the table, what failed, and where the page is."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from mtdiff.studies.ablate_table import number, span
    from mtdiff.terminal import console

    out, measure = console(), document["measure"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("row", overflow="fold")
    for head in (measure, "95 %", "difference", "95 %", "runs"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in document["rows"]:
        low, high = row["difference_interval"] or (0.0, 0.0)
        style = "green" if low > 0 else "red" if high < 0 else ""
        gap = "" if row["difference"] is None else f"{row['difference']:+.2f}"
        between = "" if row["difference"] is None else span((low, high), measure, sign=True)
        runs = f"{row['runs']}/{row['planned']}"
        score = number(row["score"], measure)
        table.add_row(row["label"], score, span(row["interval"], measure), Text(gap, style=style), between, runs)
    out.print(table)
    cells = document["cells"]
    out.print(f"{cells['finished']} of {cells['all']} cells are finished, in {document['results']}")
    for line in document["mixed"]:
        out.print(Text(f"mixed: {line}", style="red"), soft_wrap=True)
    for name, why in document["failed"].items():
        out.print(Text(f"failed: {name}: {why}", style="red"), soft_wrap=True)
    out.print(Text.assemble("report  ", (document["report"], "bold")), soft_wrap=True)
