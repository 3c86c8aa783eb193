"""The hash of a recipe of mtdiff's own parts: equal for equal training, another for any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mtdiff.compose import compose
from mtdiff.recipe import EXCLUDED, SECTIONS, Recipe, RolesSection, SettingsSection, load_recipe, shipped_recipes


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def quickstart() -> Recipe:
    return load_recipe("quickstart")


WITHOUT_EFFECT = [
    "training.log_every=7", "training.log_with=[]", "training.checkpoint_every=3", "training.keep_checkpoints=9",
    "evaluation.workers=2", "evaluation.episodes_per_task=3", "sampling.num_inference_steps=9",
    "sampling.scheduler=ddpm", "imports=[json]", "vary={seed: [1, 2]}",
]  # fmt: skip
WITH_EFFECT = [
    "seed=1", "suite.tasks=[reach]", "suite.max_steps=400", "data.quality=near_optimal", "data.seed=1",
    "normalization.clip=5.0", "representation.horizon=12", "conditioning.task.pool=4", "conditioning.history=null",
    "backbone.num_layers=3", "backbone.dropout=0.01", "backbone=residual_mlp", "scheduler.prediction_type=epsilon",
    "scheduler.beta_max=9.0", "training.updates=4001", "training.ema_decay=0.99",
]  # fmt: skip


@pytest.mark.parametrize("override", WITHOUT_EFFECT)
def test_what_leaves_training_alone_leaves_the_hash_alone(quickstart: Recipe, override: str) -> None:
    assert load_recipe("quickstart", [override]).hash() == quickstart.hash()


def test_everything_else_changes_it(quickstart: Recipe) -> None:
    changed = {override: load_recipe("quickstart", [override]) for override in WITH_EFFECT}
    hashes = {recipe.hash() for recipe in changed.values()} | {quickstart.hash()}
    assert len(hashes) == len(WITH_EFFECT) + 1
    counted = {key for key in SECTIONS if key not in EXCLUDED} - {"pipeline", "policy"}  # a planner has none
    assert {override.partition("=")[0].partition(".")[0] for override in WITH_EFFECT} == counted
    assert quickstart.hash("of other data") not in hashes


def test_a_datasets_hash_depends_on_suite_and_data_alone(quickstart: Recipe) -> None:
    name = quickstart.section_hash("suite", "data")
    for override in WITH_EFFECT + WITHOUT_EFFECT:
        same = load_recipe("quickstart", [override]).section_hash("suite", "data") == name
        assert same == (override.partition(".")[0] not in ("suite", "data")), override


def test_what_is_excluded_exists() -> None:
    values = load_recipe({}).values
    for key in EXCLUDED:
        section, _, argument = key.partition(".")
        assert not argument or argument in values[section], key


def test_the_way_of_writing_does_not_matter(quickstart: Recipe) -> None:
    def reverse(value: Any) -> Any:
        return {k: reverse(value[k]) for k in reversed(value)} if isinstance(value, dict) else value

    def whole(value: Any) -> Any:  # 1.0 as 1
        if isinstance(value, dict):
            return {k: whole(v) for k, v in value.items()}
        return int(value) if isinstance(value, float) and value.is_integer() else value

    Path("written.yaml").write_text(f"# as it is\n{quickstart.to_yaml()}\n# end\n")
    Path("child.yaml").write_text("extends: written.yaml\nbackbone: {name: gpt2}\n")
    for same in ("written.yaml", "child.yaml", reverse(quickstart.values), whole(quickstart.values)):
        recipe = load_recipe(same)
        assert recipe.hash() == quickstart.hash()
        assert recipe.values == quickstart.values
        assert recipe.to_yaml() == quickstart.to_yaml()


def test_the_order_of_roles_is_one_whatever_is_written(values: Any, dataset: Any, prompts: Any) -> None:
    """Tokens and initial weights follow the order of roles, so two orders under one hash would be two models."""
    roles = ("return", "another", "history", "task")
    written = {"task": "trajectory_prompt", "history": "history", "return": "target_return", "another": "history"}
    ordered, shuffled = ({"conditioning": {r: written[r] for r in order}} for order in (sorted(roles), roles))
    loaded = [load_recipe(recipe, ["sampling.guidance_scale=1.0"]) for recipe in (ordered, shuffled)]
    assert [list(recipe.values["conditioning"]) for recipe in loaded] == [["task", "history", "return", "another"]] * 2
    assert loaded[0].hash() == loaded[1].hash()
    small = {"hidden": (8,)}
    pipes = []
    for recipe in loaded:
        conditioning = {
            role: {**part, **small, **({"length": 4} if role == "task" else {})}
            for role, part in recipe.values["conditioning"].items()
        }
        pipes.append(compose(values | {"conditioning": conditioning}, dataset, prompts)[0])
    first, second = (pipe.backbone.state_dict() for pipe in pipes)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", list(shipped_recipes()))
def test_a_resolved_recipe_has_every_default_and_is_read_back(name: str) -> None:
    recipe = load_recipe(name)
    kind = recipe.get("pipeline")
    others = {key for key, section in SECTIONS.items() if kind not in (getattr(section, "pipelines", ()) or (kind,))}
    optional = others | {key for key, section in SECTIONS.items() if getattr(section, "optional", False)}
    assert not others & set(recipe.values)
    asked = [key for key in SECTIONS if key in recipe.values or key not in optional]
    assert list(recipe.values) == asked
    for key, section in ((key, SECTIONS[key]) for key in asked):
        if isinstance(section, SettingsSection):
            assert list(recipe.values[key]) == list(section.part(key).arguments)
        elif registry := getattr(section, "registry", None):
            several = isinstance(section, RolesSection)
            parts = recipe.values[key].values() if several else [recipe.values[key]]
            for part in parts:
                assert list(part) == ["name", *registry[part["name"]].arguments]
    recipe.save("saved.yaml")
    again = load_recipe("saved.yaml")
    assert (again.values, again.hash()) == (recipe.values, recipe.hash())
    assert again.files == (Path("saved.yaml").resolve(),)


@pytest.mark.parametrize("width", ["backbone.width=64", "backbone.width=0x40"])
def test_overrides_are_one_change_in_any_order(width: str) -> None:
    """A part named on the command line replaces the file's with all its arguments, and keeps the new ones."""
    name = "backbone=residual_mlp"
    expected = {"name": "residual_mlp", "width": 64, "num_layers": 4, "expansion": 2, "dropout": 0.0}
    for overrides in ([name, width], [width, name], ["backbone={name: residual_mlp, width: 64}"]):
        assert load_recipe("quickstart", overrides).get("backbone") == expected
    Path("child.yaml").write_text("extends: quickstart\nbackbone: {name: residual_mlp, width: 64}\n")
    assert load_recipe("child.yaml").get("backbone") == expected


def test_numbers_are_numbers_and_words_are_words() -> None:
    Path("r.yaml").write_text("training: {learning_rate: 3e-4, updates: 0x10}\nvary: {x: [yes, no, on, off, 0o10]}\n")
    recipe = load_recipe("r.yaml", ["training.weight_decay=1e-2"])
    assert recipe.get("training.learning_rate") == 3e-4
    assert recipe.get("training.weight_decay") == 1e-2
    assert recipe.get("training.updates") == 16
    assert recipe.vary == {"x": ["yes", "no", "on", "off", 8]}
    assert "vary" not in recipe.values
