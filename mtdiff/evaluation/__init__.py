"""Does it work? Rollouts of any agent, honest intervals, videos and one report page. Never imports torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtdiff.evaluation.agents import Agent, RandomAgent, ScriptedAgent
    from mtdiff.evaluation.report import Report, write_report
    from mtdiff.evaluation.results import Episode, EvaluationResult, TaskResult, latency, merged
    from mtdiff.evaluation.rollouts import evaluate, swap
    from mtdiff.evaluation.settings import Evaluation
    from mtdiff.evaluation.statistics import mean_of_rates, stratified_bootstrap, wilson
    from mtdiff.evaluation.video import Video, record, record_all, why_no_video

__all__ = [
    "Agent",
    "Episode",
    "Evaluation",
    "EvaluationResult",
    "RandomAgent",
    "Report",
    "ScriptedAgent",
    "TaskResult",
    "Video",
    "evaluate",
    "latency",
    "mean_of_rates",
    "merged",
    "record",
    "record_all",
    "stratified_bootstrap",
    "swap",
    "why_no_video",
    "wilson",
    "write_report",
]

# Imported on first use: checking a recipe needs the settings, but neither scipy nor matplotlib.
_HOME = {
    "agents": ("Agent", "RandomAgent", "ScriptedAgent"),
    "report": ("Report", "write_report"),
    "results": ("Episode", "EvaluationResult", "TaskResult", "latency", "merged"),
    "rollouts": ("evaluate", "swap"),
    "settings": ("Evaluation",),
    "statistics": ("mean_of_rates", "stratified_bootstrap", "wilson"),
    "video": ("Video", "record", "record_all", "why_no_video"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
