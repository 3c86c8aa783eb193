"""The measurement of `mtdiff ablate`: one recipe is trained, unless it is already, and acts.

Trainings that several cells need, and data that several trainings need, are made by whichever comes first, in this
process or in any other one on this machine; the others wait for them.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import io
import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from tqdm.auto import tqdm

import mtdiff
from mtdiff.data.storage import MANIFEST
from mtdiff.errors import MTDiffError
from mtdiff.hub import load
from mtdiff.provenance import code, hardware
from mtdiff.recipe import Recipe, load_recipe
from mtdiff.reporting import evaluate_trained
from mtdiff.run_data import collect_data, data_folder, load_data
from mtdiff.runs import Run, train
from mtdiff.whole import writing

SHOWING = (
    "cli*.py", "terminal.py", "verbs.py", "documents.py", "demo.py", "hub.py", "sharing/*", "studies/*", "prompting.py",
    "reporting*.py", "provenance.py", "evaluation/page.py", "evaluation/plots.py", "evaluation/report.py",
    "evaluation/video.py", "evaluation/map_plans.py", "evaluation/embedding.py", "evaluation/statistics.py",
)  # fmt: skip
"""Code that shows results and does not make them: it may change while a table grows."""

_OTHERS = ("augmentations/*", "finetuning/*", "synthesis*.py", "pipelines/synthesizer.py", "evaluation/fidelity.py")
_NOT_RUN = {"planner": ("policies/*", "pipelines/policy*.py", "learners/*")}

_POINTS = 60
_OWN = ("prompts_per_task",)  # of sampling: a trained pipeline keeps its prompts
_BRIEF = 10.0  # seconds between two states of a progress bar in a log


def measure(content: Mapping[str, Any], where: Mapping[str, Any]) -> dict[str, Any]:
    """Train a recipe, if nobody has, and let what was trained act.

    Args:
        content: how it samples and is evaluated: `sampling`, `evaluation`.
        where: the `recipe` that is trained (all its values) and its `name`; `root`, folder of data and runs; `workers`,
            simulator processes; `cell`, what it is called, and `log`, the file that takes what is said meanwhile.

    Returns:
        Success and return of every episode by task, with the seed of its goal; the training's cost; the time of a plan;
        the loss over updates; and with what code and data all this was made.

    Raises:
        MTDiffError: whatever went wrong, and where the log is.
    """
    log = Path(where["log"])
    tqdm.write(f"{where['cell']}: log in {log}", file=sys.stderr)
    try:
        with _logged(log):
            recipe = replace(load_recipe(where["recipe"]), name=where["name"])
            return _measure(recipe, content, root=Path(where["root"]), workers=where["workers"])
    except MTDiffError as error:
        raise MTDiffError(f"{error}\nlog: {log}") from error
    except Exception as error:  # somebody else's part, a full GPU: the other cells go on
        raise MTDiffError(f"{type(error).__name__}: {error}\nlog: {log}") from error


def _measure(recipe: Recipe, content: Mapping[str, Any], *, root: Path, workers: int | None) -> dict[str, Any]:
    run = trained(recipe, root=root, workers=workers)
    changes = {f"sampling.{key}": value for key, value in content["sampling"].items() if key not in _OWN}
    changes |= {f"evaluation.{key}": value for key, value in content["evaluation"].items()}
    changes |= {"evaluation.workers": workers}
    changes |= dict.fromkeys((f"evaluation.{key}" for key in ("swapped_prompt", "demonstrator", "videos")), False)
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    best = content.get("checkpoint") == "best"
    if best and not run.best.is_dir():
        raise MTDiffError(f"{run.folder}: kept no best weights, an older mtdiff trained it; remove it to train again")
    found = evaluate_trained(run.best if best else run.folder, overrides, root=root, page=False)[0]
    episodes: dict[str, dict[str, list[Any]]] = {}
    for one in found.result.episodes:
        task = episodes.setdefault(one.task, {"goals": [], "success": [], "return": []})
        task["goals"].append(one.seed)
        task["success"].append(int(one.success))
        task["return"].append(round(one.total_reward, 4))
    info, pipeline = run.info, load(run.pipeline)
    networks = [getattr(pipeline, name) for name in pipeline.networks]
    return {
        "measure": found.result.measure,
        "episodes": episodes,
        "training": {
            "run": run.folder.name,
            "updates": info["best_update"] if best else info["updates"],
            "seconds": round(info["seconds"], 1),
            "parameters": sum(weights.numel() for network in networks for weights in network.parameters()),
        },
        "plan_seconds": (found.latency.get("one environment") or {}).get("p50"),
        "evaluation_seconds": round(found.result.seconds, 1),
        "loss": _thinned(run.metrics, "loss"),
        "val_loss": _thinned(run.metrics, "val_loss"),
        "made": {**origin(recipe.get("pipeline")), "data": info["data"]["fingerprint"], "hardware": hardware()},
    }


def origin(pipeline: str = "planner") -> dict[str, str]:
    """What decides a result besides recipe and data: mtdiff's version, and a digest of the code that makes results.

    Args:
        pipeline: of the recipe; code that its kind never runs is left out, so that others may go on being written.
    """
    return {"mtdiff": mtdiff.__version__, "code": code((*SHOWING, *_OTHERS, *_NOT_RUN.get(pipeline, ())))}


def trained(recipe: Recipe, *, root: Path, workers: int | None = None) -> Run:
    """Return the finished training of a recipe, whatever it was called then; train it if there is none.

    An interrupted one goes on from its newest checkpoint.

    Raises:
        MTDiffError: see `mtdiff.runs.train`.
    """
    data = data_folder(recipe, root)
    with _alone(root / "data" / f".{data.name}.lock"):
        collect_data(recipe, root=root, workers=workers)
    digest = recipe.hash(fingerprint(data))
    with _alone(root / "runs" / f".{digest}.lock"):
        run = known(digest, root)
        if run is not None and run.complete and _same_prompts(run, recipe):
            return run
        begun = recipe if run is None else replace(recipe, name=run.folder.name.rpartition("-")[0])
        return train(begun, root=root, resume=True, workers=workers)


def known(digest: str, root: Path) -> Run | None:
    """Return the run of a hash, a finished one if there is; None if it was never begun."""
    found = [Run(folder) for folder in sorted((root / "runs").glob(f"*-{digest}"))]
    return next((run for run in found if run.complete), found[0] if found else None)


def state(recipe: Recipe, root: Path) -> str:
    """Return what is left to do for a cell that is not done: "to train" or "to evaluate"."""
    data = data_folder(recipe, root)
    if not (data / MANIFEST).is_file():
        return "to train"
    run = known(recipe.hash(fingerprint(data)), root)
    return "to evaluate" if run is not None and run.complete else "to train"


def fingerprint(folder: Path) -> str:
    """Return that of a folder's trajectories and demonstrations, read once as long as the folder does not change."""
    return _fingerprint(folder, (folder / MANIFEST).stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _fingerprint(folder: Path, changed: int) -> str:
    return "".join(part.fingerprint for part in load_data(folder) if part is not None)


def _same_prompts(run: Run, recipe: Recipe) -> bool:
    return all(run.recipe.get(f"sampling.{key}") == recipe.get(f"sampling.{key}") for key in _OWN)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process of this machine at a time through. A killed one lets go."""
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Let a file take what Python prints, progress bars now and then; what goes wrong is in it whole."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    with file:
        log: Any = _Log(file)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                yield
            except BaseException:
                traceback.print_exc(file=file)
                raise


class _Log(io.TextIOBase):
    """A terminal for progress bars: their way up and down is left out, and so are most of their states."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.shown, self.held = file, 0.0, ""

    def write(self, text: str) -> int:
        length = len(text)
        if text == "\n" and not self.held:  # a bar below another begins with it as well
            self.held = text
            return length
        if text.startswith("\r"):
            self.held = ""
            if time.monotonic() - self.shown < _BRIEF or not text.strip():
                return length
            self.shown, text = time.monotonic(), text.strip() + "\n"
        elif text == "\x1b[A":
            return length
        self.file.write(self.held + text)
        self.file.flush()
        self.held = ""
        return length

    def flush(self) -> None:
        self.file.flush()


def _thinned(metrics: Sequence[Mapping[str, Any]], key: str) -> list[list[float]]:
    """(update, value) of about 60 rows, the last among them."""
    rows = [[row["update"], round(row[key], 6)] for row in metrics if row.get(key) is not None]
    every = max(1, -(-len(rows) // _POINTS))
    return rows[::-1][::every][::-1]
