"""The demonstration: collect, train, evaluate and report one small planner, doing only what has changed."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtdiff.recipe import load_recipe
from mtdiff.reporting import evaluate_trained, to_document
from mtdiff.runs import ROOT, train
from mtdiff.world import on_main

RECIPE = "quickstart"


def demonstrate(
    recipe: str = RECIPE,
    overrides: Sequence[str] = (),
    *,
    root: Path = ROOT,
    started: float | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Take a recipe from nothing to its report.

    Args:
        recipe: a recipe's path or name.
        overrides: changes, as on the command line.
        root: folder of data and runs.
        started: seconds since the epoch at which the whole demonstration began, when that was before this call.
        again: train and evaluate even if that was done before.

    Returns:
        The evaluation's document, with `run`, `report`, `minutes` and `next`: what to type next.
    """
    started = time.time() if started is None else started
    loaded = load_recipe(recipe, overrides)
    run = train(loaded, root=root, resume=not again, restart=again)
    link = on_main(lambda: _link(Path(root) / "demo", run.folder))
    findings, report = evaluate_trained(link, root=root, again=again)
    return {
        **to_document(findings, report),
        "run": str(run.folder),
        "minutes": (time.time() - started) / 60,
        "next": suggestions(recipe, link),
    }


def suggestions(recipe: str, run: Path) -> list[tuple[str, str]]:
    """What to type next: commands with what they do."""
    here = Path(sys.executable).parent  # a virtual environment that need not be active
    command = "mtdiff" if shutil.which("mtdiff") else os.path.relpath(here / "mtdiff")
    return [
        (f"{command} parts", "everything a recipe can name"),
        (f"{command} check {recipe}", "the recipe behind this run, with every default"),
        (f"{command} train {recipe} backbone=residual_mlp", "the same with another network"),
        (f"{command} evaluate {run} sampling.num_inference_steps=2", "the same weights, faster plans"),
        (f"{command.removesuffix('mtdiff')}tensorboard --logdir {run}/trackers", "learning curves"),
    ]


def _link(link: Path, folder: Path) -> Path:
    """Make a short name for the newest demonstration's run."""
    beside = link.with_name(".demo")
    beside.unlink(missing_ok=True)
    beside.symlink_to(os.path.relpath(folder, link.parent))
    beside.replace(link)
    return link


def last_line(document: dict[str, Any]) -> str:
    """The line the demonstration ends with."""
    measure = document["measure"]
    return (
        f"demo: mean {measure} {document[f'mean_{measure}']:.2f} over {len(document['tasks'])} tasks "
        f"in {document['minutes']:.1f} min, report at {document['report']}"
    )
