"""The JSON Schema of recipes accepts what is right and rejects what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toy_recipes import TABLE, load

from mtdiff.recipe import json_schema, load_recipe, shipped_recipes
from mtdiff.recipe.yaml_lines import read


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Say whether a JSON Schema accepts a value; the few keywords that ours uses."""
    if "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return accepts(target, value, root)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}

    def of_type(name: str) -> bool:
        if name in ("integer", "number"):
            return isinstance(value, int if name == "integer" else int | float) and not isinstance(value, bool)
        return isinstance(value, kinds[name])

    names = schema.get("type", [])
    if names and not any(map(of_type, [names] if isinstance(names, str) else names)):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "oneOf" in schema and sum(accepts(s, value, root) for s in schema["oneOf"]) != 1:
        return False
    if "anyOf" in schema and not any(accepts(s, value, root) for s in schema["anyOf"]):
        return False
    if "not" in schema and accepts(schema["not"], value, root):
        return False
    if "minimum" in schema and value is not None and value < schema["minimum"]:
        return False
    if isinstance(value, dict):
        if not set(schema.get("required", [])) <= set(value):
            return False
        for key, inner in value.items():
            below = schema.get("properties", {}).get(key, schema.get("additionalProperties", True))
            if below is False or (below is not True and not accepts(below, inner, root)):
                return False
    return not isinstance(value, list) or all(accepts(schema.get("items", {}), v, root) for v in value)


def test_the_json_schema_accepts_what_is_right_and_rejects_what_is_wrong() -> None:
    schema = json_schema(sections=TABLE)
    json.dumps(schema)
    right: list[dict[str, Any]] = [
        {}, {"backbone": "gpt2"}, {"backbone": {"name": "gpt2", "num_layers": 3}}, {"backbone": {"num_layers": 3}},
        {"extends": "x", "imports": ["a"], "schema": 1, "vary": {"seed": [1]}, "seed": 0},
        {"conditioning": {"task": None, "map": "prompt", "x": {"name": "prompt", "dropout": 1}}},
        {"conditioning": None}, {"sampling": None}, {"backbone": {"path": None}},
        {"sampling": {"scheduler": None, "steps": 1, "weights": {"a": 1}}}, {"sampling": {"scheduler": "dpm"}},
        {"sampling": {"scheduler": {"name": "dpm", "order": 1}}},
        {"scheduler": {"name": "dpm", "num_train_timesteps": 3}}, load({}).values,
    ]  # fmt: skip
    wrong: list[dict[str, Any]] = [
        {"backbnoe": "gpt2"}, {"backbone": "gtp2"}, {"backbone": {"name": "gpt2", "width": 3}},
        {"backbone": {"name": "gpt2", "num_layers": "four"}}, {"backbone": {"n_layers": 3}}, {"backbone": None},
        {"conditioning": {"task": {"name": "one_hot", "length": 3}}}, {"seed": -1}, {"seed": "1"}, {"schema": 2},
        {"sampling": {"scheduler": {"name": "dpm", "num_train_timesteps": 3}}}, {"sampling": {"step": 1}},
        {"scheduler": {"name": "dpm", "order": 3}}, {"backbone": {"name": "gpt2", "num_layers": True}},
    ]  # fmt: skip
    assert [value for value in right if not accepts(schema, value, schema)] == []
    assert [value for value in wrong if accepts(schema, value, schema)] == []


def test_the_json_schema_carries_docs_and_defaults() -> None:
    schema = json_schema(sections=TABLE)
    assert schema["$defs"]["backbone.gpt2"]["description"] == "Attention."
    assert schema["$defs"]["backbone.gpt2"]["properties"]["num_layers"]["default"] == 6
    assert schema["properties"]["sampling"]["properties"]["steps"]["description"] == "how many."
    assert schema["properties"]["seed"]["description"] == "Seed."
    assert schema["properties"]["backbone"]["default"] == "gpt2"


def test_the_schema_of_mtdiffs_own_parts_accepts_every_shipped_recipe_and_rejects_bad_ones() -> None:
    schema = json_schema()
    shipped = shipped_recipes()
    assert shipped
    for name, path in shipped.items():
        written = read(path, name)[0].plain()
        assert accepts(schema, written, schema), name
        assert accepts(schema, load_recipe(name).values, schema), f"{name}, resolved"
        wrong: list[dict[str, Any]] = [
            {"bakcbone": "gpt2"}, {"backbone": "gtp2"}, {"backbone": {"name": "gpt2", "n_layers": 3}},
            {"backbone": {"name": "gpt2", "num_layers": "four"}}, {"training": {"updates": 1.5}}, {"seed": -1},
            {"sampling": {"scheduler": {"name": "ddpm", "beta_min": 0.2}}}, {"conditioning": {"task": "prompt"}},
        ]  # fmt: skip
        for change in wrong:
            assert not accepts(schema, written | change, schema), (name, change)
