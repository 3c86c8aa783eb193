"""Registries: the signature is the only schema, and messages say what is allowed."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge

from mtdiff.errors import RecipeError
from mtdiff.registry import REGISTRIES, Nested, Part, PartSpec, Registry


def captured(function: Any) -> Any:
    """As diffusers' @register_to_config: the wrapper has no signature of its own."""

    @functools.wraps(function)
    def inner(self: Any, *args: Any, **kwargs: Any) -> None:
        function(self, *args, **kwargs)

    return inner


NOISES = Registry("noise", "json")
NETS = Registry("net", "json")  # any module will do for a home


@NOISES.register("white")
def white(*, level: float = 1.0) -> float:
    """Uncorrelated noise."""
    return level


@NETS.register("tower", runtime=("channels",))
class Tower:
    """Blocks on blocks.

    Longer words about it.

    Args:
        channels: D, from the data.
        width: C, at least 1,
            on two lines.
        depth (`int`, *optional*): how many.
        activation: what is between.
        bias: whether there is one.
        scale: a number.
        hidden: of each block.
        tasks: names, or the name of a set.
        limit: or none.
        noise: what is added.
    """

    @captured
    def __init__(
        self,
        *,
        channels: int,
        width: Annotated[int, Ge(1)],
        depth: int = 2,
        activation: Literal["mish", "relu"] = "mish",
        bias: bool = True,
        scale: float = 1,
        hidden: tuple[int, ...] = (8, 8),
        tasks: str | list[str] = "all",
        limit: float | None = None,
        noise: Annotated[PartSpec | None, Nested(registry=NOISES)] = None,
    ) -> None:
        self.arguments = {k: v for k, v in locals().items() if k != "self"}


def message(**arguments: Any) -> str:
    with pytest.raises(RecipeError) as error:
        NETS.build({"name": "tower", "width": 3, **arguments}, channels=1)
    return str(error.value)


def test_a_signature_is_read_through_a_wrapper() -> None:
    part = NETS["tower"]
    assert part.summary == "Blocks on blocks."
    assert list(part.arguments)[:3] == ["width", "depth", "activation"]
    assert part.arguments["width"].required
    assert part.arguments["width"].doc == "C, at least 1, on two lines."
    assert part.arguments["depth"].doc == "how many."
    assert part.arguments["depth"].default == 2
    assert part.arguments["noise"].nested is not None
    assert part.arguments["noise"].nested.registry is NOISES


def test_build_gives_typed_arguments_and_declared_runtime_ones() -> None:
    tower = NETS.build({"name": "tower", "width": 3, "scale": 2, "hidden": [1, 2]}, channels=5, horizon=7)
    assert tower.arguments["hidden"] == (1, 2)
    assert isinstance(tower.arguments["scale"], float)
    assert tower.arguments["channels"] == 5
    assert NOISES.build("white") == 1.0
    with pytest.raises(TypeError, match="channels"):
        NETS.build({"name": "tower", "width": 3})


def test_check_fills_defaults_that_json_can_carry() -> None:
    values, problems = NETS["tower"].check({"width": 3}, exclude=("tasks",))
    assert problems == []
    assert values == {
        "width": 3, "depth": 2, "activation": "mish", "bias": True, "scale": 1.0, "hidden": [8, 8],
        "limit": None, "noise": None,
    }  # fmt: skip
    assert isinstance(values["scale"], float)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"width": "four"}, "net.width: should be an integer, got 'four'."),
        ({"width": True}, "net.width: should be an integer, got true."),
        ({"width": 3.0}, "net.width: should be an integer, got 3.0. Write 3."),
        ({"width": None}, "net.width: should be an integer, got null."),
        ({"width": 0}, "net.width: should be at least 1, got 0."),
        ({"bias": 1}, "net.bias: should be true or false, got 1."),
        ({"bias": "yes"}, "net.bias: should be true or false, got 'yes'."),
        ({"scale": True}, "net.scale: should be a number, got true."),
        ({"scale": float("inf")}, "net.scale: should be a finite number, got inf."),
        ({"limit": "low"}, "net.limit: should be a number, got 'low'."),
        ({"hidden": 3}, "net.hidden: should be a list of integers, got 3."),
        ({"hidden": [1, "a"]}, "net.hidden.1: should be an integer, got 'a'."),
        ({"tasks": 3}, "net.tasks: should be a string or a list of strings, got 3."),
        ({"tasks": ["a", 1]}, "net.tasks: should be a string or a list of strings, got ['a', 1]."),
        ({"tasks": {1, 2}}, "net.tasks: should be a string or a list of strings, got {1, 2}."),
        (
            {"activation": "mis"},
            "net.activation: unknown activation 'mis'. Allowed: mish, relu. Did you mean 'mish'?",
        ),
        ({"activation": 1}, "net.activation: should be one of mish, relu, got 1."),
        ({"channels": 1}, "net.channels: comes from the data and cannot be set. Allowed: width, depth, activation, "
            "bias, scale, hidden, tasks, limit, noise."),
        ({"widht": 1}, "net.widht: tower takes no 'widht'. Allowed: width, depth, activation, bias, scale, hidden, "
            "tasks, limit, noise. Did you mean 'width'?"),
    ],
)  # fmt: skip
def test_wrong_arguments(arguments: dict[str, Any], expected: str) -> None:
    assert message(**arguments) == expected


def test_all_wrong_arguments_at_once() -> None:
    with pytest.raises(RecipeError) as error:
        NETS.build({"name": "tower", "depth": "a", "bias": 0}, channels=1)
    assert str(error.value).splitlines() == [
        "net: tower needs 'width': C, at least 1, on two lines.",
        "net.depth: should be an integer, got 'a'.",
        "net.bias: should be true or false, got 0.",
    ]


def test_unknown_and_missing_names() -> None:
    with pytest.raises(RecipeError) as error:
        NETS["towr"]
    assert str(error.value) == "unknown net 'towr'. Allowed: tower. Did you mean 'tower'?"
    with pytest.raises(RecipeError) as error:
        NETS.build({"width": 3})
    assert str(error.value) == "net: needs a name. Allowed: tower."
    assert "tower" in NETS
    assert "towr" not in NETS
    assert list(NETS) == NETS.names() == ["tower"]
    assert len(NETS) == 1


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="net 'tower' is registered twice"):
        NETS.register("tower")(white)
    assert NETS.register("tower", runtime=("channels",))(Tower) is Tower  # the same again: a cell run twice


def test_signatures_that_are_no_schema() -> None:
    def swallows(**kwargs: int) -> None: ...

    def silent(width) -> None: ...  # type: ignore[no-untyped-def]

    def sized(*, width: int) -> None: ...

    for target, runtime, text in [
        (swallows, (), "kwargs"),
        (silent, (), "annotation"),
        (sized, ("d",), "lacks"),
    ]:
        with pytest.raises(TypeError, match=text):
            Part(kind="net", name="x", target=target, runtime=runtime).arguments  # noqa: B018


def test_a_default_that_does_not_fit_is_the_parts_fault() -> None:
    def wrong(*, width: int = "wide") -> None: ...  # type: ignore[assignment]

    with pytest.raises(TypeError, match="the default of 'width', 'wide', does not fit"):
        Part(kind="net", name="wrong", target=wrong).check({})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Some.

    Args:
        names: a few.
    """

    names: list[str] = field(default_factory=lambda: ["a"])
    copy: int = 1


def test_dataclasses_and_classes_without_arguments() -> None:
    part = Part(kind="settings", name="some", target=Settings)
    assert part.check({}) == ({"names": ["a"], "copy": 1}, [])
    assert part.arguments["names"].doc == "a few."
    assert part.build({"copy": 2}) == Settings(copy=2)

    class Empty:
        pass

    assert Part(kind="settings", name="none", target=Empty).arguments == {}


def test_diffusers_own_classes_are_parts() -> None:
    schedulers = pytest.importorskip("diffusers")
    part = Part(kind="scheduler", name="ddim", target=schedulers.DDIMScheduler)
    assert part.arguments["num_train_timesteps"].annotation is int
    values, problems = part.check({"beta_start": 1, "num_train_timesteps": True})
    assert values["beta_start"] == 1.0
    assert problems == [(("num_train_timesteps",), "should be an integer, got true.")]


def test_model_is_a_pydantic_class() -> None:
    model = NETS["tower"].model(exclude=("noise",))
    assert model.model_config["extra"] == "forbid"
    assert "noise" not in model.model_fields
    assert model.model_fields["width"].description == "C, at least 1, on two lines."


def test_a_home_is_imported_on_the_first_look_up_only() -> None:
    code = (
        "import sys, mtdiff.registry as r\n"
        "assert 'mtdiff.schedulers' not in sys.modules and 'pydantic' not in sys.modules\n"
        "assert 'ddpm' in r.SCHEDULERS and 'mtdiff.schedulers' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_registered_part_is_documented_and_its_defaults_fit() -> None:
    parts = [registry[name] for registry in REGISTRIES.values() for name in registry]
    assert parts
    for part in parts:
        assert part.summary, f"{part.kind} {part.name} has no docstring"
        undocumented = [a.name for a in part.arguments.values() if not a.doc]
        assert not undocumented, f"{part.kind} {part.name}: {undocumented} are not in its Args:"
        required = {a.name for a in part.arguments.values() if a.required}
        values, problems = part.check({})
        assert not problems or required, f"{part.kind} {part.name}: {problems}"
        assert set(values) == set(part.arguments) - required
