"""Recipes whose every value is right and which cannot mean anything: refused when they are checked, with the reason."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mtdiff.errors import RecipeError
from mtdiff.recipe import load_recipe
from mtdiff.schedulers import deis, probe, unipc

UNET = "backbone={name: temporal_unet, width: 32, base: 16"


def faults(*overrides: str) -> list[str]:
    """What is said about the quickstart, which has a horizon of 8, a prompt, a history and no return."""
    with pytest.raises(RecipeError) as error:
        load_recipe("quickstart", overrides)
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # sampling timesteps that a scheduler cannot space
        (["sampling={scheduler: ddim, num_inference_steps: 60}"], "sampling.num_inference_steps: scheduler "
            "DDIMScheduler with 60 sampling timesteps steps to other noise levels than those it visits; take a number "
            "that divides the 200 timesteps of training"),
        (["sampling={scheduler: ddim, num_inference_steps: 5}", "scheduler.num_train_timesteps=32"],
            "sampling.num_inference_steps: scheduler DDIMScheduler with 5 sampling timesteps steps to other noise "
            "levels than those it visits; take a number that divides the 32 timesteps of training"),
        (["sampling={scheduler: deis, num_inference_steps: 199}"], "sampling.num_inference_steps: scheduler "
            "DEISMultistepScheduler cannot be used with 199 sampling timesteps: it makes 200 calls. Take another "
            "number."),
        (["sampling={scheduler: null, num_inference_steps: 199}"], "sampling.num_inference_steps: scheduler "
            "DDPMScheduler cannot be used with 199 sampling timesteps: it makes 200 calls. Take another number."),
        (["sampling={scheduler: ddim, num_inference_steps: 300}"], "sampling.num_inference_steps: must be at most "
            "scheduler.num_train_timesteps=200, got 300"),
        # numbers of a sampler
        (["sampling.scheduler={name: ddim, eta: 1.5}"], "sampling.scheduler.eta: must be between 0 and 1, got 1.5"),
        (["sampling.temperature=-0.5"], "sampling.temperature: should be at least 0, got -0.5."),
        (["sampling.temperature=.inf"], "sampling.temperature: should be a finite number, got inf."),
        (["sampling.guidance_scale=1.5"], "sampling.guidance_scale: must be 1.0 without a condition that is trained "
            "with dropout, got 1.5. Give one of the conditions (task, history) a dropout above 0"),
        # what no condition reads
        (["sampling.target_return=0.9"], "sampling.target_return: must be 1.0 without a condition that shows a return, "
            "got 0.9"),
        (["conditioning.task=one_hot", "sampling.prompt_policy=every_plan"], "sampling.prompt_policy: must be "
            "'episode' without a condition that shows prompts, got 'every_plan'"),
        # a horizon that the U-Net cannot halve
        ([f"{UNET}, multipliers: [1, 2, 2, 4, 4]}}"], "backbone.multipliers: 5 levels need a horizon that is a "
            "multiple of 16, such as 16, and the horizon is 8. Change it, or name at most 4 multipliers"),
        ([f"{UNET}}}", "representation.horizon=10"], "backbone.multipliers: 3 levels need a horizon that is a multiple "
            "of 4, such as 8 or 12, and the horizon is 10. Change it, or name at most 2 multipliers"),
        # prompts
        (["conditioning.task={name: tcn_prompt, length: 21}"], "conditioning.task.length: must be at most "
            "data.prompt_min_steps=20, got 21"),
        (["conditioning.task={name: tcn_prompt, hidden: [64, 64]}"], "conditioning.task.hidden: 2 levels of "
            "kernel_size=3 read 13 steps, which is fewer than length=20; the first steps of a prompt would be ignored. "
            "Add a level"),
        (["conditioning.again={name: tcn_prompt, spacing: even}"], "conditioning.again: must have the same "
            "prompt_spacing as conditioning.task, 'contiguous', got 'even'"),
        (["conditioning.again={name: tcn_prompt, normalize: false}"], "conditioning.again: must have the same "
            "prompt_normalize as conditioning.task, true, got false"),
        (["conditioning.task={name: tcn_prompt, spacing: even, latest_start: 3}"], "conditioning.task.latest_start: "
            "must be null where spacing is 'even', got 3"),
    ],
)  # fmt: skip
def test_what_cannot_mean_anything_is_refused_with_the_reason(overrides: list[str], expected: str) -> None:
    assert faults(*overrides) == [f"command line: {expected}"]


def test_the_line_of_the_file_is_named() -> None:
    text = "extends: quickstart\nsampling:\n  scheduler: ddim\n  num_inference_steps: 7\n"
    path = Path("seven.yaml")
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"^seven\.yaml:4: sampling\.num_inference_steps: scheduler DDIMScheduler "):
        load_recipe(str(path))


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampling={scheduler: ddim, num_inference_steps: 50}"],
        ["sampling={scheduler: {name: ddim, eta: 1}, num_inference_steps: 200}"],
        ["sampling={scheduler: unipc, num_inference_steps: 60}"],
        ["sampling={scheduler: deis, num_inference_steps: 1}"],
        ["sampling={scheduler: {name: dpm_solver, stochastic: true}, num_inference_steps: 199}"],
        ["sampling.target_return=0.9", "conditioning.return=target_return"],
        ["sampling.prompt_policy=every_plan", "conditioning.task=tcn_prompt"],
        [f"{UNET}}}", "representation.horizon=12"],
        [f"{UNET}, multipliers: [1]}}", "representation.horizon=7"],
    ],
)
def test_what_can_be_meant_is_not_refused(overrides: list[str]) -> None:
    assert load_recipe("quickstart", overrides)


@pytest.mark.parametrize("build", [deis, unipc])
def test_checking_two_hundred_timesteps_is_quick_and_checking_again_is_free(build: object) -> None:
    scheduler = build(beta_max=9.5)
    start = time.process_time()
    first = probe(scheduler, 200)
    assert time.process_time() - start < 2  # 0.2 s for most, 0.7 s for UniPC, on an idle core
    assert probe(build(beta_max=9.5), 200) is first


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
