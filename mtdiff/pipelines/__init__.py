"""Pipelines: trained parts that sample. Importing this package lets diffusers load what mtdiff saved.

diffusers writes the library and class of every component into `model_index.json` and looks them up again when
loading. Telling it that `mtdiff` is such a library keeps what is written independent of the file a class lives
in (`["mtdiff", "GPT2Backbone"]`), and makes plain `DiffusionPipeline.from_pretrained` work.
"""

import diffusers
from diffusers.pipelines import pipeline_loading_utils

from mtdiff.pipelines.agent import PlannerAgent
from mtdiff.pipelines.copies import TaskCopies
from mtdiff.pipelines.planner import PlannerOutput, PlannerPipeline
from mtdiff.pipelines.policy import PolicyPipeline
from mtdiff.pipelines.policy_agent import PolicyAgent
from mtdiff.pipelines.prompts import Prompt, PromptLibrary
from mtdiff.pipelines.sampling import Sampling
from mtdiff.pipelines.synthesizer import SynthesizerOutput, SynthesizerPipeline

__all__ = [
    "AGENTS", "PIPELINES", "PlannerAgent", "PlannerOutput", "PlannerPipeline", "PolicyAgent", "PolicyPipeline",
    "Prompt", "PromptLibrary", "Sampling", "SynthesizerOutput", "SynthesizerPipeline",
    "TaskCopies",
]  # fmt: skip

PIPELINES = {kind.kind: kind for kind in (PlannerPipeline, SynthesizerPipeline, PolicyPipeline)}
"""By what a recipe calls them."""

AGENTS = {"planner": PlannerAgent, "policy": PolicyAgent}
"""What acts with a pipeline, by the pipeline's kind."""

_methods = ["save_pretrained", "from_pretrained"]
# "Backbone", "Policy" and "Representation" make parts of third parties loadable: their modules import those names.
_classes = dict.fromkeys(("ModelMixin", "SchedulerMixin", "Backbone", "Policy", "Representation"), _methods)
pipeline_loading_utils.LOADABLE_CLASSES["mtdiff"] = _classes
pipeline_loading_utils.ALL_IMPORTABLE_CLASSES.update(_classes)
for _pipeline in PIPELINES.values():
    setattr(diffusers, _pipeline.__name__, _pipeline)
