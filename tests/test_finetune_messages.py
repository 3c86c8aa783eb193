"""What cannot be fine-tuned is refused before anything is trained, with one message each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finetune_toy import recipe

from mtdiff.errors import RecipeError
from mtdiff.finetuning.stages import finetune
from mtdiff.recipe import load_recipe


def fault(*overrides: str, **changes: Any) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe(**changes), overrides)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clip=0", "clip: should be above 0 and below 1, got 0.0."),
        ("clip=1.5", "clip: should be above 0 and below 1, got 1.5."),
        ("std_floor=0", "std_floor: should be a finite number above 0, got 0.0."),
        ("std_floor=-0.1", "std_floor: should be a finite number above 0, got -0.1."),
        ("timesteps=0", "timesteps: should be at least 1, got 0."),
        ("timesteps=6", "timesteps: must be at most sampling.num_inference_steps=5, got 6"),
        ("learning_rate=0", "learning_rate: should be a finite number above 0, got 0.0."),
        ("discount=1", "discount: should be at least 0 and below 1, got 1.0."),
        ("regularizer_weight=-1", "regularizer_weight: should be a finite number of at least 0, got -1.0."),
        ("max_steps=25", "max_steps: must be at most 24 (gymnasium), got 25"),
        (
            "environment_steps=90",
            "environment_steps: must be at least 96, which the episodes of one goal can take, got 90",
        ),
        ("tasks=[strait]", "tasks: unknown task 'strait'. Allowed: straight, turned. Did you mean 'straight'?"),
        (
            "rollouts_per_goal=1",
            "rollouts_per_goal: should be at least 2, because an episode is compared with others of its goal, got 1.",
        ),
    ],
)
def test_numbers_out_of_range(override: str, message: str) -> None:
    assert fault(f"finetune.{override}") == f"command line: finetune.{message}"


def test_nothing_to_learn_from() -> None:
    found = fault("finetune.policy_weight=0", "finetune.regularizer=none")
    assert found == "command line: finetune.policy_weight: should be above 0 where nothing else is learnt, got 0."


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["sampling.scheduler=dpm_solver"], "dpm_solver"),
        (["sampling.scheduler=ddim"], "ddim"),
        (["sampling.scheduler=deis"], "deis"),
    ],
)
def test_a_scheduler_whose_steps_are_not_gaussian(overrides: list[str], name: str) -> None:
    assert fault(*overrides) == (
        "command line: sampling.scheduler: must draw Gaussian noise in its steps, because fine-tuning needs their "
        f"probabilities, got {name}, which is deterministic. Take ddpm, ddim with eta above 0, or dpm_solver with "
        "stochastic: true"
    )


@pytest.mark.parametrize(
    "scheduler", ["{name: ddim, eta: 0.5}", "{name: ddim, eta: 1.0}", "{name: dpm_solver, stochastic: true}"]
)
def test_schedulers_whose_steps_are(scheduler: str) -> None:
    assert load_recipe(recipe(), [f"sampling.scheduler={scheduler}"]).get("finetune.clip") == 0.1


def test_a_synthesizer_cannot_be_fine_tuned() -> None:
    changes = {"pipeline": "synthesizer", "representation": "transitions", "conditioning": {"task": "one_hot"}}
    found = fault(**changes)
    assert "finetune: must be left out, because only a planner can be fine-tuned, got a synthesizer" in found.split(
        "\n"
    )


def test_a_suite_without_rewards() -> None:
    offline = {"name": "offline", "tasks": ["straight", "turned"], "state_dim": 2, "action_dim": 1}
    assert fault(suite=offline) == (
        "suite: must have a simulator that rewards what is tried, because fine-tuning learns from rewards, got "
        "offline. Take another suite, or leave the section finetune out"
    )


def test_a_planner_that_is_told_its_task() -> None:
    assert fault(conditioning__task={"name": "one_hot"}) == (
        "conditioning.task: must be null, because what is fine-tuned sees states alone, and each task has its own "
        "copy, got one_hot"
    )


def test_guidance() -> None:
    history = {"name": "history", "hidden": [32], "dropout": 0.1}
    found = fault("sampling.guidance_scale=1.5", conditioning__history=history)
    message = "command line: sampling.guidance_scale: must be 1.0, because what is fine-tuned is not guided, got 1.5"
    assert found == message


def test_the_section_does_not_change_what_is_pre_trained() -> None:
    one, other = load_recipe(recipe()), load_recipe(recipe(), ["finetune.clip=0.3"])
    without = recipe()
    del without["finetune"]
    assert one.hash() == other.hash() == load_recipe(without).hash()


def test_a_recipe_without_the_section(tmp_path: Path) -> None:
    without = recipe(data={"name": "folder", "path": "data"})
    del without["finetune"]
    with pytest.raises(RecipeError) as error:
        finetune(load_recipe(without), root=tmp_path)
    assert str(error.value) == ("recipe: has no section finetune. Add it, or finetune.environment_steps=100000 here")
