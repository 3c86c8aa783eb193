"""From a recipe and data to a pipeline: where parts meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtdiff.conditioning.mapping import Conditioning
from mtdiff.data.normalizer import Normalization, Normalizer
from mtdiff.data.windows import PromptWindows, Windows
from mtdiff.errors import RecipeError
from mtdiff.pipelines import PIPELINES
from mtdiff.pipelines.maps import maps_of
from mtdiff.pipelines.prompts import Prompt, PromptLibrary
from mtdiff.pipelines.sampler import SamplerPipeline
from mtdiff.pipelines.sampling import Sampling
from mtdiff.registry import BACKBONES, CONDITIONING, REPRESENTATIONS, SCHEDULERS, SUITES
from mtdiff.schedulers.noise import over_noise

if TYPE_CHECKING:
    from mtdiff.data.trajectories import TrajectoryDataset


def compose(
    values: Mapping[str, Any], dataset: TrajectoryDataset, prompts: TrajectoryDataset | None
) -> tuple[Any, Any]:
    """Build an untrained pipeline, and the scheduler it is to be trained with.

    Initial weights come from `values["seed"]` alone and leave torch's global generator as it was.

    Args:
        values: sections of a resolved recipe, as in `Recipe.values`.
        dataset: measured for the normaliser and the sizes.
        prompts: demonstrations for the pipeline's prompt library; None if no condition reads prompts.
    """
    state_dim, action_dim = dataset.states.shape[1], dataset.actions.shape[1]
    kind = PIPELINES[values.get("pipeline", "planner")]
    normalization = Normalization(**values["normalization"])
    normalizer = Normalizer.fit(dataset, normalization, rewards=kind.kind == "synthesizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(values["seed"])
        conditioning = Conditioning(
            roles=dict(values["conditioning"]),
            state_dim=state_dim,
            action_dim=action_dim,
            width=values["backbone"]["width"],
            tasks=dataset.tasks,
            map_shape=_map_shape(values),
        )
        representation = REPRESENTATIONS.build(values["representation"], state_dim=state_dim, action_dim=action_dim)
        representation.limit(normalizer, dataset)
        backbone = BACKBONES.build(
            values["backbone"],
            channels=representation.channels,
            horizon=representation.horizon,
            roles=conditioning.roles,
            pieces=representation.pieces,
        )
    sampling = dict(values["sampling"])
    library = prompt_library(conditioning, dataset.tasks, prompts, sampling.pop("prompts_per_task"), values["seed"])
    training_scheduler = SCHEDULERS.build(values["scheduler"])
    pipeline = kind(
        backbone=backbone,
        conditioning=conditioning,
        representation=representation,
        scheduler=sampling_scheduler(sampling.pop("scheduler"), values["scheduler"]),
        normalizer=normalizer,
        prompts=library,
        suite=dict(values["suite"]) if "suite" in values else None,
        **{key: value for key, value in sampling.items() if key in kind.settings()},
    )
    return pipeline, training_scheduler


def windows(
    pipeline: SamplerPipeline,
    dataset: TrajectoryDataset,
    prompts: TrajectoryDataset | None,
    device: torch.device | str = "cpu",
    returns_of: TrajectoryDataset | None = None,
) -> Windows:
    """Windows with just the fields that a pipeline's parts read; see `Windows` for `returns_of`."""
    return Windows(
        dataset,
        pipeline.normalizer,
        horizon=pipeline.representation.horizon,
        prompts=prompts,
        device=device,
        returns_of=returns_of,
        maps=_maps(pipeline, dataset.tasks),
        **pipeline.representation.window(),
        **pipeline.conditioning.window(),
    )


def set_sampling(pipeline: SamplerPipeline, changes: Mapping[str, Any]) -> None:
    """Change sampling defaults of a pipeline: `Sampling`'s arguments, a scheduler over the noise it was trained with.

    Raises:
        RecipeError: a value out of range, or `prompts_per_task`, which a trained pipeline cannot change.
        TypeError: an unknown argument.
    """
    changes = dict(changes)
    if "prompts_per_task" in changes:
        raise RecipeError("sampling.prompts_per_task: a trained pipeline keeps its prompts; change it in the recipe")
    Sampling(**changes)
    changes = {key: value for key, value in changes.items() if key in (*pipeline.settings(), "scheduler")}
    if "scheduler" in changes:
        part = changes.pop("scheduler")
        pipeline.scheduler = over_noise(SCHEDULERS.build(part or "ddpm"), pipeline.scheduler)
    pipeline.register_to_config(**changes)


def sampling_scheduler(part: Mapping[str, Any] | None, training: Mapping[str, Any]) -> Any:
    """Build the scheduler that samples: `part` over the noise of training, or training's own."""
    trained = SCHEDULERS.build(training)
    return trained if part is None else over_noise(SCHEDULERS.build(part), trained)


def _map_shape(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of the suite's maps, if a condition shows them."""
    shown = any("map_shape" in CONDITIONING[spec["name"]].runtime for spec in values["conditioning"].values())
    return getattr(SUITES.build(values["suite"]), "map_shape", None) if shown else None


def _maps(pipeline: SamplerPipeline, tasks: list[str]) -> np.ndarray | None:
    """The tasks' maps (tasks, R, C), if a condition shows them."""
    if pipeline.conditioning.reading("map") is None:
        return None
    return np.stack(list(maps_of(pipeline, tasks).values()))


def prompt_library(
    conditioning: Conditioning, tasks: list[str], prompts: TrajectoryDataset | None, count: int, seed: int
) -> PromptLibrary:
    """Cut `count` prompts per task, spread over the demonstrations, at seeded places.

    Args:
        conditioning: says how long a prompt is, and how its steps are spaced.
        tasks: of the demonstrations.
        prompts: the demonstrations.
        count: prompts of each task.
        seed: of the places.

    Returns:
        The library; empty if no condition reads prompts.
    """
    needs = conditioning.window()
    if "prompt" not in needs or prompts is None:
        return PromptLibrary()
    cutter = PromptWindows(
        prompts,
        None,
        tasks,
        length=needs["prompt"],
        spacing=needs.get("prompt_spacing", "contiguous"),
        latest_start=needs.get("prompt_latest_start"),
    )
    places = np.random.default_rng(seed).random((len(tasks), count))
    library: dict[str, list[Prompt]] = {}
    for number, task in enumerate(tasks):
        cut = cutter.gather(
            torch.full((count,), number),
            (torch.arange(count, dtype=torch.float64) + 0.5) / count,  # + 0.5: rounding must not repeat one
            torch.from_numpy(places[number]),
        )
        library[task] = [
            Prompt(states=s, actions=a) for s, a in zip(cut["prompt_states"], cut["prompt_actions"], strict=True)
        ]
    return PromptLibrary.from_prompts(library)
