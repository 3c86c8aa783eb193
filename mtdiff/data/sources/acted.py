"""Episodes of policies at several stages of their training: another stand-in for a learner's replay buffer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.sources.collected import Collected
from mtdiff.data.sources.ladder import Faults
from mtdiff.data.trajectory import Trajectory
from mtdiff.environments.suite import Environment, Suite, seed_of
from mtdiff.errors import EnvironmentFault, RecipeError
from mtdiff.registry import DATA

if TYPE_CHECKING:
    from mtdiff.recipe import Recipe


@DATA.register("acted")
class Acted:
    """Episodes in which what a recipe trains acts, after few updates at first and after more later on.

    Where the faults of `collected` are put into an expert's actions, those of these episodes are what has not been
    learnt yet. The recipe is trained once for every number of updates, on the tasks of the suite, when the data are
    collected; its runs lie beside all others. Prompts are a scripted expert's, as those of `collected`.

    Args:
        recipe: of a planner or policy: the name of one that comes with mtdiff, or a path.
        updates: how long it is trained: as many runs, each of which acts in equally many episodes of a task.
        noise: standard deviation of what is added to every number of every action, in units of the action's [-1, 1].
        trajectories_per_task: episodes per task, prompts not counted.
        steps: longest episode; null means 200, or the suite's own limit.
        prompts_per_task: episodes of a separate set of the scripted expert, successful, cut at success.
        prompt_min_steps: such an episode goes on after success until it has this many steps.
        max_attempts: a prompt episode that failed so often is an error.
        seed: goals and noise follow from it, the task and the number of the episode.

    Attributes:
        pipelines: folders of what was trained, one for each of `updates`; the worker processes are told.

    Raises:
        RecipeError: a number out of its range.
    """

    name = "acted"

    def __init__(
        self,
        *,
        recipe: str,
        updates: tuple[int, ...] = (250, 500, 1000, 2000),
        noise: float = 0.2,
        trajectories_per_task: int = 50,
        steps: int | None = None,
        prompts_per_task: int = 10,
        prompt_min_steps: int = 20,
        max_attempts: int = 20,
        seed: int = 0,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        self._arguments["updates"] = list(updates)
        if not recipe.strip():
            raise RecipeError("data.recipe: should be a recipe's name or path, got nothing.")
        if not updates or min(updates) < 1:
            raise RecipeError(f"data.updates: should be one number or more, each at least 1, got {list(updates)}.")
        self.recipe, self.updates, self.seed = recipe, tuple(updates), seed
        self.pipelines: tuple[str, ...] = ()
        self._loaded: dict[int, Any] = {}
        self._recorder = Collected(
            trajectories_per_task=trajectories_per_task,
            quality="near_optimal",  # which ends episodes at the limit, not at success
            noise=noise,
            steps=steps,
            prompts_per_task=prompts_per_task,
            prompt_min_steps=prompt_min_steps,
            max_attempts=max_attempts,
            seed=seed,
        )

    def describe(self) -> dict[str, Any]:
        """Return the name and arguments as given."""
        return {"name": self.name, **self._arguments}

    def teachers(self, suite: Suite) -> list[Recipe]:
        """Return the recipes whose runs act, one for each of `updates`.

        Raises:
            RecipeError: there is no such recipe, it makes no planner or policy, or does not fit the suite.
        """
        from mtdiff.recipe import load_recipe

        told = [f"suite={json.dumps(suite.describe())}", "vary=null", "ablation=null"]
        found = [load_recipe(self.recipe, [*told, f"training.updates={count}"]) for count in self.updates]
        kind = found[0].get("pipeline")
        if kind not in ("planner", "policy"):
            raise RecipeError(f"data.recipe: {self.recipe} trains a {kind}, and only a planner or policy acts.")
        if found[0].get("data.name") == self.name:
            raise RecipeError(f"data.recipe: {self.recipe} should learn from data of another source, got {self.name}.")
        return found

    def episodes(self, task: str) -> dict[str, int]:
        """Return how many episodes of a task each split has."""
        return self._recorder.episodes(task)

    def limit(self, suite: Suite, split: str) -> int:
        """Return the longest episode's steps.

        Raises:
            DataError: more than the suite allows.
        """
        return self._recorder.limit(suite, split)

    def record(
        self,
        suite: Suite,
        environment: Environment,
        demonstrator: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        *,
        split: str,
        episode: int,
    ) -> Trajectory:
        """Record one episode, which follows from what was trained, the task, the split and the number alone.

        Raises:
            DataError: an expert failed `max_attempts` times to show a prompt.
            EnvironmentFault: nothing was trained before.
        """
        if split == "prompts":
            return self._recorder.record(suite, environment, demonstrator, split=split, episode=episode)
        task = environment.task
        number = episode * len(self.updates) // self.episodes(task)["trajectories"]
        agent, seed = self._agent(number), seed_of(self.seed, "data", task, episode)
        agent.reset([task], [seed])
        slot = np.zeros(1, dtype=np.int64)

        def observe(reward: float) -> None:
            agent.observe(np.array([reward], dtype=np.float32), slot)

        return self._recorder.play(
            suite,
            environment,
            lambda state: agent.act(state[None], slot)[0],
            Faults.none(suite.action_dim, sigma=self._recorder.noise),
            rng=np.random.default_rng([seed, 1]),
            seed=seed,
            split=split,
            labels={"episode": episode, "updates": self.updates[number], "source": self.recipe},
            observe=observe if hasattr(agent, "observe") else None,
        )

    def _agent(self, number: int) -> Any:
        """What acts after `updates[number]` updates. The one source whose workers import torch."""
        if not self.pipelines:
            raise EnvironmentFault(f"data.recipe: {self.recipe} should be trained before it acts; see teachers().")
        if number not in self._loaded:
            import torch
            from diffusers.utils import logging

            from mtdiff.hub import load
            from mtdiff.pipelines import AGENTS

            torch.set_num_threads(1)
            logging.disable_progress_bar()  # every worker would show one
            pipeline = load(self.pipelines[number])
            self._loaded = {number: AGENTS[pipeline.kind](pipeline)}  # episodes come in order: one at a time will do
        return self._loaded[number]
