"""The verb `mtdiff finetune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mtdiff.verbs import JsonOption, OutputOption, WorkersOption


def finetune(
    source: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A .yaml file, a shipped recipe's name, or a trained run's folder.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes: finetune.environment_steps=50000 finetune.clip=0.2"),
    ] = None,
    *,
    task: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="Fine-tune for this task; may be repeated.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of goals, noise and batches: finetune.seed.", min=0)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was interrupted, in either stage.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what was fine-tuned so before, not what was pre-trained.")
    ] = False,
    output: OutputOption = Path("outputs"),
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> Any:
    """Fine-tune a planner for each task by trying it out.

    A recipe with a section `finetune` is pre-trained first, unless that was done; a run is taken as it is. Each task
    gets a copy of the weights that learns from rewards in its simulator; all copies are saved in one pipeline. Copies
    that were made before are not made again.
    """
    from mtdiff.recipe import load_recipe

    changes = list(overrides or [])
    changes += [f"finetune.tasks={json.dumps(task)}"] if task else []
    changes += [f"finetune.seed={seed}"] if seed is not None else []
    if not Path(source).expanduser().is_dir():
        load_recipe(source, changes)  # a mistake is told before torch is loaded
    from mtdiff.finetuning.shown import print_finetuned
    from mtdiff.finetuning.stages import finetune as run

    document = run(source, changes, root=output, resume=resume, restart=restart, workers=workers)
    if not as_json:
        print_finetuned(document)
    return document
