"""Recipes as files: YAML 1.2 with lines, what is no recipe, and where recipes are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_recipes import fault, load, write

from mtdiff.recipe import (
    finding,
)
from mtdiff.recipe.yaml_lines import dump, parse


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4), ("1e6", 1e6), ("+.5", 0.5), ("-1.", -1.0), ("1E+2", 100.0), ("-.inf", -float("inf")),
        ("12", 12), ("-3", -3), ("007", 7), ("0o17", 15), ("0x1F", 31), ("yes", "yes"), ("no", "no"),
        ("on", "on"), ("off", "off"), ("y", "y"), ("True", True), ("FALSE", False), ("tRUE", "tRUE"),
        ("null", None), ("~", None), ("", None), ("'3'", "3"), ('"true"', "true"), ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"), ("1_000", "1_000"), ("!!str 3", "3"), ("!!float 3", 3.0), ("!!int 0x10", 16),
        ("=", "="),
        ("[1, a, {b: 2e1}]", [1, "a", {"b": 20.0}]), ("reach-v3", "reach-v3"), ("é", "é"),
    ],
)  # fmt: skip
def test_scalars_are_yaml_1_2(text: str, value: Any) -> None:
    node, problems = parse(f"key: {text}\n", "f")
    assert problems == []
    got = node.plain()["key"]
    assert (got, type(got)) == (value, type(value))


def test_what_is_dumped_is_read_back() -> None:
    texts = [
        "",
        "~",
        "null",
        "1e6",
        "3e-4",
        "0x1F",
        "0o7",
        "yes",
        "true",
        "12",
        ".5",
        ".inf",
        "a: b",
        "#",
        "- a",
    ]
    texts += ["<<", "=", "a\nb\n", " padded ", "é", "\x85", "2024-01-01", "'", "!x", "&a", "*a", "\t"]
    values = {"texts": texts, "keys": {t: i for i, t in enumerate(texts) if t != "<<"}}
    values |= {"numbers": [1e-5, 1e16, 1e300, 0.1, -0.0, 10**20, True, None], "empty": [{}, []]}
    node, problems = parse(dump(values), "f")
    assert problems == []
    assert node.plain() == values


def test_every_value_knows_its_line() -> None:
    node, _ = parse("a: 1\nb:\n  c:\n    - 2\n    -\n      d: 3\n", "f")
    lines = {path: str(node.nearest_place(path)) for path in [("a",), ("b", "c"), ("b", "c", 0), ("b", "c", 1, "d")]}
    assert list(lines.values()) == ["f:1", "f:3", "f:4", "f:6"]
    assert str(node.nearest_place(("b", "zzz"))) == "f:2"
    assert str(node.nearest_place(("zzz",))) == "f"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"- a\n", "r.yaml: should be a mapping of sections to parts and settings, got a list"),
        (b"gpt2\n", "r.yaml: should be a mapping of sections to parts and settings, got 'gpt2'"),
        (b"seed: 1\nbackbone:\n\tname: gpt2\n", "r.yaml:3: not YAML: a tab. Indent with spaces"),
        (b"seed: 1\n\xff\n", "r.yaml:2: not UTF-8 text (byte 0xff). Save it as UTF-8"),
        (b"\xff\xfes\x00", "r.yaml:1: not UTF-8 text (byte 0xff). Save it as UTF-8"),
        (b"seed: 1\n\x00", "r.yaml:2: not YAML: the character '\\x00' is not allowed"),
        (b"seed: 1\n---\nseed: 2\n", "r.yaml:2: not a recipe: a second document begins here (---). Keep one per file"),
        (b"seed: 1\nseed: 2\n", "r.yaml:2: seed: given twice, first in line 1. Remove one."),
        (b"seed: !!python/name:os.system x\n", "r.yaml:1: seed: the tag !!python/name:os.system is not allowed: a "
            "recipe is plain data."),
        (b"seed: !!int x\n", "r.yaml:1: seed: 'x' is not of the type that its tag !!int says."),
        (b"a: &a {b: *a}\n", "r.yaml:1: a.b: an alias that contains itself"),
        (b"backbone:\n  <<: {name: gpt2}\n", "r.yaml:2: backbone: merge keys (<<) are not YAML 1.2. Use 'extends' "
            "or write it out."),
        (b"? [a, b]\n: 1\n", "r.yaml:1: a key should be a word."),
        (b"a: " + b"[" * 5000, "r.yaml: nested too deeply"),
    ],
)  # fmt: skip
def test_files_that_are_no_recipe(text: bytes, expected: str) -> None:
    write("r.yaml", text)
    assert fault(None).splitlines()[0] == expected


def test_a_syntax_error_names_its_line() -> None:
    message = fault("seed: 1\nbackbone: {name: gpt2\nsampling: {}\n")
    assert message.startswith("r.yaml:3: not YAML: ")


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "too long: more than 100000 values" in fault("\n".join(lines))


def test_empty_files_and_a_byte_order_mark() -> None:
    assert load("").values == load("# nothing\n").values == load({}).values
    write("bom.yaml", b"\xef\xbb\xbfseed: 3\n")
    assert load(None, name="bom.yaml").get("seed") == 3


def test_missing_files() -> None:
    write("good.yaml", "")
    write("sub/inner.yaml", "")
    assert fault(None, name="godo.yaml") == "no recipe at godo.yaml. Did you mean 'good.yaml'?"
    assert fault(None, name="sub/iner.yaml") == "no recipe at sub/iner.yaml. Did you mean 'sub/inner.yaml'?"
    assert fault(None, name="sub") == "sub is a folder, not a recipe. Name the .yaml file in it."
    assert fault(None, name="no/where.yaml") == "no recipe at no/where.yaml."


def test_shipped_recipes_are_found_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write("shipped/quickstart.yaml", "extends: defaults/planner\n")
    write("shipped/metaworld/planner_mt10.yaml", "extends: ../defaults/planner.yaml\nbackbone: temporal_unet\n")
    write("shipped/defaults/planner.yaml", "seed: 7\n")
    monkeypatch.setattr(finding, "recipes_folder", lambda: tmp_path / "shipped")
    for name in (
        "metaworld/planner_mt10",
        "recipes/metaworld/planner_mt10.yaml",
        "metaworld/planner_mt10.yaml",
    ):
        recipe = load(None, name=name)
        assert (recipe.name, recipe.get("seed"), recipe.get("backbone.name")) == (
            "planner_mt10",
            7,
            "temporal_unet",
        )
    assert load(None, name="quickstart").get("seed") == 7
    assert fault(None, name="quikstart") == (
        "no recipe 'quikstart': neither a file nor shipped with mtdiff. Shipped: defaults/planner, "
        "metaworld/planner_mt10, quickstart. Did you mean 'quickstart'?"
    )
    for name in ("planner_mt1", "planer"):
        assert "Did you mean '" in fault(None, name=name)
    assert fault(None, name="planner_mt1").endswith("Did you mean 'metaworld/planner_mt10'?")
