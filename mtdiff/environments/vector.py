"""Many environments stepped at once in worker processes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mtdiff.environments.processes import Worker, available_cores
from mtdiff.environments.suite import Environment, Suite, portable, rebuild
from mtdiff.errors import EnvironmentFault, MTDiffError, choices

MANY_TASKS = 16  # from here on a worker gets few tasks rather than a few slots of every task: models take memory


class StepResult(NamedTuple):
    """What a step led to, one row per stepped slot, in the order asked for."""

    states: NDArray[np.float32]  # (n, O)
    rewards: NDArray[np.float32]  # (n,)
    success: NDArray[np.bool_]  # (n,) in this step
    terminated: NDArray[np.bool_]  # (n,)
    truncated: NDArray[np.bool_]  # (n,)


class VectorEnv:
    """Environments of a suite, one per slot, spread over worker processes.

    A slot's environment is made at its first reset and kept. What a slot does depends on its seeds and
    actions only, never on the number of workers or on other slots. Use it as a context manager, or call
    `close`.

    Args:
        suite: rebuilt inside each worker from its description.
        tasks: the task of every slot.
        workers: processes, at most one per slot; None takes the available cores.
        render: whether `render` will be called (MUJOCO_GL=egl in the workers unless it is set already).

    Raises:
        EnvironmentFault: no slot, an unknown task or no worker.
    """

    def __init__(self, suite: Suite, tasks: Sequence[str], *, workers: int | None = None, render: bool = False) -> None:
        self.tasks = list(tasks)
        if not self.tasks:
            raise EnvironmentFault("VectorEnv: no slots; give it one task per slot.")
        for task in self.tasks:
            if task not in suite.tasks:
                raise EnvironmentFault(f"VectorEnv: {choices('task', task, suite.tasks)}")
        workers = available_cores() if workers is None else workers
        if workers < 1:
            raise EnvironmentFault(f"VectorEnv: workers should be at least 1, got {workers}.")
        self.state_dim, self.action_dim = suite.state_dim, suite.action_dim
        self._render = render
        self._fault: str | None = None
        count = min(workers, len(self.tasks))
        order = sorted(range(len(self.tasks)), key=lambda slot: self.tasks[slot])
        many = len(set(self.tasks)) > MANY_TASKS
        self._home = np.empty(len(self.tasks), np.int64)  # slot -> worker
        for place, slot in enumerate(order):
            self._home[slot] = place * count // len(order) if many else place % count
        server = f"{_Slots.__module__}:{_Slots.__qualname__}"
        arguments = {"suite": portable(suite), "tasks": self.tasks}
        self.workers: list[Worker] = []
        try:
            for i in range(count):
                name = f"simulator worker {i}"
                self.workers.append(Worker(name=name, server=server, arguments=arguments, rendering=render))
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: Sequence[int] | NDArray[np.integer], slots: Any = None) -> NDArray[np.float32]:
        """Start the episodes of `seeds` in `slots` (all of them by default); return states (n, O).

        Raises:
            EnvironmentFault: a simulator failed or a worker died; or seeds and slots do not match.
        """
        slots = self._slots(slots)
        if len(seeds) != len(slots):
            raise EnvironmentFault(f"VectorEnv.reset: {len(seeds)} seeds for {len(slots)} slots.")
        seeds = [int(seed) for seed in seeds]
        states = np.empty((len(slots), self.state_dim), np.float32)
        for rows, answer in self._ask("reset", slots, lambda rows: ([seeds[row] for row in rows],)):
            states[rows] = answer
        return states

    def step(self, actions: NDArray[np.floating], slots: Any = None) -> StepResult:
        """Execute actions (n, A), clipped to [-1, 1], in `slots` (all of them by default).

        Raises:
            EnvironmentFault: a slot's episode is over or not begun, a simulator failed or a worker died.
        """
        slots = self._slots(slots)
        actions = np.asarray(actions, dtype=np.float32)
        if actions.shape != (len(slots), self.action_dim):
            raise EnvironmentFault(
                f"VectorEnv.step: actions should be {(len(slots), self.action_dim)}, got {actions.shape}."
            )
        n = len(slots)
        result = StepResult(
            np.empty((n, self.state_dim), np.float32),
            np.empty(n, np.float32),
            *(np.empty(n, bool) for _ in range(3)),
        )
        for rows, answer in self._ask("step", slots, lambda rows: (actions[rows],)):
            for whole, part in zip(result, answer, strict=True):
                whole[rows] = part
        return result

    def render(self, slots: Any = None, size: int = 240) -> NDArray[np.uint8]:
        """Return pictures (n, size, size, 3) of `slots`.

        Raises:
            EnvironmentFault: made without `render=True`, or no renderer works on this machine.
        """
        if not self._render:
            raise EnvironmentFault("VectorEnv.render: make it with render=True.")
        slots = self._slots(slots)
        pictures = np.empty((len(slots), size, size, 3), np.uint8)
        for rows, answer in self._ask("render", slots, lambda rows: (size,)):
            pictures[rows] = answer
        return pictures

    def modules(self) -> list[set[str]]:
        """Return the names of the modules each worker has imported, to see that torch is not among them."""
        for worker in self.workers:
            worker.send("modules")
        return [worker.receive() for worker in self.workers]

    def close(self) -> None:
        """End the workers. Safe to call twice."""
        self._fault = "it is closed"
        for worker in self.workers:
            worker.close()
        self.workers = []

    def __len__(self) -> int:
        return len(self.tasks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _slots(self, slots: Any) -> NDArray[np.int64]:
        slots = np.arange(len(self.tasks)) if slots is None else np.asarray(slots, dtype=np.int64).reshape(-1)
        if len(np.unique(slots)) != len(slots) or ((slots < 0) | (slots >= len(self.tasks))).any():
            raise EnvironmentFault(
                f"VectorEnv: slots should be different numbers from 0 to {len(self.tasks) - 1}, got {slots.tolist()}."
            )
        return slots

    def _ask(self, method: str, slots: NDArray[np.int64], arguments: Any) -> list[tuple[NDArray[np.int64], Any]]:
        """Call `method(slots, *arguments(rows))` in every worker concerned; return (rows, answer) of each."""
        if self._fault is not None:
            raise EnvironmentFault(f"VectorEnv: {self._fault}; make a new one.")
        self._fault = "its last call was interrupted"  # answers may still be under way
        homes = self._home[slots]
        asked = [(int(home), np.flatnonzero(homes == home)) for home in np.unique(homes)]
        for home, rows in asked:
            self.workers[home].send(method, slots[rows].tolist(), *arguments(rows))
        answers, fault = [], None
        for home, rows in asked:
            try:
                answers.append((rows, self.workers[home].receive()))
            except MTDiffError as error:
                fault = fault or error
        if fault is not None:
            dead = [worker.name for worker in self.workers if worker.process.poll() is not None]
            self._fault = f"{', '.join(dead)} died" if dead else None
            raise fault
        self._fault = None
        return answers


class _Slots:
    """What lives in a worker: the environments of its slots."""

    def __init__(self, *, suite: dict[str, Any], tasks: list[str]) -> None:
        self.suite: Suite = rebuild(suite)
        self.tasks = tasks
        self.environments: dict[int, Environment] = {}

    def reset(self, slots: list[int], seeds: list[int]) -> NDArray[np.float32]:
        return np.stack([self._call(slot, "reset", seed) for slot, seed in zip(slots, seeds, strict=True)])

    def step(self, slots: list[int], actions: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        results = [self._call(slot, "step", action) for slot, action in zip(slots, actions, strict=True)]
        states, rewards, success, terminated, truncated = zip(*results, strict=True)
        return (
            np.stack(states),
            np.array(rewards, np.float32),
            *map(np.array, (success, terminated, truncated)),
        )

    def render(self, slots: list[int], size: int) -> NDArray[np.uint8]:
        return np.stack([self._call(slot, "render", size) for slot in slots])

    def modules(self) -> set[str]:
        return set(sys.modules)

    def close(self) -> None:
        for environment in self.environments.values():
            environment.close()

    def _call(self, slot: int, method: str, *arguments: Any) -> Any:
        try:
            if slot not in self.environments:
                self.environments[slot] = self.suite.make(self.tasks[slot])
            return getattr(self.environments[slot], method)(*arguments)
        except EnvironmentFault as error:
            raise EnvironmentFault(f"slot {slot} ({self.tasks[slot]}): {error}") from error
        except Exception as error:
            raise EnvironmentFault(
                f"slot {slot} ({self.tasks[slot]}): {method} failed with {type(error).__name__}: {error}\n"
                f"{traceback.format_exc()}"
            ) from error
