"""Every backbone, condition, scheduler and prediction type meets every other: composed, trained once, sampled.

Cases come from the registries, so a new part is walked by being registered. All pairs of choices occur, not all
quadruples.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pytest
import torch
from small_parts import ENCODERS, small

from mtdiff.compose import compose, windows
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.diffusion import Denoiser, denoising_loss
from mtdiff.pipelines import PlannerPipeline
from mtdiff.registry import BACKBONES, CONDITIONING, SCHEDULERS
from mtdiff.schedulers import PredictionType

TIMESTEPS = 20
GIVEN = {"prompt": "push-v3", "task": "push-v3", "history": torch.zeros(1, 5), "target_return": 0.8}
GIVEN_AS = {"prompt_states": "prompt", "task": "task", "history": "history", "return": "target_return"}
GIVEN_AS["present"] = "history"

# Beside every registered scheduler with its defaults: those whose noise an argument decides.
MORE_SCHEDULERS = ({"name": "ddim", "eta": 1.0}, {"name": "dpm_solver", "stochastic": True})


def choices() -> dict[str, dict[str, Any]]:
    """What is walked: for every section its choices by name."""
    conditions: dict[str, Any] = {"none": {}}
    # This data's suite has no maps: test_maze_planner and test_maze_surroundings.
    encoders = [spec for spec in ENCODERS if "map_shape" not in CONDITIONING[spec["name"]].runtime]
    conditions |= {spec["name"]: {"only": {**spec, "dropout": 0.25}} for spec in encoders}
    conditions["all"] = {f"as_{spec['name']}": {**spec, "dropout": 0.25} for spec in encoders}
    schedulers = {name: {"name": name} for name in SCHEDULERS}
    schedulers |= {"-".join(map(str, spec.values())): spec for spec in MORE_SCHEDULERS}
    return {
        "backbone": {name: small(BACKBONES[name]) for name in BACKBONES},
        "conditioning": conditions,
        "scheduler": schedulers,
        "prediction_type": {name: name for name in get_args(PredictionType)},
    }


def pairs(case: Sequence[str]) -> set[tuple[int, str, int, str]]:
    """The pairs of choices that a case tries."""
    return {(i, case[i], j, case[j]) for i, j in itertools.combinations(range(len(case)), 2)}


def covering(names: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Cases in which every pair of choices of two sections occurs, each case the most useful one left."""
    every = list(itertools.product(*names))
    wanted = set().union(*map(pairs, every))
    cases = []
    while wanted:
        cases.append(max(every, key=lambda case: len(pairs(case) & wanted)))
        wanted -= pairs(cases[-1])
    return cases


CHOICES = choices()
CASES = covering([list(section) for section in CHOICES.values()])


def test_every_pair_is_walked_in_few_cases() -> None:
    sizes = sorted((len(section) for section in CHOICES.values()), reverse=True)
    assert set().union(*map(pairs, CASES)) == set().union(*map(pairs, itertools.product(*CHOICES.values())))
    assert sizes[0] * sizes[1] <= len(CASES) <= 1.3 * sizes[0] * sizes[1]


def built(
    values: dict[str, Any], case: Sequence[str], dataset: TrajectoryDataset, prompts: TrajectoryDataset
) -> tuple[PlannerPipeline, Any]:
    backbone, conditioning, scheduler, prediction = (
        section[name] for section, name in zip(CHOICES.values(), case, strict=True)
    )
    values |= {"backbone": backbone, "conditioning": conditioning, "representation": {"name": "actions", "horizon": 6}}
    values["scheduler"] |= {"num_train_timesteps": TIMESTEPS, "prediction_type": prediction}
    guided = {"num_inference_steps": 5, "guidance_scale": 1.5 if conditioning else 1.0}
    values["sampling"] |= {"scheduler": scheduler, **guided}
    return compose(values, dataset, prompts)


def loss_of(pipe: PlannerPipeline, scheduler: Any, fields: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """One batch of the training loss, with conditions withheld from half of it."""
    generator = torch.Generator().manual_seed(0)
    x0, weight = pipe.representation.encode(fields)
    half = torch.arange(len(x0)) % 2 == 0
    losses = denoising_loss(
        Denoiser(pipe.backbone, pipe.conditioning).eval(),  # so that the loss is one number, without dropout
        scheduler,
        x0=x0,
        weight=weight,
        fields=fields,
        timestep=torch.randint(TIMESTEPS, (len(x0),), generator=generator),
        noise=torch.randn(x0.shape, generator=generator),
        drop=dict.fromkeys(pipe.conditioning.droppable, half) or None,
    )
    return losses.mean()


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_pair_composes_learns_and_plans(
    case: Sequence[str], values: dict[str, Any], dataset: TrajectoryDataset, prompts: TrajectoryDataset
) -> None:
    pipe, scheduler = built(values, case, dataset, prompts)
    fields = windows(pipe, dataset, prompts).sample(3, torch.Generator().manual_seed(0))
    parameters = [*pipe.backbone.parameters(), *pipe.conditioning.parameters()]
    before = loss_of(pipe, scheduler, fields)
    before.backward()
    missing = [p.shape for p in parameters if p.grad is None or not p.grad.isfinite().all()]
    assert not missing
    with torch.no_grad():  # along the gradient the loss falls
        length = sum(p.grad.square().sum() for p in parameters) ** 0.5
        for parameter in parameters:
            parameter -= 1e-4 * parameter.grad / length
    assert loss_of(pipe, scheduler, fields) < before

    fields_read = {field for role in pipe.conditioning.roles for field in pipe.conditioning.encoder(role.name).reads}
    given = {GIVEN_AS[field]: GIVEN[GIVEN_AS[field]] for field in fields_read & GIVEN_AS.keys()}
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    plans = pipe(**given, generator=generators).actions
    assert plans.shape == (2, 6, 2)
    assert plans.isfinite().all()
    assert plans.abs().max() <= 1
    assert not torch.equal(plans[0], plans[1])
