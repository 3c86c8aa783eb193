"""The three presets: what they resolve to, in what they differ, and that the released code's options train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from small_training import assert_equal, interrupt, on_update

import mtdiff
from mtdiff.compose import compose
from mtdiff.data.prompt_windows import PromptWindows
from mtdiff.recipe import load_recipe
from mtdiff.recipe.finding import find_recipe

PAPER = {
    "data.trajectories_per_task": 2000,
    "data.steps": 500,
    "normalization.states": "min_max",
    "normalization.actions": "min_max",
    "conditioning.task.latest_start": 149,
    "conditioning.return.learnt_null": False,
    "scheduler.prediction_type": "epsilon",
    "sampling.scheduler": None,
    "sampling.num_inference_steps": 200,
    "sampling.execute": 1,
    "sampling.prompt_policy": "every_plan",
    "training.updates": 2_000_000,
    "training.max_grad_norm": 0.0,
    "training.ema_every": 10,
    "training.ema_start": 2000,
    "evaluation.episodes_per_task": 50,
}
RELEASED = PAPER | {
    "representation.first_weight": 10.0,
    "conditioning.task.normalize": False,
    "conditioning.return.dropout": 0.2,
    "conditioning.return.label": "remaining",
    "backbone.num_layers": 4,
    "backbone.num_heads": 2,
    "backbone.token_order": "released_code",
    "backbone.linear_ends": True,
    "sampling.temperature": 0.25,
    "sampling.initial_temperature": 1.0,
    "sampling.target_return": 9.0,
    "training.batch_per_task": 32,
    "training.gradient_accumulation": 2,
    "training.loss": "huber",
}
SHARED = {  # where the paper, the released code and ours agree, or no difference is known
    "suite.name": "metaworld",
    "suite.tasks": "mt50",
    "suite.max_steps": 500,
    "data.quality": "near_optimal",
    "data.prompts_per_task": 10,
    "representation.horizon": 32,
    "conditioning.task.length": 20,
    "conditioning.task.spacing": "contiguous",
    "conditioning.task.input_norm": True,
    "conditioning.history.length": 2,
    "conditioning.return.discount": 0.99,
    "conditioning.return.label_steps": 500,
    "backbone.name": "gpt2",
    "backbone.width": 256,
    "backbone.dropout": 0.1,
    "backbone.activation": "mish",
    "backbone.attention": "causal",
    "backbone.actions_per_token": 1,
    "scheduler.name": "ddpm",
    "scheduler.num_train_timesteps": 200,
    "scheduler.beta_min": 0.1,
    "scheduler.beta_max": 10.0,
    "sampling.guidance_scale": 1.2,
    "training.learning_rate": 2e-4,
    "training.learning_rate_schedule": "constant",
    "training.weight_decay": 0.0,
    "training.ema_decay": 0.995,
}
PAPERS_OWN = {  # of what the released code changes
    "conditioning.return.dropout": 0.25,
    "conditioning.return.label": "episode",
    "backbone.num_layers": 6,
    "backbone.num_heads": 4,
    "backbone.token_order": "paper",
    "sampling.temperature": 0.5,
    "sampling.initial_temperature": None,
    "sampling.target_return": 1.0,
    "training.batch_per_task": 8,
    "training.gradient_accumulation": 1,
    "training.loss": "mse",
}


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Every value by its whole key; a nested part is one value, so that leaving it out is one difference."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and above + key != "sampling.scheduler":
            found |= flat(value, f"{above}{key}.")
        else:
            found[above + key] = value
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [("paper", SHARED | PAPERS_OWN | PAPER), ("released_code", SHARED | RELEASED), ("default", SHARED | PAPERS_OWN)],
)
def test_a_preset_resolves_to_the_documented_numbers(name: str, expected: dict[str, Any]) -> None:
    values = flat(load_recipe(f"presets/{name}").values)
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize(("name", "differences"), [("paper", PAPER), ("released_code", RELEASED)])
def test_every_difference_from_the_default_is_one_line(name: str, differences: dict[str, Any]) -> None:
    ours, theirs = (flat(load_recipe(f"presets/{n}").values) for n in ("default", name))
    assert ours.keys() == theirs.keys()
    assert {key: theirs[key] for key in theirs if theirs[key] != ours[key]} == differences
    lines = find_recipe(f"presets/{name}").read_text().splitlines()
    told = [line for line in lines if not line.startswith("#") and not line.rstrip().endswith(":")]
    assert len(told) == len(differences) + 1  # and `extends`
    assert told[0] == "extends: default.yaml"


@pytest.fixture
def released(values: dict[str, Any]) -> dict[str, Any]:
    """The released code's options at the size of the tests; those of training are returned."""
    preset = load_recipe("presets/released_code").values
    values["normalization"] = dict(preset["normalization"])
    values["representation"] = {**preset["representation"], "horizon": 8}
    small = {"task": {"length": 4, "hidden": (16,), "latest_start": 1}, "history": {"hidden": (16,)}}
    small["return"] = {"hidden": (16,), "label_steps": 20}
    values["conditioning"] = {role: {**spec, **small[role]} for role, spec in preset["conditioning"].items()}
    values["backbone"] = {**preset["backbone"], "width": 16, "num_layers": 1}
    values["scheduler"] = {**preset["scheduler"], "num_train_timesteps": 20}
    values["sampling"] = {**preset["sampling"], "num_inference_steps": 20, "prompts_per_task": 3}
    options = {"ema_every": 2, "ema_start": 4}
    return options | {key: preset["training"][key] for key in ("loss", "max_grad_norm", "gradient_accumulation")}


def test_the_released_codes_options_train_and_resume_exactly(make: Any, released: dict[str, Any]) -> None:
    straight = make("straight", **released)
    straight.run()
    broken = make("broken", **released)
    on_update(broken, 7, interrupt)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = make("broken", **released)
    resumed.run(resume=True)
    assert_equal(straight, resumed)


def test_a_planner_of_the_released_code_is_saved_and_loaded(
    make: Any, released: dict[str, Any], tmp_path: Any, dataset: Any
) -> None:
    trainer = make(**released, updates=4)
    trainer.run()
    pipe = trainer.pipeline
    assert pipe.config.target_return == 9.0
    assert pipe.conditioning.droppable == {"return": 0.2}
    assert not pipe.conditioning.encoder("return").null.any()
    assert "encoders.return.null" not in pipe.conditioning.state_dict()
    pipe.save_pretrained(tmp_path / "saved")
    loaded = mtdiff.PlannerPipeline.from_pretrained(tmp_path / "saved")
    arguments = {"prompt": "push-v3", "history": dataset[0].states[:2], "guidance_scale": 1.2}
    plans = [p(**arguments, generator=torch.Generator().manual_seed(0)).actions for p in (pipe, loaded)]
    assert torch.equal(*plans)
    assert plans[0].abs().max() <= 1


def test_prompts_in_physical_units_begin_early_in_windows_and_in_the_library(
    values: dict[str, Any], released: dict[str, Any], dataset: Any, prompts: Any
) -> None:
    pipe = compose(values, dataset, prompts)[0]
    window = pipe.conditioning.window()
    cutter = PromptWindows(prompts, None, dataset.tasks, length=4, latest_start=window["prompt_latest_start"])
    grid = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    shown = {task: cutter.gather(torch.full((50,), n), grid, grid.flip(0)) for n, task in enumerate(dataset.tasks)}
    for task in dataset.tasks:
        mine = [e for e in range(len(prompts)) if prompts[e].task == task]
        early = [
            torch.from_numpy(prompts[e].states[s : s + 4]) for e in mine for s in (0, 1) if s + 4 <= len(prompts[e])
        ]
        for states in [*shown[task]["prompt_states"], *(prompt.states for prompt in pipe.prompts[task])]:
            assert sum(torch.equal(states, one) for one in early) == 1


def test_a_prompt_in_physical_units_reaches_the_model_as_it_is(
    make: Any, released: dict[str, Any], prompts: Any
) -> None:
    """In training and in a plan alike."""
    trainer = make(**released)
    pipe, seen = trainer.pipeline, []
    pipe.conditioning.encoder("task").norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    trainer._update()
    known = torch.from_numpy(prompts.states)
    trained = torch.cat(seen)[..., : known.shape[1]].flatten(0, 1)
    assert (trained[:, None] == known).all(-1).any(1).all()
    seen.clear()
    prompt = pipe.prompts["reach-v3"][0]
    pipe(prompt=prompt, history=prompt.states[:1])
    assert torch.equal(seen[0][0], torch.cat([prompt.states, prompt.actions], dim=-1))
