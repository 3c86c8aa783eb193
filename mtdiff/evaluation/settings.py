"""How an evaluation is done: the `evaluation:` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from mtdiff.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Settings of `mtdiff.evaluation.evaluate`.

    Args:
        episodes_per_task: episodes of every task, each with its own random goal (at least 1).
        max_steps: steps after which an episode has failed; null means the suite's own limit.
        stop_on_success: end an episode at its first successful step. Success is the same either way, because
            success means "at any step"; returns are then those of the episode up to that step.
        seed: the goals and the agent's own noise follow from it; evaluation goals are never training goals.
        slots: at most this many environments live at once. More episodes than that run in rounds.
        workers: simulator processes; null means one per CPU. The result does not depend on it.
        swapped_prompt: evaluate a second time while the agent is shown the next task's prompt. A planner that
            reads its prompt should fail then.
        demonstrator: run the suite's scripted experts on the same episodes, for comparison.
        videos: record one episode of every task for the report.
    """

    episodes_per_task: int = 20
    max_steps: int | None = None
    stop_on_success: bool = True
    seed: int = 0
    slots: int = 100
    workers: int | None = None
    swapped_prompt: bool = True
    demonstrator: bool = True
    videos: bool = True

    def __post_init__(self) -> None:
        for name in ("episodes_per_task", "max_steps", "slots", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"{name}: should be at least 1, got {value}.")
        if self.seed < 0:
            raise RecipeError(f"seed: should be at least 0, got {self.seed}.")
