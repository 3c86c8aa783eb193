"""One recipe that stands for a grid of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtdiff.errors import RecipeError
from mtdiff.recipe import load_recipe, variants

BASE = "extends: quickstart\n"


def grid(tmp_path: Path, text: str) -> Any:
    (tmp_path / "grid.yaml").write_text(BASE + text)
    return variants(load_recipe(tmp_path / "grid.yaml"))


def test_a_recipe_without_axes_stands_for_itself(tmp_path: Path) -> None:
    (found,) = grid(tmp_path, "seed: 4")
    assert found.coordinates == {} and found.name == "" and found.recipe.get("seed") == 4


def test_axes_make_a_grid_whose_last_one_changes_fastest(tmp_path: Path) -> None:
    found = grid(tmp_path, "vary: {backbone: [residual_mlp, temporal_unet], suite.tasks: {one: [reach], ten: mt10}}")
    assert [one.name for one in found] == [
        "backbone=residual_mlp, tasks=one", "backbone=residual_mlp, tasks=ten",
        "backbone=temporal_unet, tasks=one", "backbone=temporal_unet, tasks=ten",
    ]  # fmt: skip
    assert found[0].recipe.get("suite.tasks") == ["reach"] and found[1].recipe.get("suite.tasks") == "mt10"
    assert found[2].recipe.get("backbone.name") == "temporal_unet"
    assert "num_heads" not in found[2].recipe.values["backbone"], "an argument of the old part survived"
    assert len({one.recipe.hash() for one in found}) == 4
    assert all(one.recipe.vary is None and one.recipe.name == "grid" for one in found)


def test_a_variant_is_the_recipe_with_that_value(tmp_path: Path) -> None:
    (_, found) = grid(tmp_path, "vary: {training.learning_rate: [1e-3, 3e-4]}")
    assert found.recipe.hash() == load_recipe("quickstart", ["training.learning_rate=3e-4"]).hash()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vary: [seed]", "grid: vary: should be a mapping of keys to lists of values, got ['seed']."),
        ("vary: {seed: []}", "grid: vary.seed: should be a list of values, or values by name, got []."),
        ("vary: {seed: 3}", "grid: vary.seed: should be a list of values, or values by name, got 3."),
        ("vary: {seed: [1, 2, 1]}", "grid: vary.seed: two values are called 1; give them names."),
        ("vary: {sede: [1]}", "grid: vary, sede=1: command line: sede: unknown section 'sede'."),
        ("vary: {seed: [1], backbone.width: [64, 31]}", "grid: vary, seed=1, backbone.width=31: "),
    ],
)
def test_a_wrong_grid_is_refused_with_its_coordinates(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        grid(tmp_path, text)
    assert str(refused.value).startswith(message)
