"""Recipes: merging, third-party parts, values and hashes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from toy_recipes import NETS, TABLE, Sampling, fault, load, write

from mtdiff.errors import RecipeError, StorageFault
from mtdiff.recipe import (
    EXCLUDED,
    SECTIONS,
)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_mappings_merge_and_lists_replace() -> None:
    write("parent.yaml", "backbone: {name: temporal_unet, width: 8, dims: [1, 2, 3]}\nsampling: {steps: 5}\n")
    recipe = load("extends: parent.yaml\nbackbone: {dims: [4]}\nsampling: {weights: {a: 1}}\n")
    assert recipe.values["backbone"] == {"name": "temporal_unet", "width": 8, "dims": [4], "rate": 1e-4}
    assert recipe.get("sampling.steps") == 5
    assert recipe.get("sampling.weights") == {"a": 1.0}
    assert recipe.origin("backbone.width") == "parent.yaml:1"
    assert recipe.origin("backbone.dims") == "r.yaml:2"
    assert recipe.origin("backbone.rate") == "default"


@pytest.mark.parametrize("child", ["backbone: temporal_unet", "backbone: {name: temporal_unet}"])
@pytest.mark.parametrize("parent", ["backbone: {name: gpt2, num_layers: 2}", "backbone: {num_layers: 2}"])
def test_a_part_with_another_name_replaces_the_whole(parent: str, child: str) -> None:
    write("parent.yaml", parent)
    recipe = load(f"extends: parent.yaml\n{child}\n")
    assert recipe.values["backbone"] == {"name": "temporal_unet", "width": 32, "dims": [1, 2], "rate": 1e-4}
    by_override = load(f"{parent}\n", "backbone=temporal_unet")
    assert by_override.values == recipe.values
    assert by_override.hash() == recipe.hash()


def test_the_same_name_keeps_arguments() -> None:
    recipe = load("backbone: {name: gpt2, num_layers: 2}\n", "backbone=gpt2", "scheduler.name=ddpm")
    assert recipe.get("backbone.num_layers") == 2


def test_nested_parts_are_replaced_whole_too() -> None:
    text = "sampling: {scheduler: {name: dpm, order: 1}}\n"
    assert load(text).values["sampling"]["scheduler"] == {"name": "dpm", "order": 1}
    assert load(text, "sampling.scheduler=ddpm").values["sampling"]["scheduler"] == {
        "name": "ddpm",
        "clip": True,
    }
    assert load(text, "sampling.scheduler=null").values["sampling"]["scheduler"] is None
    assert load("sampling: {scheduler: dpm}").values["sampling"]["scheduler"] == {"name": "dpm", "order": 2}


def test_roles_are_added_changed_and_removed() -> None:
    write("parent.yaml", "conditioning:\n  task: {name: prompt, length: 5}\n  return: one_hot\n")
    assert list(load({}).values["conditioning"]) == ["task", "history"]  # the default
    assert list(load(None, name="parent.yaml").values["conditioning"]) == ["task", "return"]
    recipe = load("extends: parent.yaml\nconditioning: {return: null, task: {dropout: 0.1}, map: prompt}\n")
    assert recipe.values["conditioning"] == {
        "task": {"name": "prompt", "length": 5, "dropout": 0.1},
        "map": {"name": "prompt", "length": 20, "dropout": 0.0},
    }
    assert load("extends: parent.yaml\nconditioning: null\n").values["conditioning"] == {}
    assert load("conditioning: {}\n").values["conditioning"] == {}
    assert list(load("seed: 1\n", "conditioning.task.length=3").values["conditioning"]) == ["task", "history"]
    assert list(load("seed: 1\n", "conditioning.task=null").values["conditioning"]) == ["history"]


def test_null_is_a_value_where_it_is_allowed() -> None:
    assert load("backbone: {path: null}\n").get("backbone.path") is None
    assert load("sampling:\n").values == load({}).values  # a heading with everything under it commented out
    write("parent.yaml", "sampling: {steps: 3}\n")
    assert load("extends: parent.yaml\nsampling:\n").get("sampling.steps") == 3


def test_overrides_are_one_layer() -> None:
    text = "backbone: {name: gpt2, num_layers: 2}\n"
    recipe = load(text, "backbone.width=8", "backbone=temporal_unet", "backbone.rate=3e-4", "seed=4", "seed=5")
    assert recipe.values["backbone"] == {"name": "temporal_unet", "width": 8, "dims": [1, 2], "rate": 3e-4}
    assert recipe.get("seed") == 5
    assert recipe.origin("backbone.width") == "command line"
    assert load(text, "backbone={name: temporal_unet, dims: [3]}").get("backbone.dims") == [3]


def test_extends_is_a_chain_and_cycles_are_refused() -> None:
    write("a/one.yaml", "extends: ../b/two.yaml\nseed: 1\n")
    write("b/two.yaml", "extends: three.yaml\nseed: 2\nbackbone: temporal_unet\n")
    write("b/three.yaml", "sampling: {steps: 3}\n")
    recipe = load(None, name="a/one.yaml")
    assert (recipe.get("seed"), recipe.get("backbone.name"), recipe.get("sampling.steps")) == (
        1,
        "temporal_unet",
        3,
    )
    assert [file.name for file in recipe.files] == ["one.yaml", "two.yaml", "three.yaml"]
    write("b/three.yaml", "extends: ../a/one.yaml\n")
    assert fault(None, name="a/one.yaml") == (
        "b/three.yaml:1: extends: goes round in a circle: a/one.yaml -> b/two.yaml -> b/three.yaml -> a/one.yaml."
    )
    assert fault("extends: r.yaml\n") == "r.yaml:1: extends: goes round in a circle: r.yaml -> r.yaml."
    assert fault("extends: b/tow.yaml\n") == ("r.yaml:1: extends: no recipe at b/tow.yaml. Did you mean 'b/two.yaml'?")
    assert fault("extends: [a]\n") == "r.yaml:1: extends: should be the path of a recipe or the name of a shipped one."


@pytest.fixture
def _third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    write(
        "lib/third_party_parts/__init__.py",
        "from toy_recipes import NETS\n\n\n@NETS.register('mamba')\ndef mamba(*, states: int = 16) -> None:\n"
        "    '''A state space model.'''\n",
    )
    write("lib/third_party_broken.py", "1 / 0\n")
    write("lib/third_party_needy.py", "import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    yield
    NETS._parts.pop("mamba", None)
    for module in [name for name in sys.modules if name.startswith("third_party_")]:
        del sys.modules[module]


@pytest.mark.usefixtures("_third_party")
def test_third_party_parts_come_through_imports() -> None:
    text = "imports: [third_party_parts]\nbackbone: {name: mamba, states: 3}\n"
    assert "is not trusted" in fault(text, allow_imports=False)
    assert "third_party_parts" not in sys.modules
    recipe = load(text)
    assert recipe.values["imports"] == ["third_party_parts"]
    assert recipe.values["backbone"] == {"name": "mamba", "states": 3}
    write("parent.yaml", text)
    child = load("extends: parent.yaml\nimports: [json]\n")  # a child's imports do not take a parent's away
    assert child.values["imports"] == ["third_party_parts", "json"]
    assert child.hash() == recipe.hash()
    child.save("saved.yaml")
    assert load(None, name="saved.yaml").values == child.values


@pytest.mark.usefixtures("_third_party")
def test_failing_imports_say_where_and_why() -> None:
    text = "imports:\n  - third_party_parst\n  - third_party_broken\n  - third_party_needy\n  - 3\nbackbone: mamba\n"
    assert fault(text).splitlines() == [
        "r.yaml:2: imports: cannot import 'third_party_parst': it is not installed here.",
        "r.yaml:3: imports: cannot import 'third_party_broken': ZeroDivisionError: division by zero",
        "r.yaml:4: imports: cannot import 'third_party_needy': 'not_there_at_all', which it needs, is not installed "
        "here.",
        "r.yaml:5: imports: should be a list of module names.",
    ]


def test_values_are_complete_ordered_and_json() -> None:
    recipe = load("sampling: {scheduler: dpm}\nseed: 3\n")
    assert list(recipe.values) == list(TABLE)
    assert json.loads(json.dumps(recipe.values)) == recipe.values
    assert recipe.get("sampling") == {
        "scheduler": {"name": "dpm", "order": 2}, "steps": 10, "weights": None, "workers": 1,
    }  # fmt: skip
    assert (recipe.name, recipe.path) == ("r", Path("r.yaml").resolve())
    with pytest.raises(RecipeError) as error:
        recipe.get("backbone.num_layer")
    assert str(error.value) == "backbone.num_layer: there is no 'num_layer' in backbone. Did you mean 'num_layers'?"
    assert dict(recipe.items())["sampling.scheduler.order"] == 2


def test_saved_recipes_load_to_equal_values_and_hash() -> None:
    write("parent.yaml", "backbone: {name: temporal_unet, rate: 3e-4, dims: []}\nvary: {seed: [1, 2]}\n")
    recipe = load("extends: parent.yaml\nconditioning: {history: null}\n", "seed=3")
    assert recipe.vary == {"seed": [1, 2]}
    recipe.save("run.yaml")
    again = load(None, name="run.yaml")
    assert again.values == recipe.values
    assert again.hash() == recipe.hash()
    assert again.to_yaml() == recipe.to_yaml() == Path("run.yaml").read_text()
    assert yaml.safe_load(recipe.to_yaml())["backbone"]["name"] == "temporal_unet"
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []
    with pytest.raises(StorageFault, match=r"^no/folder\.yaml: cannot be written: No such file or directory\.$"):
        recipe.save("no/folder.yaml")


def test_the_hash_depends_on_values_alone() -> None:
    write("parent.yaml", "backbone: {num_heads: 2, name: gpt2}\n")
    base = load("seed: 1\nbackbone:\n  name: gpt2\n  num_heads: 2\n")
    same = [
        load("backbone: {num_heads: 2}  # comment\n\nseed: 1\n"),
        load("extends: parent.yaml\nseed: 0x1\n", name="other.yaml"),
        load({"seed": 1, "backbone": {"name": "gpt2", "num_heads": 2}}),
        load("seed: 1\nschema: 1\nbackbone: gpt2\n", "backbone.num_heads=2"),
        load("seed: 1\nbackbone: {num_heads: 2, num_layers: 6}\nvary: {seed: [1]}\n"),
    ]
    assert {recipe.hash() for recipe in same} == {base.hash()}
    assert len(base.hash()) == 12
    other = [load({}, "seed=2"), load({}, "seed=1"), load({}, "backbone=temporal_unet"), base]
    assert len({recipe.hash() for recipe in other} | {base.hash("data")}) == 5
    assert load({}, "backbone=temporal_unet", "backbone.rate=1").hash() == (
        load({}, "backbone=temporal_unet", "backbone.rate=1.0").hash()
    )


def test_section_hashes_and_what_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = load({}, "seed=1", "sampling.workers=2"), load({}, "seed=2", "sampling.workers=3")
    assert a.section_hash("backbone", "scheduler") == b.section_hash("scheduler", "backbone")
    assert a.section_hash("sampling") != b.section_hash("sampling")
    monkeypatch.setattr("mtdiff.recipe.recipe.EXCLUDED", ("seed", "sampling.workers", "none.such"))
    assert a.hash() == b.hash()
    assert a.section_hash("sampling") == b.section_hash("sampling")
    assert a.section_hash("seed") != b.section_hash("seed")
    assert all(key.partition(".")[0] in {"imports", *SECTIONS} for key in EXCLUDED)


def test_sections_build() -> None:
    recipe = load({}, "sampling.scheduler=dpm", "backbone.num_layers=2")
    assert recipe.build("backbone", channels=3, horizon=9) == {"channels": 3, "num_layers": 2}
    assert recipe.build("conditioning") == {"task": "prompt", "history": "one_hot"}
    assert recipe.build("sampling") == Sampling(scheduler={"name": "dpm", "order": 2})
    assert recipe.build("seed") == 0
