"""Toy registries and a table of sections over them, and how tests load recipes of those."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge

from mtdiff.errors import RecipeError
from mtdiff.recipe import (
    PartSection,
    Recipe,
    RolesSection,
    Sections,
    SettingsSection,
    ValueSection,
    load_recipe,
)
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


def load(text: str | dict[str, Any] | None = None, *overrides: str, name: str = "r.yaml", **kwargs: Any) -> Recipe:
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
