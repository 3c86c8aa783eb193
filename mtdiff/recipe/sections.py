"""The sections of a recipe: one table, source of the checks, the defaults, the hash and the JSON Schema.

A new section is one entry here. A pipeline with other sections passes a table of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

from mtdiff.registry import (
    AUGMENTATIONS,
    BACKBONES,
    CONDITIONING,
    DATA,
    LEARNERS,
    POLICIES,
    REPRESENTATIONS,
    SCHEDULERS,
    SUITES,
    Nested,
    Part,
    Registry,
)

SCHEMA = 1
"""Version of the recipe format. A recipe that says a newer one is refused."""

RESERVED = ("schema", "extends", "imports", "vary")
"""Top-level keys that are not sections."""


@dataclass(frozen=True, kw_only=True)
class PartSection:
    """One part of a registry.

    Args:
        registry: Where its parts are registered.
        default: The name of the part if the recipe gives none; None: it must give one.
        doc: What the section decides, in one line.
        pipelines: The pipelines that have it; empty: all. The others' recipes are without it.
    """

    registry: Registry
    default: str | None = None
    doc: str = ""
    pipelines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RolesSection:
    """A mapping of roles to parts of one registry. `null` removes a role that a parent has.

    Args:
        registry: Where its parts are registered.
        default: Role -> part name, of a recipe without this section.
        roles: The roles there are; empty: any.
        doc: What the section decides, in one line.
        optional: Whether a recipe that does not have the section is without it, and gets no defaults.
    """

    registry: Registry
    default: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    doc: str = ""
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class SettingsSection:
    """Arguments of one class: a frozen dataclass with keyword-only fields, whose signature is the schema.

    Args:
        target: "module:Class", imported when a recipe is checked; or the class.
        nested: Arguments that name a part of a registry.
        doc: What the section decides, in one line.
        optional: Whether a recipe that does not have the section is without it, and gets no defaults.
    """

    target: str | type
    nested: Mapping[str, Nested] = field(default_factory=dict)
    doc: str = ""
    optional: bool = False

    def part(self, name: str) -> Part:
        """Return the class as a part called like the section."""
        target = self.target
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = getattr(importlib.import_module(module), attribute)
        return Part(kind="settings", name=name, target=target)


@dataclass(frozen=True, kw_only=True)
class ValueSection:
    """One value.

    Args:
        annotation: Its type.
        default: Its value if the recipe gives none.
        doc: What it decides, in one line.
    """

    annotation: Any
    default: Any
    doc: str = ""


Section = PartSection | RolesSection | SettingsSection | ValueSection
Sections = Mapping[str, Section]


TRAINING_SCHEDULER = Nested(
    registry=SCHEDULERS,
    without=("num_train_timesteps", "beta_min", "beta_max", "p_mean", "p_std", "prediction_type"),
    because="is the training scheduler's: set scheduler.{key}",
)
"""A sampling scheduler: another solver over the noise that the model was trained with."""

_SAMPLERS = ("planner", "synthesizer")

SECTIONS: Sections = {
    "pipeline": ValueSection(
        annotation=Literal["planner", "synthesizer", "policy"], default="planner", doc="What is trained and saved."
    ),
    "seed": ValueSection(
        annotation=Annotated[int, Ge(0)], default=0, doc="Seed of initial weights, batches and noise."
    ),
    "suite": PartSection(registry=SUITES, default="metaworld", doc="The environments and their tasks."),
    "data": PartSection(registry=DATA, default="collected", doc="The trajectories to train on."),
    "normalization": SettingsSection(
        target="mtdiff.data.normalizer:Normalization", doc="How states and actions are scaled."
    ),
    "representation": PartSection(
        registry=REPRESENTATIONS, default="actions", doc="What is diffused.", pipelines=_SAMPLERS
    ),
    "conditioning": RolesSection(
        registry=CONDITIONING,
        default={"task": "trajectory_prompt", "history": "history", "return": "target_return"},
        doc="What the model is told, by role; null removes a role.",
    ),
    "backbone": PartSection(registry=BACKBONES, default="gpt2", doc="The denoising network.", pipelines=_SAMPLERS),
    "scheduler": PartSection(
        registry=SCHEDULERS, default="ddpm", doc="The noise that the model is trained with.", pipelines=_SAMPLERS
    ),
    "policy": PartSection(
        registry=POLICIES, default="cloning", doc="The networks that act without planning.", pipelines=("policy",)
    ),
    "sampling": SettingsSection(
        target="mtdiff.pipelines.sampling:Sampling",
        nested={"scheduler": TRAINING_SCHEDULER},
        doc="How plans are sampled: solver, timesteps, guidance.",
    ),
    "training": SettingsSection(target="mtdiff.training:Training", doc="Updates, optimiser, checkpoints."),
    "evaluation": SettingsSection(target="mtdiff.evaluation:Evaluation", doc="Episodes and their limits."),
    "finetune": SettingsSection(
        target="mtdiff.finetuning.settings:FineTuning",
        doc="What `mtdiff finetune` does once a planner is trained: rewards, policy gradient, regulariser.",
        optional=True,
    ),
    "augment": SettingsSection(
        target="mtdiff.studies.augment:Augment",
        nested={"learner": Nested(registry=LEARNERS)},
        doc="What `mtdiff augment` compares: tasks of which little is known, and a learner.",
        optional=True,
    ),
    "ablation": SettingsSection(
        target="mtdiff.studies.ablate:Ablation",
        doc="What `mtdiff ablate` compares besides the axes of `vary`.",
        optional=True,
    ),
    "augmentations": RolesSection(
        registry=AUGMENTATIONS, doc="The augmentations that `mtdiff augment` compares, by label.", optional=True
    ),
}

EXCLUDED: tuple[str, ...] = (
    "imports",
    "training.log_every",
    "training.log_with",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "evaluation.workers",
    "sampling",  # a trained pipeline takes new defaults without new training
    "evaluation",  # has a hash of its own: `recipe.section_hash("evaluation")`
    "finetune",  # has a hash of its own, with the weights that it begins with
    "augment",  # what is done with a synthesizer once it is trained
    "augmentations",
    "ablation",  # which recipes there are, not what one of them is
)
"""Keys that do not change a trained model, and so not the recipe's hash. A section's own hash leaves out only
the dotted ones."""

LATER: Mapping[str, Any] = {
    "suite.experts": 1,
    "representation.scale": "data",
    "representation.smallest_std": 0.01,
    "training.best_episodes": 1.0,
    "training.timestep_bias": 0.0,
}
"""Arguments that were added when runs, data and results had been named by hashes already: at these values, which are
what everything did before, they do not count."""
