"""One update of fine-tuning: mtdiff's flat batch, against a plain loop over timesteps.

    OMP_NUM_THREADS=1 python benchmarks/finetune_update.py --json benchmarks/results/finetune_update.json

Both weigh the same recorded chains under the same weights and clip their ratios. The plain loop is what one writes
first: timestep by timestep, the conditions encoded and the scheduler's own `step` called in each, log-probabilities by
torch's Normal. Before anything is timed, both must give the same loss and the same gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from measure import interleave, parse, ratio, show, spread, table, write
from torch import Tensor
from torch.distributions import Normal
from windows import numbers

from mtdiff.compose import compose
from mtdiff.finetuning.losses import surrogate
from mtdiff.finetuning.policy import ChainPolicy
from mtdiff.recipe import load_recipe

CLIP = 0.1
NETWORKS: dict[str, list[str]] = {
    "residual_mlp": [],
    "gpt2": ["backbone={name: gpt2, width: 128, num_layers: 4, num_heads: 4}"],
}
PLANS, TIMESTEPS = 96, (5, 20)


class Plain:
    """The same surrogate, written plainly around a diffusers scheduler that calls for one timestep at a time."""

    def __init__(self, policy: ChainPolicy):
        self.denoiser, self.scheduler = copy.deepcopy(policy.denoiser), policy.scheduler
        self.solver, self.floor, self.bounds, self.fields = (
            policy.solver,
            policy.std_floor,
            policy.bounds,
            policy.fields,
        )

    def loss(self, history: Tensor, chain: Tensor, before: Tensor, advantage: Tensor) -> Tensor:
        scheduler = type(self.scheduler).from_config(self.scheduler.config, clip_sample=False)
        scheduler.set_timesteps(len(self.solver))
        losses = []
        for i, timestep in enumerate(scheduler.timesteps):
            told = torch.full((len(history),), int(timestep))
            x0 = self.denoiser(chain[i], told, self.fields(history)).clamp(self.bounds[:, 0], self.bounds[:, 1])
            state = torch.zeros_like(x0)  # noise is left out: with none, `step` returns the mean
            moved = scheduler.step(x0, timestep, chain[i], generator=torch.Generator().manual_seed(i)).prev_sample
            drawn = torch.randn(x0.shape, generator=torch.Generator().manual_seed(i)) * self.solver.c[i] + state
            density = Normal(moved - drawn, max(self.solver.c[i], self.floor)).log_prob(chain[i + 1]).sum((-2, -1))
            weight = torch.exp(density - before[i])
            losses.append(-torch.min(weight * advantage, weight.clamp(1 - CLIP, 1 + CLIP) * advantage))
        return torch.stack(losses).mean()


def build(overrides: list[str], timesteps: int, seed: int) -> tuple[ChainPolicy, Plain, tuple[Tensor, ...]]:
    """A policy of random weights, its plain twin, and chains whose ratios are not all 1."""
    recipe = load_recipe(
        "metaworld/sodp_mt10", [*overrides, f"sampling.num_inference_steps={timesteps}", f"seed={seed}"]
    )
    policy = ChainPolicy(compose(recipe.values, numbers(4, 5, 60, seed), None)[0], std_floor=0.1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    history = torch.randn(PLANS, 2, 39, generator=generator)
    _, chain = policy.plan(history, [torch.Generator().manual_seed(i) for i in range(PLANS)])
    with torch.no_grad():
        before = policy(history, chain).log_prob(chain)
        before += 0.1 * torch.randn(before.shape, generator=generator)
    return policy, Plain(policy), (history, chain, before, torch.randn(PLANS, generator=generator))


def main() -> None:
    options = parse(__doc__.splitlines()[0], rounds=15)
    rows: list[dict[str, Any]] = []
    for network, overrides in NETWORKS.items():
        for timesteps in TIMESTEPS:
            policy, plain, batch = build(overrides, timesteps, options.seed)
            history, chain, before, advantage = batch

            def ours() -> Tensor:
                loss = surrogate(policy(history, chain).log_prob(chain), before, advantage, CLIP).mean()  # noqa: B023
                loss.backward()
                return loss

            def theirs() -> Tensor:
                loss = plain.loss(history, chain, before, advantage)  # noqa: B023
                loss.backward()
                return loss

            torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-4)
            for mine, other in zip(policy.denoiser.parameters(), plain.denoiser.parameters(), strict=True):
                torch.testing.assert_close(mine.grad, other.grad, rtol=1e-2, atol=1e-3)
            runs: dict[str, Callable[[], Any]] = {"mtdiff": ours, "plain loop": theirs}
            seconds = interleave(runs, rounds=options.rounds)
            rows += [
                {
                    "network": network,
                    "parameters": sum(value.numel() for value in policy.denoiser.parameters()),
                    "plans": PLANS,
                    "timesteps": timesteps,
                    "rounds": options.rounds,
                    "name": name,
                    "cpu_seconds": spread(measured),
                    "times": ratio(seconds["plain loop"], measured),
                }
                for name, measured in seconds.items()
            ]
    print(f"{PLANS} plans, forward and backward, {options.rounds} rounds")
    cells = [
        (
            f"{row['network']} ({row['parameters'] / 1e6:.2f} M), {row['timesteps']} timesteps, {row['name']}",
            show(row["cpu_seconds"], scale=1000, digits=1),
            show(row["times"]),
        )
        for row in rows
    ]
    print(table(("", "CPU ms", "times as fast"), cells))
    write(options.json, seed=options.seed, rows=rows)


if __name__ == "__main__":
    main()
