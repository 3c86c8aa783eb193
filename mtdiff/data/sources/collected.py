"""Demonstrations by a suite's scripted experts, recorded in its simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.sources.ladder import Faults, competence
from mtdiff.data.trajectory import Trajectory
from mtdiff.environments.suite import Environment, Suite, seed_of
from mtdiff.errors import DataError, RecipeError, choices
from mtdiff.registry import DATA

QUALITIES = ("expert", "near_optimal", "sub_optimal")
LADDER_STEPS = 200


@DATA.register("collected")
class Collected:
    """Episodes of scripted experts, from flawless to hopeless, and flawless ones to be shown as prompts.

    `near_optimal` sweeps the competence c of its episodes from 0 to 1, as a replay buffer does; `sub_optimal`
    is the first half of that; `expert` is its top: c = 1, noise of an episode drawn between 0 and `noise`,
    failed episodes repeated with other goals. Every episode has its own random goal and says in its labels
    what was wrong with it.

    Args:
        trajectories_per_task: episodes per task, prompts not counted.
        quality: expert, near_optimal or sub_optimal.
        noise: largest standard deviation of an expert episode's action noise, in units of the action's [-1,
            1].
        least_noise: standard deviation of the action noise at competence 1, in the two other qualities.
        fault_noise: how much more it is at competence 0.
        fault_bias: length of the constant error of an episode's actions at competence 0; falls with 1 - c.
        fault_stall: probability that the arm stops for good in an episode of competence 0; falls with 1 - c.
        stall_steps: first and last step at which it may stop.
        fault_gripper: probability that the gripper does the contrary throughout an episode of competence 0;
            falls with 1 - c.
        steps: longest episode; null means 200, or the suite's own limit for experts.
        stop_on_success: end episodes soon after success; null means for experts only.
        steps_after_success: how many steps after it.
        prompts_per_task: episodes of a separate set without noise, successful, cut at success.
        prompt_min_steps: such an episode goes on after success until it has this many steps.
        max_attempts: an expert or prompt episode that failed so often is an error.
        seed: goals and noise follow from it, the task and the number of the episode.
        fewer: how many episodes of a task instead, for tasks of which little is to be known:
            `{push-v3: 20}`. The ladder of qualities is as wide with fewer.

    Raises:
        RecipeError: a number out of its range.
    """

    name = "collected"

    def __init__(
        self,
        *,
        trajectories_per_task: int = 50,
        quality: Literal["expert", "near_optimal", "sub_optimal"] = "expert",
        noise: float = 0.3,
        least_noise: float = 0.05,
        fault_noise: float = 0.25,
        fault_bias: float = 0.4,
        fault_stall: float = 1.0,
        stall_steps: tuple[int, int] = (10, 90),
        fault_gripper: float = 0.4,
        steps: int | None = None,
        stop_on_success: bool | None = None,
        steps_after_success: int = 5,
        prompts_per_task: int = 10,
        prompt_min_steps: int = 20,
        max_attempts: int = 20,
        seed: int = 0,
        fewer: dict[str, int] | None = None,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        self._arguments["stall_steps"] = list(stall_steps)
        if quality not in QUALITIES:
            raise RecipeError(f"data.quality: {choices('quality', quality, QUALITIES)}")
        lowest = {"trajectories_per_task": 1, "prompt_min_steps": 1, "max_attempts": 1, "steps": 1}
        for key, value in self._arguments.items():
            if isinstance(value, int | float) and value < lowest.get(key, 0):
                raise RecipeError(f"data.{key}: should be at least {lowest.get(key, 0)}, got {value}.")
        for key, value in (("fault_stall", fault_stall), ("fault_gripper", fault_gripper)):
            if value > 1:
                raise RecipeError(f"data.{key}: a probability is at most 1, got {value}.")
        for task, count in (fewer or {}).items():
            if not 1 <= count <= trajectories_per_task:
                allowed = f"between 1 and trajectories_per_task={trajectories_per_task}"
                raise RecipeError(f"data.fewer: episodes of {task} should be {allowed}, got {count}.")
        if not 0 <= stall_steps[0] <= stall_steps[1]:
            raise RecipeError(f"data.stall_steps: should be two numbers in order, at least 0, got {list(stall_steps)}.")
        self.trajectories_per_task, self.prompts_per_task = trajectories_per_task, prompts_per_task
        self.quality: Literal["expert", "near_optimal", "sub_optimal"] = quality
        self.noise, self.least_noise, self.fault_noise = noise, least_noise, fault_noise
        self.fault_bias, self.fault_gripper = fault_bias, fault_gripper
        self.fault_stall, self.stall_steps = fault_stall, (stall_steps[0], stall_steps[1])
        self.steps = steps
        self.stop_on_success = quality == "expert" if stop_on_success is None else stop_on_success
        self.steps_after_success, self.prompt_min_steps = steps_after_success, prompt_min_steps
        self.max_attempts, self.seed, self.fewer = max_attempts, seed, dict(fewer or {})

    def describe(self) -> dict[str, Any]:
        """Return the name and arguments as given."""
        return {"name": self.name, **self._arguments}

    def episodes(self, task: str) -> dict[str, int]:
        """Return how many episodes of a task each split has."""
        return {"trajectories": self.fewer.get(task, self.trajectories_per_task), "prompts": self.prompts_per_task}

    def limit(self, suite: Suite, split: str) -> int:
        """Return the longest episode's steps.

        Raises:
            DataError: more than the suite allows, or `fewer` names a task that the suite has not.
        """
        for task in self.fewer:
            if task not in suite.tasks:
                raise DataError(f"data.fewer: {choices('task', task, suite.tasks)}")
        if split == "prompts" or (self.steps is None and self.quality == "expert"):
            return suite.max_steps
        steps = self.steps or min(LADDER_STEPS, suite.max_steps)
        if steps > suite.max_steps:
            raise DataError(f"data.steps: episodes of {suite.name} have at most {suite.max_steps} steps, got {steps}.")
        return steps

    def record(
        self,
        suite: Suite,
        environment: Environment,
        demonstrator: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        *,
        split: str,
        episode: int,
    ) -> Trajectory:
        """Record one episode, which follows from this source's arguments, the task, the split and the number
        alone.

        Raises:
            DataError: an expert failed `max_attempts` times.
        """
        prompt = split == "prompts"
        must_succeed = prompt or self.quality == "expert"
        for attempt in range(self.max_attempts if must_succeed else 1):
            seed = seed_of(self.seed, "prompts" if prompt else "data", environment.task, episode, attempt)
            rng = np.random.default_rng([seed, 1])  # the environment draws its goal from [seed]
            c = 1.0 if prompt else competence(self.quality, episode, self.episodes(environment.task)["trajectories"])
            faults = self._faults(rng, suite, c, prompt=prompt)
            origin = {"episode": episode, "quality": "prompt" if prompt else self.quality, "competence": c}
            labels = {**origin, "attempt": attempt, "source": "scripted expert"}
            trajectory = self.play(
                suite,
                environment,
                lambda _: demonstrator(environment.full_state),
                faults,
                rng=rng,
                seed=seed,
                split=split,
                labels=labels,
            )
            if trajectory.success.any() or not must_succeed:
                return trajectory
        noise = "without noise" if prompt else f"with noise up to {self.noise}"
        raise DataError(
            f"{environment.task}: the scripted expert failed {self.max_attempts} times in a row {noise} "
            f"({split}, episode {episode}). Lower data.noise or raise data.max_attempts."
        )

    def _faults(self, rng: np.random.Generator, suite: Suite, c: float, *, prompt: bool) -> Faults:
        top = 0.0 if prompt else float(rng.uniform(0.0, self.noise)) if self.quality == "expert" else self.least_noise
        return Faults.draw(
            rng,
            competence=c,
            action_dim=suite.action_dim,
            gripper_channel=suite.gripper,
            bias=self.fault_bias,
            stall=self.fault_stall,
            stall_steps=self.stall_steps,
            gripper=self.fault_gripper,
            noise=(top, self.fault_noise),
        )

    def play(
        self,
        suite: Suite,
        environment: Environment,
        act: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        faults: Faults,
        *,
        rng: np.random.Generator,
        seed: int,
        split: str,
        labels: Mapping[str, Any],
        observe: Callable[[float], None] | None = None,
    ) -> Trajectory:
        """Play and record one episode, as long as this source's episodes of the split are.

        Args:
            suite: the tasks.
            environment: one of them.
            act: what chooses the action (A,) for the agent's state (O,).
            faults: what is wrong with it.
            rng: draws the noise.
            seed: of the goal.
            split: "trajectories" or "prompts".
            labels: what else is to be noted.
            observe: is told every reward.
        """
        states, rewards, success = [environment.reset(seed)], [], []
        actions: list[NDArray[np.float32]] = []
        goal, terminated, end = environment.goal, False, self.limit(suite, split)
        stop = self.stop_on_success or split == "prompts"
        while len(actions) < end and not terminated:
            action = faults.apply(
                act(states[-1]),
                step=len(actions),
                last=actions[-1] if actions else None,
                gripper_channel=suite.gripper,
                rng=rng,
            )
            state, reward, succeeded, terminated, _ = environment.step(action)
            states.append(state)
            actions.append(action)
            rewards.append(reward)
            success.append(succeeded)
            if observe is not None:
                observe(reward)
            if succeeded and stop:
                stop = False  # the end is set at the first success
                rest = len(actions) + self.steps_after_success
                end = min(end, max(len(actions), self.prompt_min_steps) if split == "prompts" else rest)
        return Trajectory(
            states=np.stack(states),
            actions=np.stack(actions),
            rewards=np.array(rewards, np.float32),
            success=np.array(success, bool),
            terminated=terminated,
            truncated=not terminated,
            task=environment.task,
            labels={**labels, **faults.labels(), "goal": goal, "seed": seed},
        )
