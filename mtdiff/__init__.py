"""mtdiff: plan and make data with diffusion models for many tasks, from interchangeable parts.

Names are imported when first used, so that `import mtdiff`, `mtdiff --help` and the simulator's worker processes
never load torch or diffusers.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Every class that a saved pipeline may name must be found here: see mtdiff.pipelines.
_HOMES = {
    "ActionsRepresentation": "mtdiff.representations",
    "Backbone": "mtdiff.backbones",
    "CQLPolicy": "mtdiff.policies",
    "CloningPolicy": "mtdiff.policies",
    "Condition": "mtdiff.conditioning",
    "Conditioning": "mtdiff.conditioning",
    "DiffusionQLPolicy": "mtdiff.policies",
    "DecisionTransformer": "mtdiff.policies",
    "Encoder": "mtdiff.conditioning",
    "GPT2Backbone": "mtdiff.backbones",
    "IQLPolicy": "mtdiff.policies",
    "MTDiffError": "mtdiff.errors",
    "ModelMixin": "diffusers",
    "Normalizer": "mtdiff.data.normalizer",
    "PlannerAgent": "mtdiff.pipelines",
    "PlannerPipeline": "mtdiff.pipelines",
    "Policy": "mtdiff.policies",
    "PolicyAgent": "mtdiff.pipelines",
    "PolicyPipeline": "mtdiff.pipelines",
    "Prompt": "mtdiff.pipelines",
    "PromptLibrary": "mtdiff.pipelines",
    "Representation": "mtdiff.representations",
    "ResidualMLPBackbone": "mtdiff.backbones",
    "SchedulerMixin": "diffusers",
    "SynthesizerPipeline": "mtdiff.pipelines",
    "TaskCopies": "mtdiff.pipelines",
    "TemporalUNetBackbone": "mtdiff.backbones",
    "Trajectory": "mtdiff.data.trajectories",
    "TrajectoryDataset": "mtdiff.data.trajectories",
    "TransitionsRepresentation": "mtdiff.representations",
    "evaluate": "mtdiff.evaluation",
    "load": "mtdiff.hub",
    "load_recipe": "mtdiff.recipe",
    "synthesize": "mtdiff.synthesis",
    "train": "mtdiff.runs",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mtdiff' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
