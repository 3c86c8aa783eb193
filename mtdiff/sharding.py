"""One evaluation, split over the processes that `accelerate launch` started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from mtdiff.environments.processes import available_cores
from mtdiff.evaluation import Evaluation, EvaluationResult, evaluate, merged
from mtdiff.world import join, neighbours, together

if TYPE_CHECKING:
    from mtdiff.environments.suite import Suite
    from mtdiff.evaluation import Agent


def evaluate_together(
    agent: Agent,
    suite: Suite,
    *,
    settings: Evaluation,
    told: Mapping[str, str] | None = None,
    progress: bool = True,
    label: str = "evaluate",
) -> EvaluationResult:
    """`mtdiff.evaluation.evaluate`, each process with its share of the episodes; all of them get the whole result.

    Every process plans and simulates its own episodes. `settings.slots` and `settings.workers` count in each
    process; by default the processes of a machine share its cores equally.

    Args:
        agent: what acts, the same in every process.
        suite: where the tasks live.
        settings: how many episodes, how long.
        told: see `evaluate`.
        progress: show a bar on stderr, of the first process.
        label: what the bar says.

    Raises:
        MTDiffError: in every process, if one failed.
    """
    state = join()
    share = (state.process_index, state.num_processes)
    own = settings
    if state.num_processes > 1:
        own = replace(settings, workers=settings.workers or max(1, available_cores() // neighbours()))
        progress = progress and state.is_main_process
    shares = together(
        lambda: evaluate(agent, suite, settings=own, told=told, progress=progress, label=label, share=share)
    )
    return replace(merged(shares, suite.tasks), settings=asdict(settings))
