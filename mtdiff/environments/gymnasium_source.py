"""What a Gymnasium environment is made from, and what can be known of it before any episode."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtdiff.errors import EnvironmentFault, RecipeError, closest

SUCCESS_KEYS = ("success", "is_success")


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an environment is made from.

    Args:
        id: its id in Gymnasium's registry; a module before a colon is imported first.
        arguments: of `gymnasium.make`, as JSON.
        max_steps: limit of an episode; None takes the registry's.
        imports: modules that register environments.
    """

    id: str
    arguments: str
    max_steps: int | None
    imports: tuple[str, ...]

    @classmethod
    def of(cls, id: str, arguments: Mapping[str, Any], *, max_steps: int | None, imports: tuple[str, ...]) -> Source:
        """Return a source whose arguments are kept as text, so that equal ones are recognised."""
        return cls(id=id, arguments=json.dumps(arguments, sort_keys=True), max_steps=max_steps, imports=imports)

    def limit(self) -> int:
        """Return the limit of an episode.

        Raises:
            RecipeError: the registry does not know the id, or neither the registry nor the suite has a limit.
        """
        steps = self.max_steps or self._spec().max_episode_steps
        if steps is None:
            raise RecipeError(f"suite.max_steps: '{self.id}' has no limit of its own. Set one, of at least 1.")
        return int(steps)

    def make(self, *, render_mode: str | None = None) -> Any:
        """Return the environment, its observations flat if they were a Dict. Everything else is as it comes.

        Raises:
            RecipeError: an unknown id, a package that is missing, arguments that the environment does not take.
        """
        import gymnasium

        self._spec()
        drawn = {"render_mode": render_mode} if render_mode else {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of newer versions, and of what the id's own tests would find
                env = gymnasium.make(
                    self.id,
                    max_episode_steps=self.max_steps,
                    disable_env_checker=True,
                    **copy.deepcopy(json.loads(self.arguments)),
                    **drawn,
                )
        except gymnasium.error.DependencyNotInstalled as error:
            raise RecipeError(f"suite.id: '{self.id}' needs a package that is not installed: {error}") from error
        except TypeError as error:
            raise RecipeError(f"suite.arguments: {self._misfit(str(error))}") from error
        except Exception as error:  # whatever an environment's own constructor does not like
            text = f"{type(error).__name__}: {error}"
            raise RecipeError(f"suite.id: '{self.id}' cannot be made with {self.arguments}: {text}") from error
        if isinstance(env.observation_space, gymnasium.spaces.Dict) and _flat(env.observation_space):
            env = gymnasium.wrappers.FlattenObservation(env)
        return env

    def _misfit(self, text: str) -> str:
        """What is wrong with the arguments: a name that the environment does not know, or what it says itself."""
        from gymnasium.envs.registration import load_env_creator

        known = inspect.signature(load_env_creator(self._spec().entry_point)).parameters
        allowed = [name for name in known if name not in ("self", "render_mode")]
        for name in json.loads(self.arguments):
            if name not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
                return f"'{self.id}' takes no '{name}'. Allowed: {', '.join(allowed)}.{closest(name, allowed)}"
        return f"'{self.id}' cannot be made with {self.arguments}: {text.partition(' was raised from')[0]}"

    def _spec(self) -> Any:
        try:
            import gymnasium
        except ImportError as error:
            raise EnvironmentFault(f"gymnasium: cannot be imported ({error}).") from error
        module, _, name = self.id.rpartition(":")
        for needed in (*self.imports, *([module] if module else [])):
            try:
                importlib.import_module(needed)
            except Exception as error:
                place = "imports" if needed in self.imports else "id"
                text = f"{type(error).__name__}: {error}"
                raise RecipeError(f"suite.{place}: cannot import '{needed}' ({text}).") from error
        if name not in gymnasium.registry:
            hint = closest(name, gymnasium.registry) or " If a package registers it, name that in suite.imports."
            allowed = "Allowed: the ids that gymnasium.pprint_registry() prints."
            raise RecipeError(f"suite.id: unknown environment '{self.id}'. {allowed}{hint}")
        return gymnasium.registry[name]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a suite must know of an environment: sizes, limit, words for success, and what it is made of."""

    state_dim: int
    action_dim: int
    max_steps: int
    success_keys: tuple[str, ...]
    packages: tuple[str, ...]


@functools.lru_cache(maxsize=256)
def layout(source: Source) -> Layout:
    """Make the environment once, begin an episode twice, and look.

    Raises:
        RecipeError: as `Source.make`; spaces that are no vectors of numbers, actions without bounds, or an
            episode that begins differently under the same seed.
    """
    env = source.make()
    try:
        check_spaces(source.id, env)
        first, told = env.reset(seed=1)
        again, _ = env.reset(seed=1)
        if not np.array_equal(first, again, equal_nan=True):
            raise RecipeError(
                f"suite.id: '{source.id}' begins an episode differently under the same seed. "
                "Its reset(seed=...) must draw from self.np_random only."
            )
        low, high = env.action_space.low, env.action_space.high
        *_, info = env.step(((low + high) / 2).astype(env.action_space.dtype))
        modules = [kind.__module__ for kind in type(env.unwrapped).__mro__]
        packages = {module.partition(".")[0] for module in modules} - {"builtins", "typing"}
        if any("mujoco" in module for module in modules):
            packages.add("mujoco")
        return Layout(
            state_dim=env.observation_space.shape[0],
            action_dim=env.action_space.shape[0],
            max_steps=source.limit(),
            success_keys=tuple(key for key in SUCCESS_KEYS if key in info or key in told),
            packages=tuple(sorted(packages)),
        )
    finally:
        env.close()


def check_spaces(id: str, env: Any) -> None:
    """Refuse observations and actions that are not vectors of numbers, and actions without bounds.

    Raises:
        RecipeError: what the environment has, and what is allowed.
    """
    from gymnasium import spaces

    seen, done = env.observation_space, env.action_space
    if not isinstance(seen, spaces.Box) or len(seen.shape) != 1:
        raise RecipeError(
            f"suite.id: '{id}' has observations {_short(seen)}. "
            "Allowed: a Box of one dimension, or a Dict of such, which is flattened."
        )
    if not isinstance(done, spaces.Box) or len(done.shape) != 1:
        raise RecipeError(f"suite.id: '{id}' has actions {_short(done)}. Allowed: a Box of one dimension.")
    if not (np.isfinite(done.low).all() and np.isfinite(done.high).all()):
        raise RecipeError(
            f"suite.id: '{id}' has actions without bounds, {_short(done)}. "
            "Allowed: a bounded Box, which is scaled to [-1, 1]."
        )


def _flat(space: Any) -> bool:
    """Whether a space becomes a vector of numbers that mean something: no pictures, tuples or sequences."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return all(map(_flat, space.values()))
    if isinstance(space, spaces.Box):
        return len(space.shape) < 3
    return isinstance(space, spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete)


def _short(space: Any) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
