"""The verb `mtdiff augment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mtdiff.verbs import JsonOption, OutputOption, WorkersOption


def augment(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A .yaml file, or a shipped recipe's name.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes: augment.seeds=3 augment.targets=[reach-v3]"),
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Measure this augmentation now; may be repeated.")
    ] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Finished cells, one small file each.")] = Path(
        "results"
    ),
    jobs: Annotated[int, typer.Option(help="Cells measured side by side.", min=1)] = 1,
    output: OutputOption = Path("outputs"),
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> Any:
    """Find out whether synthetic data helps a learner.

    Collects few episodes of some tasks, trains synthesizers, lets a learner learn from the recorded data alone and from
    each augmentation of it, and compares. Finished cells are kept when it is interrupted, and never measured again.
    """
    from mtdiff.recipe import load_recipe, variants

    loaded = load_recipe(recipe, overrides or [])
    from mtdiff.studies.augment_plan import make_plan
    from mtdiff.studies.augment_study import augment as run
    from mtdiff.terminal import print_augmented, print_plan

    if dry_run:
        plans = [{"variant": one.coordinates, **make_plan(one.recipe).document(output)} for one in variants(loaded)]
        if not as_json:
            for plan in plans:
                print_plan(plan)
        return plans
    studies, page = run(loaded, root=output, results=results, jobs=jobs, workers=workers, only=only)
    document = {"report": str(page), "results": str(results), "studies": [study.document() for study in studies]}
    if not as_json:
        print_augmented(document)
    return document
