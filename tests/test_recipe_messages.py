"""What users are told about a wrong recipe: all at once, each with file, line and key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_recipes import fault, load, write

from mtdiff.recipe import (
    InvalidRecipe,
)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


UNKNOWN_SECTION = "Allowed: seed, conditioning, backbone, scheduler, sampling, schema, extends, imports, vary."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nbackbone: {name: gtp2}", "r.yaml:2: backbone.name: unknown backbone 'gtp2'. Allowed: gpt2, "
            "temporal_unet. Did you mean 'gpt2'?"),
        ("backbone: gtp2", "r.yaml:1: backbone.name: unknown backbone 'gtp2'. Allowed: gpt2, temporal_unet. "
            "Did you mean 'gpt2'?"),
        ("\nbackbone:\n  n_layers: 3", "r.yaml:3: backbone.n_layers: gpt2 takes no 'n_layers'. Allowed: num_layers, "
            "num_heads, path. Did you mean 'num_layers'?"),
        ("backbone:\n  name: gpt2\n  num_layers: four", "r.yaml:3: backbone.num_layers: should be an integer, got "
            "'four'."),
        ("backbone: {num_layers: 1e2}", "r.yaml:1: backbone.num_layers: should be an integer, got 100.0. Write 100."),
        ("backbone:", "r.yaml:1: backbone: should be a backbone or a mapping with its name, got null. Allowed: gpt2, "
            "temporal_unet."),
        ("backbone: {channels: 3}", "r.yaml:1: backbone.channels: comes from the data and cannot be set. Allowed: "
            "num_layers, num_heads, path."),
        ("backbones: gpt2", f"r.yaml:1: backbones: unknown section 'backbones'. {UNKNOWN_SECTION} Did you mean "
            "'backbone'?"),
        ("conditioning: [prompt]", "r.yaml:1: conditioning: should be a mapping of roles to parts, got ['prompt']."),
        ("conditioning:\n  map: {length: 3}", "r.yaml:2: conditioning.map: needs the name of a conditioning. Allowed: "
            "one_hot, prompt."),
        ("conditioning:\n  task: {name: one_hot, length: 3}", "r.yaml:2: conditioning.task.length: one_hot takes no "
            "'length'. Allowed: none."),
        ("sampling: 3", "r.yaml:1: sampling: should be a mapping of settings, got 3."),
        ("sampling:\n  steps: 0", "r.yaml:2: sampling.steps: should be at least 1, got 0."),
        ("sampling:\n  steps: 13", "r.yaml:2: sampling.steps: 13 is unlucky."),
        ("sampling:\n  weights:\n    a: 1\n    b: x", "r.yaml:4: sampling.weights.b: should be a number, got 'x'."),
        ("sampling:\n  scheduler:\n    name: dpm\n    num_train_timesteps: 9", "r.yaml:4: sampling.scheduler."
            "num_train_timesteps: is the training scheduler's: set scheduler.num_train_timesteps."),
        ("sampling: {scheduler: dmp}", "r.yaml:1: sampling.scheduler.name: unknown scheduler 'dmp'. Allowed: ddpm, "
            "dpm. Did you mean 'dpm'?"),
        ("seed: -1", "r.yaml:1: seed: should be at least 0, got -1."),
        ("seed: yes", "r.yaml:1: seed: should be an integer, got 'yes'."),
        ("schema: 2", "r.yaml:1: schema: this recipe is of schema 2, and this mtdiff reads up to 1. Upgrade mtdiff."),
        ("schema: one", "r.yaml:1: schema: should be 1, got 'one'."),
    ],
)  # fmt: skip
def test_messages(text: str, expected: str) -> None:
    assert fault(text) == expected


def test_messages_about_the_command_line() -> None:
    assert fault("seed: 1\n", "backbone.n_layers=3", "seed=x", "sampling.steps", ".a=1", "extends=x") == "\n".join([
        "command line: 'sampling.steps' should be key=value or key.path=value.",
        "command line: '.a=1' should be key=value or key.path=value.",
        "command line: extends: belongs in a file.",
        "command line: seed: should be an integer, got 'x'.",
        "command line: backbone.n_layers: gpt2 takes no 'n_layers'. Allowed: num_layers, num_heads, path. "
        "Did you mean 'num_layers'?",
    ])  # fmt: skip
    assert fault({}, "seed=[1").startswith("command line: seed: not YAML: ")
    assert fault({"backbone": {"num_layers": {1}}}) == (
        "backbone.num_layers: should be plain data (text, number, list, mapping), got set"
    )


def test_all_problems_at_once_in_the_order_of_lines() -> None:
    write("parent.yaml", "seed: -4\nscheduler:\n  clip: 1\n")
    text = "extends: parent.yaml\nsampling: {stpes: 1}\nsampling: {}\nbackbone: {name: gpt3}\nextra: 1\n"
    with pytest.raises(InvalidRecipe) as error:
        load(text, "conditioning.task.length=x")
    assert [(str(p.place), p.key) for p in error.value.problems] == [
        ("r.yaml:2", "sampling.stpes"),
        ("r.yaml:3", "sampling"),
        ("r.yaml:4", "backbone.name"),
        ("r.yaml:5", "extra"),
        ("parent.yaml:1", "seed"),
        ("parent.yaml:3", "scheduler.clip"),
        ("command line", "conditioning.task.length"),
    ]
    assert str(error.value).splitlines() == [str(problem) for problem in error.value.problems]


def test_rules_run_on_valid_recipes_and_name_the_place() -> None:
    def rule(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if values["backbone"]["num_layers"] > 2:
            yield "backbone.num_layers", "too deep."
            yield "backbone.num_heads", "too many heads for that."
            yield "scheduler.clip", "and clips."

    text = "seed: 1\nbackbone:\n  num_layers: 3\n"
    assert fault(text, rules=[rule]).splitlines() == [
        "r.yaml: scheduler.clip: and clips.",
        "r.yaml:2: backbone.num_heads: too many heads for that.",
        "r.yaml:3: backbone.num_layers: too deep.",
    ]
    assert "too deep" not in fault(text + "extra: 1\n", rules=[rule])
