"""Parts built for trial on torch's `meta` device, which has no memory: do they take their arguments, do they fit?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mtdiff.errors import MTDiffError
from mtdiff.registry import BACKBONES, CONDITIONING, POLICIES, REPRESENTATIONS, SCHEDULERS, SUITES, PartSpec, Registry

Values = dict[str, Any]
Found = Iterator[tuple[str, str]]

MEASURES = {
    "backbone": ("width",),
    "representation": ("horizon",),
    "scheduler": ("num_train_timesteps",),
    "policy": ("width",),
}
"""Arguments that every part of a section takes, because other parts are built or checked by them."""


def unmeasured(values: Values) -> Found:
    """Parts, of others, that lack an argument which the rest of a recipe is built by."""
    registries = {
        "backbone": BACKBONES, "representation": REPRESENTATIONS, "scheduler": SCHEDULERS, "policy": POLICIES
    }  # fmt: skip
    for section, needed in MEASURES.items():
        if section not in values:
            continue
        registry = registries[section]
        part = registry[values[section]["name"]]
        missing = [key for key in needed if key not in part.arguments]
        if missing:
            yield section, f"'{part.name}' must take {', '.join(missing)}, as every {part.kind} does"


def trial_sizes(values: Values) -> dict[str, Any]:
    """Widths to try parts with. An unknown suite must not hide what else is wrong: then any width serves."""
    from mtdiff.compose import token_width

    dims: tuple[Any, ...]
    try:
        suite = SUITES.build(values["suite"])
        dims = suite.state_dim, suite.action_dim, len(suite.tasks), getattr(suite, "map_shape", None)
    except MTDiffError:
        dims = 1, 1, 1, (3, 3)
    sizes = dict(zip(("state_dim", "action_dim", "num_tasks", "map_shape"), dims, strict=True))
    return {**sizes, "width": token_width(values)}


def trial_encoders(values: Values, faults: list[tuple[str, str]]) -> dict[str, Any]:
    """The condition encoders that can be built, by role; what the others say goes into `faults`."""
    sizes, parts = trial_sizes(values), {}
    for role, spec in values["conditioning"].items():
        with noted(faults, f"conditioning.{role}"):
            parts[role] = on_meta(CONDITIONING, spec, **sizes)
    return parts


def roles_of(encoders: dict[str, Any]) -> list[Any]:
    from mtdiff.conditioning.encoder import Role

    return [
        Role(name=name, num_tokens=part.num_tokens, lifetime=part.lifetime, added=part.added)
        for name, part in encoders.items()
    ]


def on_meta(registry: Registry, spec: PartSpec, **sizes: Any) -> Any:
    """Build a part without memory for its weights; for real where it reads numbers while it is built."""
    import torch

    try:
        with torch.device("meta"):
            return registry.build(spec, **sizes)
    except RuntimeError as error:
        if "meta tensor" not in str(error):
            raise
    with torch.random.fork_rng(devices=[]):
        return registry.build(spec, **sizes)


@contextmanager
def noted(faults: list[tuple[str, str]], section: str) -> Iterator[None]:
    """Turn a constructor's complaint, `argument: what is wrong`, into a problem at that argument."""
    try:
        yield
    except (ValueError, MTDiffError) as error:
        text = str(error).removeprefix(f"{section}.")
        match = re.match(r"(\w+): (.*)", text, re.DOTALL)
        faults.append((f"{section}.{match[1]}", match[2]) if match else (section, text))
