"""Success and distributions against the number of sampling timesteps, for every scheduler, of one trained planner.

    OMP_NUM_THREADS=1 python benchmarks/timesteps.py RUN --plot docs/timesteps.png

Every cell is a small file in `results/timesteps/`, named by the planner's weights and the cell's settings: a finished
one is never repeated, so that this command can be stopped and started, and run again after more cells were asked for.
A success cell is mtdiff's own evaluation. A distance cell compares samples of the first action, for histories from
episodes that were held out of training, with DDPM's at all timesteps: energy distance (Szekely & Rizzo 2013),
2 E|X - Y| - E|X - X'| - E|Y - Y'|, unbiased, mean over histories. Another seed of DDPM shows what is no difference.
"""

from __future__ import annotations

import functools
import hashlib
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import parse, table
from torch import Tensor

import mtdiff
from mtdiff.compose import set_sampling
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.evaluation import Evaluation, evaluate
from mtdiff.pipelines import PlannerAgent, PlannerPipeline
from mtdiff.runs import Run, hardware, versions
from mtdiff.whole import write_text

HOME = Path(__file__).parent / "results" / "timesteps"
TIMESTEPS = (1, 2, 5, 10, 20, 50, 200)
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDPM": {"name": "ddpm"},
    "SDE-DPM-Solver++": {"name": "dpm_solver", "stochastic": True},
    "DDIM": {"name": "ddim"},
    "DPM-Solver++": {"name": "dpm_solver"},
    "UniPC": {"name": "unipc"},
    "DEIS": {"name": "deis"},
}
WARM = "DPM-Solver++, first noise 1.0"  # the deterministic default, but with a first noise of full variance
FLOOR = "DDPM, another seed"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number to find.

    Attributes:
        kind: "success" or "distance".
        name: of the row in the tables.
        sampling: scheduler, num_inference_steps and initial_temperature.
        settings: what else the number depends on.
        weights: hash of the planner.
    """

    kind: str
    name: str
    sampling: Mapping[str, Any]
    settings: Mapping[str, Any]
    weights: str

    @property
    def path(self) -> Path:
        """Where it is kept; the name it is shown by may change."""
        key = json.dumps([self.kind, self.sampling, self.settings, self.weights], sort_keys=True)
        return HOME / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"

    @property
    def found(self) -> dict[str, Any] | None:
        """What is kept, if it was found before."""
        return json.loads(self.path.read_text()) if self.path.is_file() else None

    def keep(self, found: Mapping[str, Any]) -> None:
        """Write it, beside what it depends on and was measured with."""
        record = {"kind": self.kind, "name": self.name, **found, "sampling": self.sampling, "settings": self.settings}
        record |= {"weights": self.weights, "hardware": hardware(), "versions": versions()}
        HOME.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(record, indent=1) + "\n")


class Bench:
    """A trained planner, and the ways to fill a cell.

    Args:
        options: of the command line.
    """

    def __init__(self, options: Namespace):
        self.run, self.options = Run(options.run), options
        self.pipeline: PlannerPipeline = mtdiff.load(options.run)
        config = self.pipeline.config
        self.common = {name: config[name] for name in ("guidance_scale", "temperature", "execute", "prompt_policy")}
        self.episodes = {"episodes_per_task": options.episodes, "seed": options.seed, "max_steps": options.max_steps}
        self.suite = self.run.recipe.build("suite")
        digest = hashlib.sha256()
        for path in sorted(self.run.pipeline.rglob("*.safetensors")):  # weights, prompts and normaliser
            digest.update(path.relative_to(self.run.pipeline).as_posix().encode() + path.read_bytes())
        self.weights = digest.hexdigest()[:16]

    def cells(self) -> Iterator[Cell]:
        """All cells, the cheap ones first."""
        rows = {name: (scheduler, None) for name, scheduler in SCHEDULERS.items()}
        rows[WARM] = (SCHEDULERS["DPM-Solver++"], 1.0)
        success = self.common | self.episodes | {"suite": self.pipeline.config.suite}
        contexts = {"contexts": self.options.contexts, "samples": self.options.samples, "seed": self.options.seed}
        distance = {
            "temperature": self.common["temperature"],
            "guidance_scale": self.common["guidance_scale"],
            **contexts,
        }
        for count in TIMESTEPS:
            for name, (scheduler, initial) in rows.items():
                sampling = {"scheduler": scheduler, "num_inference_steps": count, "initial_temperature": initial}
                if self.options.only in ("success", None):
                    yield Cell(kind="success", name=name, sampling=sampling, settings=success, weights=self.weights)
                if self.options.only in ("distance", None):
                    floor = name == "DDPM" and count == TIMESTEPS[-1]
                    yield Cell(
                        kind="distance",
                        name=FLOOR if floor else name,
                        sampling=sampling,
                        settings=distance,
                        weights=self.weights,
                    )

    def fill(self, cell: Cell) -> None:
        """Find a cell's number and keep it."""
        cell.keep(self.success(cell) if cell.kind == "success" else self.distance(cell))

    def success(self, cell: Cell) -> dict[str, Any]:
        set_sampling(self.pipeline, cell.sampling)
        settings = Evaluation(**self.episodes, workers=self.options.workers)
        label = f"{cell.name}, {cell.sampling['num_inference_steps']}"
        result = evaluate(PlannerAgent(self.pipeline), self.suite, settings=settings, label=label)
        return {
            "success": result.mean_success,
            "interval": result.mean_interval,
            "tasks": {task: row.successes for task, row in result.by_task.items()},
            "seconds": result.seconds,
            "planning_seconds": result.planning_seconds,
        }

    def distance(self, cell: Cell) -> dict[str, Any]:
        reference = self.reference
        found = self.first_actions(cell.sampling, seed=1 + self.options.seed)
        each = np.array([energy_distance(a, b) for a, b in zip(found, reference, strict=True)])
        return {"distance": float(each.mean()), "standard_error": float(each.std(ddof=1) / len(each) ** 0.5)}

    @functools.cached_property
    def reference(self) -> Tensor:
        """What every distance is measured from."""
        sampling = {"scheduler": SCHEDULERS["DDPM"], "num_inference_steps": TIMESTEPS[-1], "initial_temperature": None}
        return self.first_actions(sampling, seed=1_000_000 + self.options.seed)

    def first_actions(self, sampling: Mapping[str, Any], *, seed: int) -> Tensor:
        """Samples of the first action, (contexts, samples, A)."""
        set_sampling(self.pipeline, sampling)
        count, rows = self.options.samples, []
        for number, (task, which, history) in enumerate(self.contexts):
            generators = [torch.Generator().manual_seed(seed * 10**6 + number * count + i) for i in range(count)]
            prefix = self.pipeline.prefix(prompt=self.pipeline.prompts[task][which], num_actions=1)
            shared = prefix.rows(torch.zeros(count, dtype=torch.long))  # one prompt for all samples
            rows.append(self.pipeline(prefix=shared, history=history, generator=generators).actions[:, 0])
        return torch.stack(rows)

    @functools.cached_property
    def contexts(self) -> list[tuple[str, int, np.ndarray]]:
        """Task, number of its prompt, and states before and at a step of an episode that was not learnt from."""
        episodes = held_out(self.run)
        encoder = self.pipeline.conditioning.reading("history")
        length, rng, found = encoder.length if encoder else 1, np.random.default_rng(self.options.seed), []
        for number in range(self.options.contexts):
            task = episodes.tasks[number % len(episodes.tasks)]
            episode = rng.choice(np.flatnonzero(episodes.task_index == episodes.tasks.index(task)))
            step = int(rng.integers(length - 1, episodes.lengths[episode]))
            states = episodes[int(episode)].states[step - length + 1 : step + 1]
            found.append((task, int(rng.integers(len(self.pipeline.prompts[task]))), states))
        return found


def held_out(run: Run) -> TrajectoryDataset:
    """The episodes of a run's data that it was validated on."""
    from mtdiff.runs import _split

    recipe = run.recipe
    dataset = TrajectoryDataset.load(Path(run.info["data"]["folder"]))
    _, rest = _split(dataset, recipe.get("training.validation"), recipe.get("seed"))
    assert rest is not None, "this run was trained without validation, so no episode is unknown to it"
    return rest


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased energy distance of two samples (n, A) and (m, A)."""
    n, m = len(x), len(y)
    within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (m * (m - 1))
    return float(2 * torch.cdist(x, y).mean() - within)


def tables(cells: list[Cell]) -> str:
    """Markdown: a row per scheduler and a column per number of timesteps."""
    pieces = []
    for kind, title in (("success", "mean success (95 % interval)"), ("distance", "energy distance to DDPM-200, 1e-3")):
        of = {(c.name, c.sampling["num_inference_steps"]): c.found for c in cells if c.kind == kind}
        rows = [
            [name, *(_text(of.get((name, count))) for count in TIMESTEPS)] for name in dict.fromkeys(n for n, _ in of)
        ]
        pieces.append(table((title, *map(str, TIMESTEPS)), rows))
    return "\n\n".join(pieces)


def _text(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["kind"] == "success":
        return f"{found['success']:.3f} ({found['interval'][0]:.2f} to {found['interval'][1]:.2f})"
    return f"{1000 * found['distance']:.2f} ± {1000 * found['standard_error']:.2f}"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a trained planner's run")
    parser.add_argument("--episodes", type=int, default=20, help="per task")
    parser.add_argument("--max-steps", type=int, help="of an episode; by default the suite's own limit")
    parser.add_argument("--contexts", type=int, default=64, help="histories for the distances")
    parser.add_argument("--samples", type=int, default=64, help="of the first action, for each of them")
    parser.add_argument("--workers", type=int, default=1, help="simulator processes")
    parser.add_argument("--only", choices=["success", "distance"], help="one kind of cells")
    parser.add_argument("--most", type=int, default=TIMESTEPS[-1], help="sampling timesteps; more are left out")
    parser.add_argument("--show", action="store_true", help="find nothing, only show what was found before")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what was found")


def main() -> None:
    options = parse(__doc__.splitlines()[0], more=arguments)
    bench = Bench(options)
    cells = [cell for cell in bench.cells() if cell.sampling["num_inference_steps"] <= options.most]
    for cell in cells:
        if cell.found is None and not options.show:
            bench.fill(cell)
    print(tables(cells))
    if options.plot:
        from timesteps_plot import draw

        draw(cells, options.plot)


if __name__ == "__main__":
    main()
