"""How every benchmark here measures, and the record it leaves."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mtdiff.runs import hardware, versions
from mtdiff.whole import write_text


def parse(
    description: str, *, rounds: int | None = None, more: Callable[[ArgumentParser], Any] | None = None
) -> Namespace:
    """Read the options that all benchmarks share, and keep torch to one thread.

    Args:
        description: what `--help` says.
        rounds: default of `--rounds`; None where nothing takes turns.
        more: adds a benchmark's own options.
    """
    parser = ArgumentParser(description=description)
    if more:
        more(parser)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="how often each is timed, in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    return options


def interleave(runs: Mapping[str, Callable[[], Any]], *, rounds: int) -> dict[str, list[float]]:
    """Time every run once a round, A B C A B C ..., after a round that is not counted.

    Returns:
        By name, CPU seconds of this process: what other programs do to the clock is left out, what they do to
        caches and frequency is not, and taking turns spreads that over all runs alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for count in range(rounds + 1):
        for name, run in runs.items():
            begun = time.process_time()
            run()
            if count:
                seconds[name].append(time.process_time() - begun)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "quartile_1": low, "quartile_3": high}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of the rounds."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def show(values: Mapping[str, float], *, scale: float = 1.0, digits: int = 2) -> str:
    """Return "median (quartile to quartile)"."""
    median, low, high = (f"{scale * values[key]:,.{digits}f}" for key in ("median", "quartile_1", "quartile_3"))
    return f"{median} ({low} to {high})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, the first column left, the others right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(path: Path | None, *, seed: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what was measured, how, with what and on what."""
    if path is None:
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    arguments = [f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    record = {
        "command": (f"OMP_NUM_THREADS={threads} " if threads else "") + shlex.join(["python", *arguments]),
        "hardware": f"{hardware()}; one thread",
        "versions": versions(),
        "seed": seed,
        "rows": list(rows),
    }
    write_text(path, json.dumps(record, indent=2) + "\n")
