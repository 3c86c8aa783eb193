"""From a recipe and data to a pipeline: where parts meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtdiff.conditioning.mapping import Conditioning
from mtdiff.data.normalizer import Normalization, Normalizer
from mtdiff.data.prompt_windows import PromptWindows
from mtdiff.data.windows import Windows
from mtdiff.errors import RecipeError
from mtdiff.pipelines import PIPELINES
from mtdiff.pipelines.maps import maps_of
from mtdiff.pipelines.policy import PolicyPipeline
from mtdiff.pipelines.prompts import Prompt, PromptLibrary
from mtdiff.pipelines.sampling import Sampling
from mtdiff.pipelines.trained import TrainedPipeline
from mtdiff.registry import BACKBONES, CONDITIONING, POLICIES, REPRESENTATIONS, SCHEDULERS, SUITES
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
            width=token_width(values),
            tasks=dataset.tasks,
            map_shape=_map_shape(values),
            **_state_units(values, normalizer),
        )
        parts = _networks(values, conditioning, normalizer, dataset)
    sampling = dict(values["sampling"])
    library = prompt_library(conditioning, dataset.tasks, prompts, sampling.pop("prompts_per_task"), values["seed"])
    solver, training_scheduler = sampling.pop("scheduler"), None
    if "scheduler" in values:
        training_scheduler = SCHEDULERS.build(values["scheduler"])
        parts["scheduler"] = sampling_scheduler(solver, values["scheduler"])
    pipeline = kind(
        **parts,
        conditioning=conditioning,
        normalizer=normalizer,
        prompts=library,
        suite=dict(values["suite"]) if "suite" in values else None,
        **{key: value for key, value in sampling.items() if key in kind.settings()},
    )
    return pipeline, training_scheduler


def token_width(values: Mapping[str, Any]) -> int:
    """C, width of condition tokens: that of the network that reads them."""
    return values["policy" if "policy" in values else "backbone"]["width"]


def _networks(
    values: Mapping[str, Any], conditioning: Conditioning, normalizer: Normalizer, dataset: TrajectoryDataset
) -> dict[str, Any]:
    """The parts that act or sample, by the pipeline's names for them."""
    sizes = {"state_dim": dataset.states.shape[1], "action_dim": dataset.actions.shape[1]}
    if "policy" in values:
        sizes["num_tasks"] = len(dataset.tasks)
        sizes["updates"] = values.get("training", {}).get("updates", 0)
        policy = POLICIES.build(values["policy"], roles=conditioning.roles, **sizes)
        policy.measure(normalizer, dataset)
        return {"policy": policy}
    representation = REPRESENTATIONS.build(values["representation"], **sizes, num_tasks=len(dataset.tasks))
    representation.limit(normalizer, dataset)
    backbone = BACKBONES.build(
        values["backbone"],
        channels=representation.channels,
        horizon=representation.horizon,
        roles=conditioning.roles,
        pieces=representation.pieces,
    )
    return {"backbone": backbone, "representation": representation}


def windows(
    pipeline: TrainedPipeline,
    dataset: TrajectoryDataset,
    prompts: TrajectoryDataset | None,
    device: torch.device | str = "cpu",
    returns_of: TrajectoryDataset | None = None,
) -> Windows:
    """Windows with just the fields that a pipeline's parts read; see `Windows` for `returns_of`."""
    if isinstance(pipeline, PolicyPipeline):
        policy = pipeline.policy
        shown = {"horizon": policy.horizon, "history": policy.length, **policy.window()}
    else:
        representation = pipeline.representation
        shown = {"horizon": representation.horizon, **representation.window()}
    return Windows(
        dataset,
        pipeline.normalizer,
        prompts=prompts,
        device=device,
        returns_of=returns_of,
        maps=_maps(pipeline, dataset.tasks),
        **shown,
        **pipeline.conditioning.window(),
    )


def set_sampling(pipeline: TrainedPipeline, changes: Mapping[str, Any]) -> None:
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
    if pipeline.kind == "policy":
        changes.pop("scheduler", None)  # as all else in `sampling` that says how plans are sampled
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


def _state_units(values: Mapping[str, Any], normalizer: Normalizer) -> dict[str, list[float]]:
    """How states become model space, if a condition must undo it."""
    needed = any("state_loc" in CONDITIONING[spec["name"]].runtime for spec in values["conditioning"].values())
    return {name: getattr(normalizer, name).tolist() for name in ("state_loc", "state_scale")} if needed else {}


def _maps(pipeline: TrainedPipeline, tasks: list[str]) -> np.ndarray | None:
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
