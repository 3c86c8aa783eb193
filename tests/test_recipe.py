"""Recipes: reading, merging, checking, hashing, and what users are told."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from annotated_types import Ge

from mtdiff.errors import RecipeError
from mtdiff.recipe import (
    EXCLUDED,
    SECTIONS,
    InvalidRecipe,
    PartSection,
    Recipe,
    RolesSection,
    Sections,
    SettingsSection,
    ValueSection,
    finding,
    json_schema,
    load_recipe,
)
from mtdiff.recipe.yaml_lines import dump, parse
from mtdiff.registry import Nested, PartSpec, Registry

NETS = Registry("backbone", "json")
ENCODERS = Registry("conditioning", "json")
SOLVERS = Registry("scheduler", "json")


@NETS.register("gpt2", runtime=("channels",))
def gpt2(*, channels: int, num_layers: int = 6, num_heads: int = 4, path: str | None = "x") -> dict[str, Any]:
    """Attention."""
    return {"channels": channels, "num_layers": num_layers}


@NETS.register("temporal_unet")
def temporal_unet(*, width: int = 32, dims: tuple[int, ...] = (1, 2), rate: float = 1e-4) -> None:
    """Convolutions."""


@ENCODERS.register("prompt")
def prompt(*, length: int = 20, dropout: float = 0.0) -> str:
    """A demonstration."""
    return "prompt"


@ENCODERS.register("one_hot")
def one_hot() -> str:
    """A number."""
    return "one_hot"


@SOLVERS.register("ddpm")
def ddpm(*, num_train_timesteps: int = 200, clip: bool = True) -> None:
    """Ancestral."""


@SOLVERS.register("dpm")
def dpm(*, num_train_timesteps: int = 200, order: Literal[1, 2] = 2) -> None:
    """Fast."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How.

    Args:
        scheduler: the solver.
        steps: how many.
        weights: by task.
    """

    scheduler: PartSpec | None = None
    steps: Annotated[int, Ge(1)] = 10
    weights: dict[str, float] | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        if self.steps == 13:
            raise ValueError("steps: 13 is unlucky.")


TABLE: Sections = {
    "seed": ValueSection(annotation=Annotated[int, Ge(0)], default=0, doc="Seed."),
    "conditioning": RolesSection(registry=ENCODERS, default={"task": "prompt", "history": "one_hot"}),
    "backbone": PartSection(registry=NETS, default="gpt2"),
    "scheduler": PartSection(registry=SOLVERS, default="ddpm"),
    "sampling": SettingsSection(
        target=Sampling,
        nested={
            "scheduler": Nested(
                registry=SOLVERS,
                without=("num_train_timesteps",),
                because="is the training scheduler's: set scheduler.{key}",
            )
        },
    ),
}


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(
    text: str | dict[str, Any] | None = None, *overrides: str, name: str = "r.yaml", **kwargs: Any
) -> Recipe:
    if isinstance(text, str):
        write(name, text)
    source: Any = text if isinstance(text, dict) else name
    return load_recipe(source, overrides, sections=TABLE, rules=kwargs.pop("rules", ()), **kwargs)


def write(name: str, text: str | bytes) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)


def fault(text: str | dict[str, Any] | None, *overrides: str, **kwargs: Any) -> str:
    with pytest.raises(RecipeError) as error:
        load(text, *overrides, **kwargs)
    return str(error.value)


# --- YAML -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4), ("1e6", 1e6), ("+.5", 0.5), ("-1.", -1.0), ("1E+2", 100.0), ("-.inf", -float("inf")),
        ("12", 12), ("-3", -3), ("007", 7), ("0o17", 15), ("0x1F", 31), ("yes", "yes"), ("no", "no"),
        ("on", "on"), ("off", "off"), ("y", "y"), ("True", True), ("FALSE", False), ("tRUE", "tRUE"),
        ("null", None), ("~", None), ("", None), ("'3'", "3"), ('"true"', "true"), ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"), ("1_000", "1_000"), ("!!str 3", "3"), ("!!float 3", 3.0), ("!!int 0x10", 16), ("=", "="),
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
    lines = {
        path: str(node.nearest_place(path))
        for path in [("a",), ("b", "c"), ("b", "c", 0), ("b", "c", 1, "d")]
    }
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


# --- finding ----------------------------------------------------------------------------------------------


def test_missing_files() -> None:
    write("good.yaml", "")
    write("sub/inner.yaml", "")
    assert fault(None, name="godo.yaml") == "no recipe at godo.yaml. Did you mean 'good.yaml'?"
    assert fault(None, name="sub/iner.yaml") == "no recipe at sub/iner.yaml. Did you mean 'sub/inner.yaml'?"
    assert fault(None, name="sub") == "sub is a folder, not a recipe. Name the .yaml file in it."
    assert fault(None, name="no/where.yaml") == "no recipe at no/where.yaml."


def test_shipped_recipes_are_found_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write("shipped/quickstart.yaml", "extends: defaults/planner\n")
    write(
        "shipped/metaworld/planner_mt10.yaml", "extends: ../defaults/planner.yaml\nbackbone: temporal_unet\n"
    )
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


# --- merging ----------------------------------------------------------------------------------------------


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
    recipe = load(
        text, "backbone.width=8", "backbone=temporal_unet", "backbone.rate=3e-4", "seed=4", "seed=5"
    )
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
    assert fault("extends: b/tow.yaml\n") == (
        "r.yaml:1: extends: no recipe at b/tow.yaml. Did you mean 'b/two.yaml'?"
    )
    assert (
        fault("extends: [a]\n")
        == "r.yaml:1: extends: should be the path of a recipe or the name of a shipped one."
    )


# --- messages ---------------------------------------------------------------------------------------------

UNKNOWN_SECTION = (
    "Allowed: seed, conditioning, backbone, scheduler, sampling, schema, extends, imports, vary."
)


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


# --- third parties ----------------------------------------------------------------------------------------


@pytest.fixture
def _third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    write(
        "lib/third_party_parts/__init__.py",
        "from tests.test_recipe import NETS\n\n\n@NETS.register('mamba')\ndef mamba(*, states: int = 16) -> None:\n"
        "    '''A state space model.'''\n",
    )
    write("lib/third_party_broken.py", "1 / 0\n")
    write("lib/third_party_needy.py", "import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setitem(sys.modules, "tests.test_recipe", sys.modules[__name__])
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


# --- values and hashes ------------------------------------------------------------------------------------


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
    assert (
        str(error.value)
        == "backbone.num_layer: there is no 'num_layer' in backbone. Did you mean 'num_layers'?"
    )
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
    with pytest.raises(FileNotFoundError):
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


# --- editors ----------------------------------------------------------------------------------------------


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
            return isinstance(value, int if name == "integer" else int | float) and not isinstance(
                value, bool
            )
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
