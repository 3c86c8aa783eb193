"""Success on mazes that were never seen, by what a planner is shown and by how many mazes it was trained on.

    python benchmarks/maze2d.py maps8=RUN maps64=RUN maps512=RUN ... --plot docs/maze2d_unseen.png
    python benchmarks/maze2d.py --pictures RUN --plot docs/maze2d_failures.png

A row is a trained run that was evaluated on the forty new maps; `--commands` prints what makes it. Rows are kept in
`results/maze2d/random_maps.json`, so that those of another day need not be named again. The second command draws some
plans of a run's newest evaluation with drawings, maps with failures first.

Differences between two rows are means over maps of the differences of the same episodes: same map, start and
demonstrations. Their intervals are bootstrap intervals over maps, which are what was sampled.
"""

from __future__ import annotations

import json
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from maze2d_plot import draw_pictures, draw_rows

from mtdiff.evaluation import EvaluationResult
from mtdiff.evaluation.statistics import over_runs
from mtdiff.whole import write_text

HOME = Path(__file__).parent / "results" / "maze2d" / "random_maps.json"
UNSEEN = [f"random-8-1-{number}" for number in range(40)]
ON_UNSEEN = (
    "suite.random_seed=1 suite.random_maps=40 evaluation.episodes_per_task=10 evaluation.videos=false --demonstrate"
)
_SHORT = "training.updates=3000"
_READER = "hidden: [512, 512], activation: gelu"
_ABSOLUTE = "conditioning.history={name: history, length: 1, hidden: [64], activation: gelu, input_norm: false}"

ROWS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "long": ("512 maps, 12,000 updates", "planner_maps512", ()),
    "maps512": ("512 maps", "planner_maps512", (_SHORT,)),
    "maps64": ("64 maps", "planner_maps64", (_SHORT,)),
    "maps8": (
        "8 maps", "planner_maps512",
        (_SHORT, "suite.random_maps=8", "data.trajectories_per_task=512", "data.prompts_per_task=256",
         "training.batch_per_task=64"),
    ),
    "no_walls": ("the way without walls", "planner_maps512", (_SHORT, "conditioning.task.walls=false")),
    "no_way": (
        "walls and goal, no way", "planner_maps512",
        (_SHORT, f"conditioning.task={{name: surroundings, path: false, goal: true, {_READER}}}"),
    ),
    "numbers": (
        "way as numbers, from here", "planner_maps512",
        (_SHORT, f"conditioning.task={{name: path_prompt, length: 50, spacing: even, relative: [0, 1], {_READER}}}"),
    ),
    "absolute": (
        "way as numbers, where it lies", "planner_maps512",
        (_SHORT, f"conditioning.task={{name: path_prompt, length: 50, spacing: even, {_READER}}}", _ABSOLUTE),
    ),
    "absolute64": (
        "64 maps, way as numbers, where it lies", "planner_maps64",
        (_SHORT, f"conditioning.task={{name: path_prompt, length: 50, spacing: even, {_READER}}}", _ABSOLUTE),
    ),
    "none": ("nothing", "planner_maps512", (_SHORT, "conditioning.task=null", _ABSOLUTE)),
    "prompt_dt": ("PromptDT, 64 maps", "prompt_dt_maps64", (_SHORT,)),
}  # fmt: skip
"""A row's label, recipe and changes; the one named first is compared with all others."""


def main() -> None:
    options = _options()
    if options.commands:
        for row, (label, recipe, changes) in ROWS.items():
            print(f"# {row}: {label}\nmtdiff train maze2d/{recipe} {' '.join(map(shlex.quote, changes))}".rstrip())
            print(f"mtdiff evaluate RUN {ON_UNSEEN}")
        return
    if options.pictures:
        draw_pictures(_drawings(options.pictures), options.plot)
        return
    record = json.loads(HOME.read_text(encoding="utf-8")) if HOME.is_file() else {"rows": {}}
    for given in options.rows:
        row, _, run = given.partition("=")
        if row not in ROWS:
            raise SystemExit(f"{given}: no such row; there are {', '.join(ROWS)}")
        record["rows"] |= _read(row, Path(run))
    rows = {row: record["rows"][row] for row in (*ROWS, "copied", "expert") if row in record["rows"]}
    record = {"maps": UNSEEN, "evaluation": ON_UNSEEN, "rows": rows, "differences": _differences(rows)}
    write_text(HOME, json.dumps(record, indent=1) + "\n")
    for name, row in rows.items():
        low, high = row["interval"]
        more = " ".join(f"{label} {value:.2f}" for label, value in row["scores"].items())
        print(f"{name:10} {row['success']:.3f} ({low:.3f} to {high:.3f})  {more}  {row['label']}")
    for name, row in record["differences"].items():
        print(f"{name:24} {row['difference']:+.3f} ({row['interval'][0]:+.3f} to {row['interval'][1]:+.3f})")
    if options.plot:
        draw_rows(rows, options.plot)


def _options() -> Namespace:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW=RUN", help=f"trained runs; rows: {', '.join(ROWS)}")
    parser.add_argument("--commands", action="store_true", help="print what trains and evaluates every row")
    parser.add_argument("--pictures", type=Path, metavar="RUN", help="draw this run's plans instead")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where to draw")
    return parser.parse_args()


def _found(run: Path) -> list[dict[str, Any]]:
    """A run's evaluations, the newest last."""
    files = sorted(run.glob("evaluation/*/findings.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def _read(row: str, run: Path) -> dict[str, dict[str, Any]]:
    """A run's row and, where it was run beside it, the copier's and the demonstrator's."""
    fitting = [
        found
        for found in _found(run)
        if found["result"]["suite"]["tasks"] == UNSEEN and found["result"]["settings"]["episodes_per_task"] == 10
    ]
    if not fitting:
        raise SystemExit(f"{run}: was not evaluated on the new maps: mtdiff evaluate {run} {ON_UNSEEN}")
    found, info = fitting[-1], json.loads((run / "run.json").read_text(encoding="utf-8"))
    label, recipe, changes = ROWS[row]
    told = {"recipe": f"maze2d/{recipe}", "changes": list(changes), "run": run.name}
    told |= {"updates": info["updates"], "minutes": round(info["seconds"] / 60, 1), "hardware": info["hardware"]}
    rows = {row: {"label": label, **told, **_summary(found["result"])}}
    if found.get("swapped"):
        rows[row]["swapped"] = _summary(found["swapped"])
    if found.get("demonstrator"):
        rows["expert"] = {"label": "the demonstrator", **_summary(found["demonstrator"])}
    if copied := (found.get("others") or {}).get("copied path"):
        rows["copied"] = {"label": "copying the way", **_summary(copied)}
    return rows


def _summary(data: Mapping[str, Any]) -> dict[str, Any]:
    result = EvaluationResult.from_dict(data)
    won = {task: [episode.success for episode in result.episodes if episode.task == task] for task in result.by_task}
    return {
        "success": result.mean_success,
        "interval": list(result.mean_interval),
        "scores": result.scores(),
        "successes": {task: "".join(str(int(one)) for one in row) for task, row in won.items()},
    }


def _differences(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the best row and the one that the ingredients are taken from are better than all others by."""
    found = {}
    for better in ("long", "maps512"):
        for other in rows:
            if better in rows and other not in ("long", better):
                gaps = _by_map(rows[better]) - _by_map(rows[other])
                interval = over_runs([gaps])
                assert interval is not None
                found[f"{better} - {other}"] = {"difference": float(gaps.mean()), "interval": list(interval)}
    return found


def _by_map(row: Mapping[str, Any]) -> np.ndarray:
    return np.array([np.mean([one == "1" for one in row["successes"][task]]) for task in UNSEEN])


def _drawings(run: Path) -> Sequence[tuple[str, str]]:
    """Drawings of a run's newest evaluation that has any, with most failures first."""
    found = next((found["drawings"] for found in reversed(_found(run)) if found.get("drawings")), None)
    if found is None:
        raise SystemExit(f"{run}: no evaluation has drawings; evaluate it with evaluation.videos=true")
    return sorted(found.items(), key=lambda pair: -pair[1].count('class="lost"'))


if __name__ == "__main__":
    main()
