"""What users are told about wrong recipes of mtdiff's own parts: verbatim, all at once, at the line that says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtdiff.errors import RecipeError
from mtdiff.recipe import InvalidRecipe, load_recipe
from mtdiff.registry import BACKBONES, SCHEDULERS

SECTIONS = (
    "pipeline, seed, suite, data, normalization, representation, conditioning, backbone, scheduler, policy, sampling, "
    "training, evaluation, finetune, augment, ablation, augmentations, schema, extends, imports, vary"
)
GPT2 = (
    "width, num_layers, num_heads, inner, dropout, activation, attention, token_order, linear_ends, "
    "actions_per_token, split_tokens"
)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def faults(text: str, *overrides: str) -> list[str]:
    """What is said about a recipe that begins as the quickstart, which takes its first line."""
    Path("my.yaml").write_text(f"extends: quickstart\n{text}")
    with pytest.raises(RecipeError) as error:
        load_recipe("my.yaml", overrides)
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainig: {updates: 3}", f"trainig: unknown section 'trainig'. Allowed: {SECTIONS}. Did you mean 'training'?"),
        ("backbone: gtp2", "backbone.name: unknown backbone 'gtp2'. Allowed: gpt2, residual_mlp, "
            "temporal_unet. Did you mean 'gpt2'?"),
        ("scheduler: {name: ddmp}", "scheduler.name: unknown scheduler 'ddmp'. Allowed: ddim, ddpm, deis, "
            "dpm_solver, edm, unipc. Did you mean 'ddpm'?"),
        ("suite: metawrld", "suite.name: unknown suite 'metawrld'. Allowed: gymnasium, maze2d, metaworld, "
            "offline. Did you mean 'metaworld'?"),
        ("backbone: {n_layers: 3}", f"backbone.n_layers: gpt2 takes no 'n_layers'. Allowed: {GPT2}. "
            "Did you mean 'num_layers'?"),
        ("backbone: {channels: 3}", f"backbone.channels: comes from the data and cannot be set. Allowed: {GPT2}."),
        ("backbone: {num_layers: four}", "backbone.num_layers: should be an integer, got 'four'."),
        ("backbone: {num_layers: true}", "backbone.num_layers: should be an integer, got true."),
        ("backbone: {num_layers: 4.0}", "backbone.num_layers: should be an integer, got 4.0. Write 4."),
        ("backbone: {num_layers: 4.5}", "backbone.num_layers: should be an integer, got 4.5."),
        ("backbone: {inner: big}", "backbone.inner: should be an integer, got 'big'."),
        ("backbone: {activation: gleu}", "backbone.activation: unknown activation 'gleu'. Allowed: mish, gelu, "
            "gelu_new, silu. Did you mean 'gelu'?"),
        ("evaluation: {stop_on_success: 1}", "evaluation.stop_on_success: should be true or false, got 1."),
        ("evaluation: {stop_on_success: yes}", "evaluation.stop_on_success: should be true or false, got 'yes'."),
        ("training: {learning_rate: fast}", "training.learning_rate: should be a number, got 'fast'."),
        ("training: {learning_rate: .nan}", "training.learning_rate: should be a finite number, got nan."),
        ("conditioning: {task: {hidden: [8, x]}}", "conditioning.task.hidden.1: should be an integer, got 'x'."),
        ("conditioning: {task: {hidden: 8}}", "conditioning.task.hidden: should be a list of integers, got 8."),
        ("conditioning: {map: {length: 3}}", "conditioning.map: needs the name of a conditioning. Allowed: history, "
            "map, one_hot, path_prompt, relative_history, surroundings, target_return, tcn_prompt, trajectory_prompt."),
        ("conditioning: prompt", "conditioning: should be a mapping of roles to parts, got 'prompt'."),
        ("suite: {tasks: 3}", "suite.tasks: should be a string or a list of strings, got 3."),
        ("pipeline: planer", "pipeline: unknown pipeline 'planer'. Allowed: planner, synthesizer, policy. "
            "Did you mean 'planner'?"),
        ("seed: -1", "seed: should be at least 0, got -1."),
        (f"seed: {'9' * 5000}", f"seed: should be an integer, got '{'9' * 76}...."),
        ("sampling: {scheduler: {beta_max: 3.0}}", "sampling.scheduler.beta_max: is the training scheduler's: set "
            "scheduler.beta_max."),
        ("sampling: {scheduler: {solver: 3}}", "sampling.scheduler.solver: dpm_solver takes no 'solver'. Allowed: "
            "solver_order, spacing, stochastic. Did you mean 'solver_order'?"),
        ("sampling: {scheduler: 3}", "sampling.scheduler: should be a scheduler or a mapping with its name, got 3. "
            "Allowed: ddim, ddpm, deis, dpm_solver, edm, unipc."),
        ("sampling: [ddpm]", "sampling: should be a mapping of settings, got ['ddpm']."),
    ],
)  # fmt: skip
def test_wrong_words_and_types(text: str, expected: str) -> None:
    assert faults(text) == [f"my.yaml:2: {expected}"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        # what a class of settings or a part says about its own arguments
        ("training.updates=0", "training.updates: should be at least 1, got 0."),
        ("sampling.temperature=-1", "sampling.temperature: should be at least 0, got -1.0."),
        ("evaluation.max_steps=0", "evaluation.max_steps: should be at least 1, got 0."),
        ("data.noise=-1", "data.noise: should be at least 0, got -1.0."),
        ("conditioning.task.dropout=1", "conditioning.task.dropout: must be at least 0 and below 1, got 1.0"),
        ("representation.horizon=0", "representation.horizon: must be at least 1, got 0"),
        ("backbone.width=130", "backbone.width: must be a multiple of num_heads=4, got 130"),
        ("backbone.actions_per_token=3", "backbone.actions_per_token: must divide the horizon 8, got 3"),
        ("suite.max_steps=501", "suite.max_steps: Meta-World's episodes have 1 to 500 steps, got 501."),
        ("suite.tasks=[]", "suite.tasks: no task named. Name at least one, for example 'reach' or 'mt10'."),
        # what two sections say about each other
        ("sampling.execute=9", "sampling.execute: must be at most representation.horizon=8, got 9"),
        ("sampling.num_inference_steps=201", "sampling.num_inference_steps: must be at most "
            "scheduler.num_train_timesteps=200, got 201"),
        ("sampling.guidance_scale=1.2", "sampling.guidance_scale: must be 1.0 without a condition that is trained "
            "with dropout, got 1.2. Give one of the conditions (task, history) a dropout above 0"),
        ("data.prompts_per_task=0", "data.prompts_per_task: must be at least 1, because conditioning.task shows "
            "prompts, got 0"),
        ("conditioning.task.length=21", "conditioning.task.length: must be at most data.prompt_min_steps=20, got 21"),
        ("conditioning.again={name: trajectory_prompt, length: 4}", "conditioning.again: must have the same prompt as "
            "conditioning.task, 20, got 4"),
        ("conditioning={values: history}", "conditioning.values: cannot be the name of a role. Take a word such as "
            "'task'"),
    ],
)  # fmt: skip
def test_values_out_of_range_and_parts_that_do_not_fit(override: str, expected: str) -> None:
    if override.startswith("representation"):
        assert f"command line: {expected}" in faults("", override)
    else:
        assert faults("", override) == [f"command line: {expected}"]


def test_an_unknown_task_has_a_closest_match() -> None:
    (said,) = faults("suite: {tasks: [reach, dor-open]}")
    assert said.startswith("my.yaml:2: suite.tasks: unknown task 'dor-open'. Allowed: mt10, mt25, mt50, ml10_train, ")
    assert said.endswith(" Did you mean 'door-open'?")


def test_what_is_wrong_with_a_whole_part_is_told_where_it_was_changed() -> None:
    limits = "scheduler: beta_min, beta_max: need 0 <= beta_min < beta_max, got 0.1, 0.05"
    assert faults("\nscheduler: {beta_max: 0.05}") == [f"my.yaml:3: {limits}"]
    assert faults("", "scheduler.beta_max=0.05") == [f"command line: {limits}"]


def test_everything_is_said_at_once_in_order_at_the_line_of_its_file() -> None:
    Path("deep").mkdir()
    Path("deep/parent.yaml").write_text("training:\n  updates: 0\n  warmup: -1\nsuite:\n  task: reach\n")
    text = "extends: deep/parent.yaml\nbackbone:\n  name: gpt2\n  widht: 3\nsampling:\n  execute: four\nextra: 1\n"
    Path("my.yaml").write_text(text)
    with pytest.raises(InvalidRecipe) as error:
        load_recipe("my.yaml", ["seed=x", "evaluation.workers=0", "evaluation.episodes_per_task=0"])
    assert str(error.value).splitlines() == [
        f"my.yaml:4: backbone.widht: gpt2 takes no 'widht'. Allowed: {GPT2}. Did you mean 'width'?",
        "my.yaml:6: sampling.execute: should be an integer, got 'four'.",
        f"my.yaml:7: extra: unknown section 'extra'. Allowed: {SECTIONS}.",
        "command line: seed: should be an integer, got 'x'.",
        "command line: evaluation.episodes_per_task: should be at least 1, got 0.",
        "command line: evaluation.workers: should be at least 1, got 0.",
        "deep/parent.yaml:2: training.updates: should be at least 1, got 0.",
        "deep/parent.yaml:3: training.warmup: should be at least 0, got -1.",
        "deep/parent.yaml:5: suite.task: metaworld takes no 'task'. Allowed: tasks, goal_visible, max_steps, reward. "
        "Did you mean 'tasks'?",
    ]
    first = error.value.problems[0]
    assert (str(first.place), first.key, first.message.split(".")[0]) == (
        "my.yaml:4", "backbone.widht", "gpt2 takes no 'widht'",
    )  # fmt: skip


def test_one_fault_does_not_hide_those_of_other_parts() -> None:
    said = faults("", "suite.tasks=[]", "data.noise=-1", "conditioning.task.pool=30", "backbone.num_heads=3")
    assert [line.split(": ")[1] for line in said] == [
        "suite.tasks", "data.noise", "conditioning.task.pool", "backbone.width",
    ]  # fmt: skip


class Narrow:
    """Takes nothing."""

    def __init__(self, *, size: int = 3) -> None:
        self.size = size


@pytest.fixture
def _narrow_parts() -> Any:
    for registry in (BACKBONES, SCHEDULERS):
        registry.register("narrow")(Narrow)
    yield
    for registry in (BACKBONES, SCHEDULERS):
        del registry._parts["narrow"]


@pytest.mark.usefixtures("_narrow_parts")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backbone: narrow", "backbone: 'narrow' must take width, as every backbone does"),
        ("scheduler: narrow", "scheduler: 'narrow' must take num_train_timesteps, as every scheduler does"),
        (
            "sampling: {scheduler: narrow}",
            "sampling.scheduler.name: must be a diffusers scheduler that can sample over "
            "the noise of training, got Narrow, which takes no num_train_timesteps, trained_betas, prediction_type",
        ),
    ],
)
def test_parts_of_others_that_lack_what_the_rest_is_built_by(text: str, expected: str) -> None:
    assert faults(text) == [f"my.yaml:2: {expected}"]


def test_a_recipe_needs_a_name() -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(" ")
    assert str(error.value).startswith("a recipe needs a name or a path, got ' '. Shipped: ablations/")
