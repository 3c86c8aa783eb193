"""The lines of code on a card: they fit the pipeline that they are written for, and run as they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtdiff.pipelines.trained import TrainedPipeline


def use(pipeline: TrainedPipeline, name: str) -> str:
    """Return Python that loads a pipeline and samples once, no more than ten lines."""
    reading, acts = pipeline.conditioning.reading, pipeline.kind != "synthesizer"
    tasks = list(pipeline.prompts)
    told: list[str] = []
    lines = ["import torch", "", "import mtdiff", "", f'pipe = mtdiff.load("{name}")']
    if reading("prompt_states"):
        told.append(f'prompt="{tasks[0]}"')
    if reading("task"):
        told.append(f'task="{pipeline.conditioning.config.tasks[0]}"')
    if reading("map"):
        told.append(f'map="{pipeline.conditioning.config.tasks[0]}"')
    if pipeline.kind == "policy" or (acts and reading("history")):
        width = pipeline.normalizer.config.state_dim
        seen = f'pipe.prompts["{tasks[0]}"][0].states[:1]' if tasks else f"torch.zeros(1, {width})"
        lines.append(f"seen = {seen}  # instead: your states so far, (n, {width}), the newest last")
        told.append("history=seen")
    lines.append("noise = torch.Generator().manual_seed(0)")
    if acts:
        told.append("generator=noise")
        lines.append(f"plan = pipe({', '.join(told)}).actions")
        lines.append("print(plan.shape, plan[0, 0])  # (1, H, A): the next H actions, in [-1, 1]")
    else:
        told += ["num_samples=4", "generator=noise"]
        lines.append(f"made = pipe({', '.join(told)})")
        shapes = "(4, T + 1, O), (4, T, A), (4, T)"
        lines.append(f"print(made.states.shape, made.actions.shape, made.rewards.shape)  # {shapes}")
    return "\n".join(lines) + "\n"


def another_solver() -> str:
    """Return Python that gives `pipe` another solver."""
    return (
        "from diffusers import DPMSolverMultistepScheduler\n\n"
        "pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)\n"
    )
