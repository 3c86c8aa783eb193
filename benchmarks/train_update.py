"""One training update: mtdiff's trainer, against a plain loop with the same network.

    OMP_NUM_THREADS=1 python benchmarks/train_update.py --json benchmarks/results/train_update.json

The plain loop is what one writes first: batches from a DataLoader, Adam, gradient clipping, and a moving average
kept parameter by parameter, and every token passing every layer. Before anything is timed, both must give the same loss
for the same batch.
"""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import interleave, parse, ratio, show, spread, table, write
from naive import plain_network
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from windows import PlainWindows, numbers

from mtdiff.compose import compose, windows
from mtdiff.diffusion import Denoiser
from mtdiff.recipe import load_recipe
from mtdiff.training import Trainer

SIZES: dict[str, tuple[str, list[str]]] = {
    "quickstart": ("quickstart", []),
    "paper": ("presets/default", ["representation.horizon=32"]),
}
TASKS, BATCH = 4, 64
UPDATES = {"quickstart": 8, "paper": 1}  # a round
LISTED = 12  # operators of a profile
MATMUL, MATMULS = 1024, 4


def plain_loss(
    denoiser: Denoiser,
    alphas_cumprod: Tensor,
    batch: Mapping[str, Tensor],
    timestep: Tensor,
    noise: Tensor,
    drop: Mapping[str, Tensor] | None,
) -> Tensor:
    """Mean squared error of the denoised actions; padding counts as no error."""
    signal = alphas_cumprod[timestep].view(-1, 1, 1)
    noisy = signal.sqrt() * batch["actions"] + (1 - signal).sqrt() * noise
    error = plain_network(denoiser, noisy, timestep, batch, drop) - batch["actions"]
    return (error.square() * batch["mask"].unsqueeze(-1)).mean()


class PlainLoop:
    """Owns a copy of a network and trains it."""

    def __init__(self, denoiser: Denoiser, alphas_cumprod: Tensor, data: PlainWindows, settings: Any):
        self.denoiser = copy.deepcopy(denoiser).train()
        self.average = copy.deepcopy(denoiser).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.denoiser.parameters(), lr=settings.learning_rate)
        self.alphas_cumprod, self.settings = alphas_cumprod, settings
        self.batches = data.batches(BATCH // TASKS)

    def update(self) -> None:
        batch = next(self.batches)
        timestep = torch.randint(len(self.alphas_cumprod), (BATCH,))
        droppable = self.denoiser.conditioning.droppable
        drop = {role: torch.rand(BATCH) < probability for role, probability in droppable.items()}
        noise = torch.randn_like(batch["actions"])
        loss = plain_loss(self.denoiser, self.alphas_cumprod, batch, timestep, noise, drop or None)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.denoiser.parameters(), strict=True):
                mean.mul_(self.settings.ema_decay).add_(value, alpha=1 - self.settings.ema_decay)


def build(recipe: str, overrides: list[str], seed: int, folder: Path) -> tuple[Trainer, PlainLoop]:
    """The trainer of a recipe and a plain loop, on random numbers in the shape of Meta-World's."""
    loaded = load_recipe(recipe, [*overrides, f"seed={seed}"])
    data, prompts = numbers(TASKS, 25, 100, seed), numbers(TASKS, 10, 40, seed + 1)
    pipeline, scheduler = compose(loaded.values, data, prompts)
    settings = replace(loaded.build("training"), batch_per_task=BATCH // TASKS, log_with=())
    network = Denoiser(pipeline.backbone, pipeline.conditioning)
    plain = PlainWindows(
        data,
        prompts,
        pipeline.normalizer,
        horizon=pipeline.representation.horizon,
        history=loaded.get("conditioning.history.length"),
        prompt=loaded.get("conditioning.task.length"),
    )
    loop = PlainLoop(network, scheduler.alphas_cumprod, plain, settings)
    drawn = windows(pipeline, data, prompts)
    trainer = Trainer(pipeline, scheduler, drawn, None, settings, seed=seed, folder=folder)
    require_equal(trainer, loop)
    return trainer, loop


def require_equal(trainer: Trainer, loop: PlainLoop) -> None:
    """Both losses of the same batch, dropout off."""
    drawn = trainer._draw(trainer.train_windows, torch.Generator().manual_seed(0), BATCH // TASKS)
    drop = {name[5:]: value for name, value in drawn.items() if name.startswith("drop.")}
    with torch.no_grad():
        trainer.module.eval()
        loop.denoiser.eval()
        ours = trainer._loss(trainer.train_windows, drawn)[0].mean()
        batch = trainer.train_windows.gather({name: drawn[name] for name in ("task", "row", "demonstration", "start")})
        timestep, noise = drawn["drawn.timestep"], drawn["drawn.noise"]
        theirs = plain_loss(loop.denoiser, loop.alphas_cumprod, batch, timestep, noise, drop or None)
        loop.denoiser.train()
    torch.testing.assert_close(ours, theirs)


def flops(update: Callable[[], Any]) -> int:
    """Floating point operations of matrix products and attention in an update, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        update()
    return counter.get_total_flops()


def profile(update: Callable[[], Any], updates: int) -> dict[str, float]:
    """Shares of an update's CPU time by torch's operator, the largest first, and what is left."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        for _ in range(updates):
            update()
    times = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in recorded.key_averages()}
    total = sum(times.values())
    first = sorted(times, key=times.__getitem__, reverse=True)[:LISTED]
    shares = {name: times[name] / total for name in first}
    return shares | {f"{len(times) - LISTED} others": 1 - sum(shares.values())}


def main() -> None:
    options = parse(__doc__.splitlines()[0], rounds=15)
    random.seed(options.seed)
    left, right = torch.randn(2, MATMUL, MATMUL)
    rows: list[dict[str, Any]] = []
    for size, (recipe, overrides) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            trainer, loop = build(recipe, overrides, options.seed, Path(folder))
        work, count = {"mtdiff": flops(trainer._update), "plain loop": flops(loop.update)}, UPDATES[size]

        def repeated(update: Callable[[], Any], count: int = count) -> Callable[[], Any]:
            return lambda: [update() for _ in range(count)]

        seconds = interleave(
            {
                "mtdiff": repeated(trainer._update),
                "plain loop": repeated(loop.update),
                "matmul": lambda: [left @ right for _ in range(MATMULS)],
            },
            rounds=options.rounds,
        )
        where = profile(trainer._update, 2 * count)
        peak = spread([2 * MATMUL**3 * MATMULS / value for value in seconds.pop("matmul")])
        parameters = sum(value.numel() for value in loop.denoiser.parameters())
        for name, measured in seconds.items():
            per_update = spread([value / count for value in measured])
            rows.append(
                {
                    "network": size,
                    "parameters": parameters,
                    "batch": BATCH,
                    "rounds": options.rounds,
                    "updates_per_round": count,
                    "name": name,
                    "cpu_seconds_per_update": per_update,
                    "flops_per_update": work[name],
                    "matmul_peak_flops": peak,
                    "share_of_peak": work[name] / per_update["median"] / peak["median"],
                    "times": ratio(seconds["plain loop"], measured),
                }
            )
        rows.append({"network": size, "name": "profile of mtdiff", "share_by_operator": where})
    print(f"batch {BATCH} of {TASKS} tasks, {options.rounds} rounds")
    cells = [
        (
            f"{row['network']} ({row['parameters'] / 1e6:.2f} M), {row['name']}",
            show(row["cpu_seconds_per_update"], scale=1000, digits=1),
            f"{row['flops_per_update'] / 1e9:.1f}",
            show(row["matmul_peak_flops"], scale=1e-9, digits=0),
            f"{row['share_of_peak']:.0%}",
            show(row["times"]),
        )
        for row in rows
        if "times" in row
    ]
    print(table(("", "CPU ms per update", "GFLOP", "matmul peak, GFLOP/s", "share of peak", "times"), cells))
    for row in rows:
        if shares := row.get("share_by_operator"):
            print(f"\nwhere the time goes, {row['network']}:")
            print(", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    write(options.json, seed=options.seed, rows=rows)


if __name__ == "__main__":
    main()
