"""What fine-tuning gains and loses: success before and after, on its own task and on others, and learning curves.

    OMP_NUM_THREADS=1 python benchmarks/finetuning.py outputs/runs/sodp_mt10-*/pipeline outputs/finetuned \
        --results benchmarks/results/sodp --plot docs/finetuning.png --json benchmarks/results/finetuning.json

Every evaluation is a small file in `--results` and is never done twice. `--on` adds tasks to forget.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import parse, table, write

from mtdiff.finetuning.curves import curve_of, gathered, plot
from mtdiff.finetuning.study import Copy, cell, copies_in, pooled
from mtdiff.studies.cells import Results, run_cells


def options_of(parser: ArgumentParser) -> None:
    parser.add_argument("base", type=Path, help="the pre-trained pipeline's folder")
    parser.add_argument("copies", type=Path, nargs="+", help="folders of finished copies, or ones that hold them")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of finished evaluations")
    parser.add_argument("--plot", type=Path, help="draw the learning curves here")
    parser.add_argument("--on", nargs="*", default=[], help="other tasks on which every copy is tried too")
    parser.add_argument("--episodes", type=int, default=50)


def groups_of(copies: Sequence[Copy]) -> dict[tuple[str, str], list[Copy]]:
    """Copies that differ in their seed alone."""
    found: dict[tuple[str, str], list[Copy]] = {}
    for one in copies:
        found.setdefault((one.task, one.label), []).append(one)
    return found


def span(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['success']:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    options = parse(__doc__.splitlines()[0], more=options_of)
    copies, results = copies_in(options.copies), Results(options.results)
    suite = dict(copies[0].done["content"]["suite"])
    told = {"episodes_per_task": options.episodes, "seed": options.seed + 1000, "workers": 1}
    tasks = list(dict.fromkeys([*(one.task for one in copies), *options.on]))
    before = {task: cell(options.base, None, task, suite=suite, evaluation=told) for task in tasks}
    after = {
        (one.folder, task): cell(options.base, one, task, suite=suite, evaluation=told)
        for one in copies
        for task in dict.fromkeys([one.task, *options.on])
    }
    run_cells([*before.values(), *after.values()], results)
    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[str, Any]] = {}
    for (task, label), members in groups_of(copies).items():
        lines = [curve_of(one.folder) for one in members]
        curves.setdefault(task, {})[label] = gathered(lines)
        for on in dict.fromkeys([task, *options.on]):
            found = [results.get(after[one.folder, on]) for one in members]
            rows.append({
                "task": task, "on": on, "label": label, "before": results.get(before[on]),
                "after": pooled([one for one in found if one]),
                "environment_steps": [one.done["environment_steps"] for one in members],
                "minutes": [round(one.done["seconds"] / 60, 1) for one in members],
                "settings": [dict(one.settings) for one in members],
            })  # fmt: skip
    rows.append({"curves": curves})
    heads = (
        "fine-tuned for",
        "tried on",
        "regulariser, lambda, least noise",
        "before",
        "after",
        "each seed",
        "minutes each",
    )
    print(table(heads, [
        (row["task"], row["on"], row["label"], span(row["before"]), span(row["after"]),
         ", ".join(f"{rate:.2f}" for rate in row["after"]["seeds"]), ", ".join(map(str, row["minutes"])))
        for row in rows if "task" in row
    ]))  # fmt: skip
    if options.plot:
        plot(curves, options.plot)
    write(options.json, seed=options.seed, rows=rows)


if __name__ == "__main__":
    main()
