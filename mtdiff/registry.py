"""Parts under their names: what a recipe may say is what a part's signature takes.

A part is a class or a function with typed arguments, registered under the name that YAML uses. Its signature
and docstring are its only schema: checker, `mtdiff parts`, JSON Schema and docs read nothing else. A registry
imports the package its parts live in on the first look-up, so that importing this module is cheap.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from mtdiff.argument_check import Problem, check_arguments
from mtdiff.errors import RecipeError, choices
from mtdiff.signature import Argument, Nested, argument_model, read_arguments

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = [
    "AUGMENTATIONS", "BACKBONES", "CONDITIONING", "DATA", "LEARNERS", "POLICIES", "REGISTRIES", "REPRESENTATIONS",
    "SCHEDULERS", "SUITES", "Argument", "Nested", "Part", "PartSpec", "Registry",
]  # fmt: skip

Target = TypeVar("Target", bound=Callable[..., Any])

PartSpec = Mapping[str, Any]
"""Annotation of an argument that names another part: `{"name": ..., **arguments}`. Say of which registry with
`Annotated[PartSpec, Nested(SCHEDULERS)]`, or in the table of recipe sections."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that a recipe can name and give arguments to.

    Args:
        kind: What it is one of, as messages say it: "backbone".
        name: Its name in YAML.
        target: The class or function that is called.
        runtime: Arguments that come from data or from other parts and never from YAML.
    """

    kind: str
    name: str
    target: Callable[..., Any]
    runtime: tuple[str, ...] = ()

    @functools.cached_property
    def arguments(self) -> dict[str, Argument]:
        """What a recipe may set, in the order of the signature.

        Raises:
            TypeError: The signature is no schema: `*args`, `**kwargs`, a missing or unresolvable annotation.
        """
        return read_arguments(self.target, runtime=self.runtime)

    @property
    def doc(self) -> str:
        """The whole docstring, without indentation."""
        return inspect.cleandoc(self.target.__doc__ or "")

    @property
    def summary(self) -> str:
        """The docstring's first line."""
        return self.doc.partition("\n")[0]

    def model(self, exclude: tuple[str, ...] = ()) -> type[BaseModel]:
        """Return the signature as a pydantic model: no unknown fields, neither `True` nor "1" for 1."""
        return argument_model(self.name, {k: v for k, v in self.arguments.items() if k not in exclude})

    def check(
        self, values: Mapping[str, Any], *, exclude: tuple[str, ...] = ()
    ) -> tuple[dict[str, Any], list[Problem]]:
        """Return JSON-able arguments with defaults filled in, and what is wrong as (path, message).

        Args:
            values: Arguments without `name`, made of what YAML can say.
            exclude: Arguments that cannot be set here and are left out of the result.
        """
        arguments = {k: v for k, v in self.arguments.items() if k not in exclude}
        filled, _, problems = check_arguments(self.name, arguments, values, runtime=self.runtime)
        return filled, problems

    def build(self, values: Mapping[str, Any] | None = None, **runtime: Any) -> Any:
        """Call the part with checked arguments.

        Args:
            values: Arguments without `name`.
            **runtime: Everything the caller knows; a part is given those that it declared at registration.

        Raises:
            RecipeError: An argument is unknown, missing or of the wrong type.
            TypeError: A runtime argument without a default was not given.
        """
        _, typed, problems = check_arguments(self.name, self.arguments, values or {}, runtime=self.runtime)
        if problems:
            lines = (f"{'.'.join(map(str, (self.kind, *path)))}: {message}" for path, message in problems)
            raise RecipeError("\n".join(lines))
        return self.target(**typed, **{key: value for key, value in runtime.items() if key in self.runtime})


@dataclass(eq=False)
class Registry:
    """Parts of one kind by name.

    Args:
        kind: What the parts are, in the singular, as messages say it: "backbone".
        home: The package whose import registers mtdiff's own; imported on the first look-up, never before.
    """

    kind: str
    home: str
    _parts: dict[str, Part] = field(default_factory=dict, init=False, repr=False)
    _loaded: bool = field(default=False, init=False, repr=False)

    def register(self, name: str, *, runtime: tuple[str, ...] = ()) -> Callable[[Target], Target]:
        """Return a decorator that registers a class or function.

        Args:
            name: Its name in YAML.
            runtime: Arguments that come from data or other parts, such as sizes: never in YAML.

        Raises:
            ValueError: Another part has this name.
        """

        def decorate(target: Target) -> Target:
            known = self._parts.get(name)
            # The same definition once more is no clash: a notebook cell run twice, a module imported again.
            if known and _origin(known.target) != _origin(target):
                both = f"{_origin(known.target)} and {_origin(target)}"
                raise ValueError(f"{self.kind} '{name}' is registered twice: by {both}")
            self._parts[name] = Part(kind=self.kind, name=name, target=target, runtime=tuple(runtime))
            return target

        return decorate

    def names(self) -> list[str]:
        """Return all names in alphabetical order."""
        self._load()
        return sorted(self._parts)

    def __getitem__(self, name: str) -> Part:
        self._load()
        if name not in self._parts:
            raise RecipeError(choices(self.kind, name, self.names()))
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def build(self, spec: PartSpec | str, **runtime: Any) -> Any:
        """Build the part that `spec` names.

        Args:
            spec: `{"name": ..., **arguments}`, or a bare name.
            **runtime: Everything the caller knows; a part is given those that it declared at registration.

        Raises:
            RecipeError: An unknown name; an unknown, missing or ill-typed argument.
            TypeError: A runtime argument without a default was not given.
        """
        values = {"name": spec} if isinstance(spec, str) else dict(spec)
        if "name" not in values:
            raise RecipeError(f"{self.kind}: needs a name. Allowed: {', '.join(self.names())}.")
        return self[values.pop("name")].build(values, **runtime)

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True  # before the import, because parts may look others up while they are imported
            try:
                importlib.import_module(self.home)
            except BaseException:
                self._loaded = False
                raise


def _origin(target: Callable[..., Any]) -> str:
    return f"{target.__module__}.{target.__qualname__}"


BACKBONES = Registry("backbone", "mtdiff.backbones")
CONDITIONING = Registry("conditioning", "mtdiff.conditioning")
SCHEDULERS = Registry("scheduler", "mtdiff.schedulers")
REPRESENTATIONS = Registry("representation", "mtdiff.representations")
SUITES = Registry("suite", "mtdiff.environments")
DATA = Registry("data", "mtdiff.data.sources")
LEARNERS = Registry("learner", "mtdiff.learners")
POLICIES = Registry("policy", "mtdiff.policies")
AUGMENTATIONS = Registry("augmentation", "mtdiff.augmentations")

REGISTRIES: dict[str, Registry] = {
    "backbones": BACKBONES,
    "conditioning": CONDITIONING,
    "schedulers": SCHEDULERS,
    "representations": REPRESENTATIONS,
    "suites": SUITES,
    "data": DATA,
    "learners": LEARNERS,
    "policies": POLICIES,
    "augmentations": AUGMENTATIONS,
}
