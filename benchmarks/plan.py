"""Planning: mtdiff, a plain loop around the same network, and a bidirectional transformer of equal size.

    OMP_NUM_THREADS=1 python benchmarks/plan.py --json benchmarks/results/plan.json

The network is the paper's: gpt2 of width 256 with 6 layers and 4 heads, H=32, J=20 prompt tokens, L=2, a return to be
guided by (two branches); random weights. mtdiff plans after an episode's reset, which is timed apart. Before anything
is timed, all 200 timesteps must give the plain loop's actions, with estimates of x0 clamped and not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from measure import interleave, parse, ratio, show, spread, table, write
from naive import DiT, NaivePlanner
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from windows import STATE_DIM, numbers

import mtdiff.pipelines.sampler as sampler
from mtdiff.compose import compose
from mtdiff.diffusion import sample
from mtdiff.pipelines import PlannerAgent, PlannerPipeline
from mtdiff.recipe import load_recipe
from mtdiff.registry import SCHEDULERS
from mtdiff.schedulers import probe

BATCHES = {1: 12, 10: 4, 50: 3}  # environments planned for at once, and rounds where `--rounds` is 12
NAIVE_TIMESTEPS = {1: 20, 10: 4, 50: 1}  # timed of the plain loop, whose timesteps all cost the same
GUIDANCE, TEMPERATURE, ALL, FEW = 1.2, 0.5, 200, 10
GOALS = {
    "naive DDPM-200 / mtdiff DDPM-200": (6, 12, 16),
    "naive DDPM-200 / mtdiff 10": (130, 250, 320),
    "DiT 10 / mtdiff 10": (3, 6, 7),
    "naive 10 / mtdiff 10, whole horizon": (1.9, 1.6, 1.6),
}


def build(seed: int, *changes: str) -> PlannerPipeline:
    """The paper's planner with random weights, for 50 tasks with a prompt each."""
    recipe = load_recipe("presets/default", [f"seed={seed}", "sampling.prompts_per_task=1", *changes])
    pipeline, _ = compose(recipe.values, numbers(50, 2, 60, seed), numbers(50, 1, 40, seed + 1))
    generator = torch.Generator().manual_seed(seed)
    # Some start at zero, where a mistake about them would not show, and an untrained head never meets the clamp.
    pipeline.backbone.head[-1].weight.data.mul_(5)
    for parameter in (pipeline.backbone.positions, pipeline.conditioning.encoder("return").null):
        parameter.data.normal_(std=0.1, generator=generator)
    return pipeline


def sampled_by(pipeline: PlannerPipeline, scheduler: str) -> PlannerPipeline:
    """The same parts with another scheduler."""
    return PlannerPipeline(**{**pipeline.components, "scheduler": SCHEDULERS.build({"name": scheduler})})


class Side:
    """Everything that plans for a batch: conditions, states and noise are the same for all of them.

    Args:
        pipeline: with the DDPM scheduler.
        bidirectional: a pipeline whose network is not causal.
        batch: B, environments.
        seed: of states, noise and agents.
    """

    def __init__(self, pipeline: PlannerPipeline, bidirectional: PlannerPipeline, batch: int, seed: int):
        self.batch, self.seed = batch, seed
        self.few = sampled_by(pipeline, "dpm_solver")
        self.tasks = list(pipeline.prompts)[:batch]
        generator = torch.Generator().manual_seed(seed)
        self.states = torch.randn(batch, 2, STATE_DIM, generator=generator)
        self.noise = torch.randn(ALL + 1, batch, 32, 4, generator=generator)
        self.fields = conditions(pipeline, self.tasks, self.states)
        self.naive = NaivePlanner(pipeline, guidance_scale=GUIDANCE, temperature=TEMPERATURE)
        self.agents = {
            "mtdiff DDPM-200": self.agent(pipeline, num_inference_steps=ALL),
            "mtdiff 10": self.agent(self.few),
            "mtdiff 10, prompt from a pool": self.agent(sampled_by(pipeline, "dpm_solver"), policy="pool"),
            "mtdiff 10, prompt every plan": self.agent(sampled_by(pipeline, "dpm_solver"), policy="every_plan"),
            "mtdiff 10, bidirectional": self.agent(sampled_by(bidirectional, "dpm_solver")),
        }
        self.dit = DiT(channels=4, horizon=32).eval()
        self.vectors = torch.randn(2 * batch, 256, generator=generator)
        self.prefix = self.few.prefix(prompt=self.tasks, num_inference_steps=FEW, guidance_scale=GUIDANCE)

    def agent(self, pipeline: PlannerPipeline, policy: str = "episode", **overrides: Any) -> PlannerAgent:
        pipeline.register_to_config(prompt_policy=policy)
        arguments = {"num_inference_steps": FEW, "guidance_scale": GUIDANCE, "temperature": TEMPERATURE}
        return PlannerAgent(pipeline, execute=1, prefix_memory=8 * 2**30, **(arguments | overrides))

    def runs(self) -> dict[str, Callable[[], Any]]:
        """What is timed, by name."""
        slots, newest = np.arange(self.batch), self.states[:, -1].numpy()
        for name in self.agents:
            begun = time.process_time()
            self.agents[name].reset(self.tasks, range(self.batch))
            if name == "mtdiff DDPM-200":
                self.reset_all = time.process_time() - begun
        acting = {name: lambda agent=agent: agent.act(newest, slots) for name, agent in self.agents.items()}
        return {
            "naive": lambda: self.naive.plan(self.fields, self.noise, NAIVE_TIMESTEPS[self.batch]),
            **acting,
            "mtdiff 10, whole horizon": self.whole_horizon,
            "DiT 10": self.dit_plan,
            "reset 10": lambda: self.agents["mtdiff 10"].reset(self.tasks, range(self.batch)),
        }

    def whole_horizon(self) -> Tensor:
        return self.few(
            history=self.states,
            temperature=TEMPERATURE,
            generator=torch.Generator().manual_seed(self.seed),
            prefix=self.prefix,
        ).actions

    @torch.no_grad()
    def dit_plan(self) -> Tensor:
        """Both branches in one batch, with mtdiff's own loop and solver around it."""

        def predict(x: Tensor, i: int) -> Tensor:
            timestep = torch.full((2 * self.batch,), solver.timesteps[i])
            return self.dit(x.repeat(2, 1, 1), timestep, self.vectors).unflatten(0, (2, self.batch))

        solver, bounds = probe(self.few.scheduler, FEW), self.few.representation.bounds
        noise = torch.randn(1, self.batch, 32, 4)
        return sample(predict, solver, noise, guidance_scale=GUIDANCE, bounds=bounds, temperature=TEMPERATURE)


def conditions(pipeline: PlannerPipeline, tasks: list[str], states: Tensor) -> dict[str, Tensor]:
    """What a network reads, in model space."""
    prompts = [pipeline.prompts[task][0] for task in tasks]
    return {
        "prompt_states": pipeline.normalizer.states(torch.stack([prompt.states for prompt in prompts])),
        "prompt_actions": pipeline.normalizer.actions(torch.stack([prompt.actions for prompt in prompts])),
        "history": pipeline.normalizer.states(states),
        "return": torch.ones(len(tasks), 1),
    }


def differences(pipeline: PlannerPipeline, seed: int) -> dict[str, float]:
    """How far mtdiff's actions are from the plain loop's, over DDPM's 200 timesteps, for one environment.

    Raises:
        AssertionError: further than rounding explains.
    """
    task, found = next(iter(pipeline.prompts)), {}
    states = torch.randn(1, 2, STATE_DIM, generator=torch.Generator().manual_seed(seed))
    noise = torch.randn(ALL + 1, 32, 4, generator=torch.Generator().manual_seed(seed))[:, None]
    normalizer, bounds = pipeline.normalizer, pipeline.representation.bounds
    kept = normalizer.action_scale.clone(), bounds.clone()
    for clamp, unit in (("clamped", 1.0), ("not clamped", 1e-6)):
        # Actions of at most 1 are a million in model space when one there is a millionth of an action.
        normalizer.action_scale.fill_(unit)
        pipeline.representation.limit(normalizer)
        naive = NaivePlanner(pipeline, guidance_scale=GUIDANCE, temperature=TEMPERATURE)
        expected = naive.plan(conditions(pipeline, [task], states), noise)
        said = {"prompt": task, "num_inference_steps": ALL, "guidance_scale": GUIDANCE}
        for count in (1, 32):
            generator = torch.Generator().manual_seed(seed)
            given = {"history": states, "temperature": TEMPERATURE, "num_actions": count, "generator": generator}
            prefix = pipeline.prefix(**said, num_actions=count)
            off = pipeline(**given, prefix=prefix).actions / unit - expected[:, :count]
            found[f"{clamp}, {count} of 32 actions"] = float(off.abs().max() / expected.abs().max())
            assert off.abs().max() < 1e-4 * expected.abs().max(), found
        found[f"{clamp}, largest action"] = float(expected.abs().max())
    normalizer.action_scale.copy_(kept[0])
    bounds.copy_(kept[1])
    return found


@contextmanager
def stopwatch(pipeline: PlannerPipeline) -> Iterator[dict[str, float]]:
    """CPU seconds inside the parts of a plan, added up while the context lasts."""
    spent = {"conditions": 0.0, "prefill": 0.0, "decode": 0.0, "sample": 0.0}

    def timed(name: str, function: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            begun = time.process_time()
            result = function(*args, **kwargs)
            spent[name] += time.process_time() - begun
            return result

        return run

    prepare = pipeline.backbone.prepare
    pipeline.conditioning.branches = timed("conditions", pipeline.conditioning.branches)
    pipeline.backbone.prepare = lambda *a, **k: timed("decode", timed("prefill", prepare)(*a, **k))
    sampler.sample = timed("sample", sample)
    try:
        yield spent
    finally:
        sampler.sample = sample
        del pipeline.conditioning.branches, pipeline.backbone.prepare


def breakdown(pipeline: PlannerPipeline, act: Callable[[], Any], plans: int) -> dict[str, float]:
    """Mean CPU seconds of a plan by part: the loop is `sample` without the network, the rest all the remainder."""
    with stopwatch(pipeline) as spent:
        begun = time.process_time()
        for _ in range(plans):
            act()
        total = time.process_time() - begun
    loop = spent.pop("sample") - spent["decode"]
    parts = {**spent, "loop": loop, "rest": total - loop - sum(spent.values())}
    return {name: seconds / plans for name, seconds in {**parts, "plan": total}.items()}


def measure(side: Side, rounds: int) -> list[dict[str, Any]]:
    """All rows of one batch size."""
    runs = side.runs()
    seconds = interleave(runs, rounds=rounds)
    timed, place = NAIVE_TIMESTEPS[side.batch], list(BATCHES).index(side.batch)
    naive = seconds.pop("naive")
    seconds["naive DDPM-200"] = [value * ALL / timed for value in naive]
    seconds["naive 10"] = [value * FEW / timed for value in naive]
    facts = {"batch": side.batch, "rounds": rounds, "naive_timesteps_timed": timed}
    rows: list[dict[str, Any]] = [
        {**facts, "name": name, "cpu_seconds": spread(values)} for name, values in seconds.items()
    ]
    rows.append({**facts, "name": "reset DDPM-200", "rounds": 1, "cpu_seconds": {"median": side.reset_all}})
    for name, agent in side.agents.items():
        if agent.prefix_bytes:
            rows.append({**facts, "name": f"prefix of {name}", "bytes": agent.prefix_bytes})
    for name, goals in GOALS.items():
        slow, fast = name.split(" / ")
        rows.append({**facts, "name": name, "times": ratio(seconds[slow], seconds[fast]), "goal": goals[place]})
    for other in ("prompt from a pool", "prompt every plan", "bidirectional"):
        other = f"mtdiff 10, {other}"
        rows.append({**facts, "name": f"{other} / mtdiff 10", "times": ratio(seconds[other], seconds["mtdiff 10"])})
    for name, plans in {"mtdiff 10": max(3, 30 // side.batch), "mtdiff DDPM-200": 3}.items():
        if side.batch > 1 and name == "mtdiff DDPM-200":
            continue  # as at one environment, only slower
        parts = breakdown(side.agents[name].pipeline, runs[name], plans)
        with FlopCounterMode(display=False) as counter:
            runs[name]()
        flops = counter.get_total_flops()
        rows.append({**facts, "name": f"parts of {name}", "cpu_seconds_by_part": parts, "flops": flops})
    return rows


def show_all(rows: list[dict[str, Any]]) -> None:
    """Print the tables: plans, ratios, parts."""

    def lines(field: str, text: Callable[[dict[str, Any]], str]) -> list[list[str]]:
        names = dict.fromkeys(row["name"] for row in rows if field in row)
        of = {(row["name"], row["batch"]): row for row in rows if field in row}
        return [[name, *(text(of[name, b]) if (name, b) in of else "" for b in BATCHES)] for name in names]

    def milliseconds(row: dict[str, Any]) -> str:
        spreads = row["cpu_seconds"]
        return show(spreads, scale=1000, digits=1) if len(spreads) > 1 else f"{1000 * spreads['median']:,.0f} (once)"

    def times(row: dict[str, Any]) -> str:
        return show(row["times"], digits=1) + (f", asked for {row['goal']}" if "goal" in row else "")

    heads = [f"batch {batch}" for batch in BATCHES]
    print(table(["CPU ms", *heads], lines("cpu_seconds", milliseconds)), end="\n\n")
    print(table(["times", *heads], lines("times", times)), end="\n\n")
    print(table(["MB", *heads], lines("bytes", lambda row: f"{row['bytes'] / 1e6:.1f}")), end="\n\n")
    cells = []
    for row in rows:
        if "cpu_seconds_by_part" in row:
            parts = dict(row["cpu_seconds_by_part"])
            total = parts.pop("plan")
            shares = [f"{seconds / total:.1%}" for seconds in parts.values()]
            speed = f"{row['flops'] / total / 1e9:.0f}"
            cells.append([f"{row['name']}, batch {row['batch']}", f"{1000 * total:,.1f}", *shares, speed])
    print(table(["", "CPU ms", "conditions", "prefill", "decode", "loop", "rest", "GFLOP/s"], cells))


def main() -> None:
    options = parse(__doc__.splitlines()[0], rounds=12)
    pipeline = sampled_by(build(options.seed), "ddpm")
    bidirectional = build(options.seed, "backbone.attention=bidirectional")
    found = differences(pipeline, options.seed)
    print("largest difference from the plain loop, as a share of its largest action, DDPM-200:")
    print("\n".join(f"    {name}: {value:.2g}" for name, value in found.items()), end="\n\n", flush=True)
    rows: list[dict[str, Any]] = [{"name": "differences from naive DDPM-200", "batch": 1, **found}]
    for batch, share in BATCHES.items():
        rounds = max(2, round(options.rounds * share / BATCHES[1]))
        begun = time.process_time()
        rows += measure(Side(pipeline, bidirectional, batch, options.seed), rounds)
        print(
            f"batch {batch}: {rounds} rounds took {time.process_time() - begun:.0f} CPU s", file=sys.stderr, flush=True
        )
    show_all(rows)
    write(options.json, seed=options.seed, rows=rows)


if __name__ == "__main__":
    main()
