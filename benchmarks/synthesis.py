"""Writing transitions: MTDiff-S, the same network in a plain loop, and a SynthER-style loop of equal size.

    OMP_NUM_THREADS=1 python benchmarks/synthesis.py --json benchmarks/results/synthesis.json

All networks have random weights. MTDiff-S is that of `metaworld/synthesizer_mt10`: gpt2, H = 16, a prompt of 20 steps.
The plain loop around it is what one writes first with diffusers: conditions computed once, the whole network called for
every timestep and sample, the scheduler's own `step`. Before anything is timed, both must give the same states from the
same noise, without noise on the way. SynthER's loop (Lu et al. 2023) is EDM's: Heun's method with churn over a residual
network of as many parameters, for single transitions; mtdiff samples that network too, with its own solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from measure import interleave, parse, ratio, show, spread, table, write
from torch import Tensor
from windows import numbers

from mtdiff.compose import compose, sampling_scheduler
from mtdiff.conditioning.encoder import Condition
from mtdiff.pipelines import SynthesizerPipeline
from mtdiff.recipe import load_recipe

SAMPLES, SINGLE = 256, 1024  # pieces of episodes, and single transitions, at once
TIMESTEPS, SHORT, ALL = 20, 32, 128
CHURN, LEAST_CHURNED, MOST_CHURNED, NOISE = 80.0, 0.05, 50.0, 1.003  # SynthER's
LOWEST, HIGHEST, RHO = 0.002, 80.0, 7.0


def build(recipe: str, seed: int, *changes: str) -> SynthesizerPipeline:
    """A synthesizer with random weights."""
    values = load_recipe(recipe, [f"seed={seed}", "sampling.prompts_per_task=1", *changes]).values
    pipeline, _ = compose(values, numbers(10, 2, 60, seed), numbers(10, 1, 40, seed + 1))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in pipeline.backbone.named_parameters():
        if not parameter.any() and parameter.ndim > 1:  # what starts at zero would hide mistakes
            parameter.data.normal_(std=0.05, generator=generator)
        elif "head" in name and parameter.ndim > 1:
            parameter.data.mul_(3)
    return pipeline


def size(pipeline: SynthesizerPipeline) -> int:
    """Parameters of the network."""
    return sum(parameter.numel() for parameter in pipeline.backbone.parameters())


def of_equal_size(like: SynthesizerPipeline, seed: int) -> SynthesizerPipeline:
    """SynthER's network with about as many parameters."""

    def make(width: int) -> SynthesizerPipeline:
        return build("metaworld/synther", seed, f"backbone.width={width}", "data.trajectories_per_task=1")

    widths = range(64, 513, 16)
    return make(min(widths, key=lambda width: abs(size(make(width)) - size(like))))


class PlainLoop:
    """MTDiff-S as one writes it first with diffusers.

    Args:
        pipeline: whose parts are called.
        solver: of `SCHEDULERS`.
    """

    def __init__(self, pipeline: SynthesizerPipeline, solver: dict[str, Any], training: dict[str, Any]):
        self.pipeline, self.scheduler = pipeline, sampling_scheduler(solver, training)

    @torch.inference_mode()
    def sample(self, prompt: Any, noise: Tensor) -> Tensor:
        """From noise (B, H, D) to x (B, H, D)."""
        pipe, count = self.pipeline, len(noise)
        fields = {
            "prompt_states": pipe.normalizer.states(prompt.states)[None].expand(count, -1, -1),
            "prompt_actions": pipe.normalizer.actions(prompt.actions)[None].expand(count, -1, -1),
        }
        condition = pipe.conditioning(fields)
        low, high = pipe.representation.bounds.unbind(-1)
        self.scheduler.set_timesteps(TIMESTEPS)
        x = noise
        for timestep in self.scheduler.timesteps:
            x0 = pipe.backbone(x, timestep.expand(count), condition).clamp(low, high)
            x = self.scheduler.step(x0, timestep, x, return_dict=False)[0]
        return x


class Heun:
    """EDM's stochastic sampler (Karras et al. 2022, algorithm 2) around a network that predicts a velocity.

    Args:
        pipeline: whose network is called; its timesteps are ranks of sigma.
    """

    def __init__(self, pipeline: SynthesizerPipeline):
        self.pipeline = pipeline
        kept = pipeline.scheduler.alphas_cumprod.double()
        self.known = ((1 - kept) / kept).sqrt()
        ends = [end ** (1 / RHO) for end in (HIGHEST, LOWEST)]
        steps = torch.linspace(0, 1, ALL, dtype=torch.float64)
        self.sigmas = [*((ends[0] + steps * (ends[1] - ends[0])) ** RHO).tolist(), 0.0]

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """D(x; sigma), clamped."""
        rank = int((self.known - sigma).abs().argmin())
        scale = 1 / math.sqrt(1 + sigma * sigma)
        velocity = self.pipeline.backbone(scale * x, torch.full((len(x),), rank), Condition(tokens={}))
        low, high = self.pipeline.representation.bounds.unbind(-1)
        return (scale * scale * x - sigma * scale * velocity).clamp(low, high)

    @torch.inference_mode()
    def sample(self, noise: Tensor, steps: int = ALL) -> Tensor:
        """From noise (B, H, D) to x, or the first `steps` steps of it, to be timed."""
        x = noise * self.sigmas[0]
        for now, after in list(zip(self.sigmas[:-1], self.sigmas[1:], strict=True))[:steps]:
            if LEAST_CHURNED <= now <= MOST_CHURNED:
                raised = now * (1 + min(CHURN / ALL, math.sqrt(2) - 1))
                x = x + math.sqrt(raised**2 - now**2) * NOISE * torch.randn_like(x)
            else:
                raised = now
            slope = (x - self.denoise(x, raised)) / raised
            ahead = x + (after - raised) * slope
            if after:
                slope = (slope + (ahead - self.denoise(ahead, after)) / after) / 2
                ahead = x + (after - raised) * slope
            x = ahead
        return x


def agree(pipeline: SynthesizerPipeline, training: dict[str, Any]) -> float:
    """Largest difference between both loops' states over the largest state, without noise on the way."""
    ode = {"name": "dpm_solver"}
    mine = SynthesizerPipeline(
        **{**pipeline.components, "scheduler": sampling_scheduler(ode, training)},
        num_inference_steps=TIMESTEPS,
    )
    prompt = pipeline.prompts[next(iter(pipeline.prompts))][0]
    made = mine(prompt=prompt, num_samples=8, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    shape = (pipeline.representation.horizon, pipeline.representation.channels)
    noise = torch.stack([torch.randn(1, *shape, generator=generator)[0] for _ in range(8)])
    x = PlainLoop(pipeline, ode, training).sample(prompt, noise)
    states = pipeline.normalizer.physical_states(
        pipeline.representation.decode(x, pipeline.scale_for(prompt))["states"]
    )
    states = pipeline.representation.repeat(states)
    return float((states - made.states).abs().max() / made.states.abs().max())


def main() -> None:
    options = parse(__doc__.splitlines()[0], rounds=5)
    values = load_recipe("metaworld/synthesizer_mt10").values
    training, solver = values["scheduler"], values["sampling"]["scheduler"]
    ours = build("metaworld/synthesizer_mt10", options.seed)
    difference = agree(ours, training)
    if difference > 1e-3:
        raise SystemExit(f"the loops do not agree: {difference:.1e}")
    single = of_equal_size(ours, options.seed)
    prompt = ours.prompts[next(iter(ours.prompts))][0]
    generator = torch.Generator().manual_seed(options.seed)
    plain, heun = PlainLoop(ours, solver, training), Heun(single)
    shapes = [(p.representation.horizon, p.representation.channels) for p in (ours, single)]
    part = 8  # all steps of EDM's sampler but the last cost the same: so many of them are timed
    runs: dict[str, tuple[Callable[[], Any], float]] = {
        f"mtdiff, MTDiff-S, SDE-DPM-Solver++, {TIMESTEPS}": (
            lambda: ours(prompt=prompt, num_samples=SAMPLES, generator=generator), SAMPLES * shapes[0][0],
        ),
        f"plain loop, MTDiff-S, SDE-DPM-Solver++, {TIMESTEPS}": (
            lambda: plain.sample(prompt, torch.randn(SAMPLES, *shapes[0])), SAMPLES * shapes[0][0],
        ),
        f"mtdiff, SynthER, SDE-DPM-Solver++, {SHORT}": (
            lambda: single(num_samples=SINGLE, num_inference_steps=SHORT, generator=generator), SINGLE,
        ),
        f"mtdiff, SynthER, SDE-DPM-Solver++, {ALL}": (
            lambda: single(num_samples=SINGLE, num_inference_steps=ALL, generator=generator), SINGLE,
        ),
        f"SynthER-style loop, Heun with churn, {ALL}": (
            lambda: heun.sample(torch.randn(SINGLE, *shapes[1]), part), SINGLE * part / ALL,
        ),
    }  # fmt: skip
    seconds = interleave({name: run for name, (run, _) in runs.items()}, rounds=options.rounds)
    costs = {name: [s / runs[name][1] for s in values] for name, values in seconds.items()}  # CPU seconds a transition
    rates = {name: spread([1 / cost for cost in values]) for name, values in costs.items()}
    first = next(iter(costs))
    print(f"MTDiff-S {size(ours):,} parameters, SynthER {size(single):,}; both loops agree to {difference:.1e}\n")
    rows = [
        [name, show(rates[name], digits=0), "" if name == first else show(ratio(cost, costs[first]))]
        for name, cost in costs.items()
    ]
    print(table(["", "transitions a CPU second", "times MTDiff-S's cost"], rows))
    write(
        options.json,
        seed=options.seed,
        rows=[
            {"name": name, "transitions_per_cpu_second": rates[name], "cost_over_mtdiff_s": ratio(cost, costs[first])}
            for name, cost in costs.items()
        ]
        + [{"parameters": {"MTDiff-S": size(ours), "SynthER": size(single)}, "agree": difference}],
    )


if __name__ == "__main__":
    main()
