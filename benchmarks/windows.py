"""Training batches per second: one gather per field, against a Dataset in a DataLoader.

    OMP_NUM_THREADS=1 python benchmarks/windows.py --json benchmarks/results/windows.json

All hold the same million steps in memory, draw equally many windows of every task with a prompt for each, and return
the same fields. Two Datasets: a plain one, which slices, normalises and pads each sample as one first writes it, and a
tuned one, whose episodes are normalised and cut apart beforehand and whose padding is written in place. Before anything
is timed, all are asked for the same windows and must agree.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from measure import interleave, parse, ratio, show, spread, table, write
from torch.utils.data import DataLoader, Dataset

from mtdiff.data.normalizer import Normalization, Normalizer
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.data.windows import Windows, scale_returns

TASKS, EPISODES, STEPS, DEMONSTRATIONS = 50, 40, 500, 10
STATE_DIM, ACTION_DIM = 39, 4
HORIZON, HISTORY, PROMPT = 32, 2, 20
PER_TASK = 8
BATCHES = 10  # a round


class PlainWindows(Dataset):
    """A tuned Dataset: `plain[i]` cuts the i-th window out of its normalised episode, and a prompt at random.

    Args:
        dataset: trajectories, task by task.
        prompts: demonstrations of the same tasks.
        normalizer: applied once, as mtdiff does.
        horizon: H.
        history: L.
        prompt: J.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        prompts: TrajectoryDataset,
        normalizer: Normalizer,
        *,
        horizon: int,
        history: int,
        prompt: int,
    ):
        self.horizon, self.history, self.prompt = horizon, history, prompt
        self.states, self.actions = _episodes(dataset, normalizer)
        self.task = dataset.task_index.tolist()
        self.returns = scale_returns(dataset).astype(np.float32)
        self.index = [(e, t) for e, actions in enumerate(self.actions) for t in range(len(actions))]
        self.of_task: list[list[int]] = [[] for _ in dataset.tasks]
        for place, (episode, _) in enumerate(self.index):
            self.of_task[self.task[episode]].append(place)
        states, actions = _episodes(prompts, normalizer)
        number = [dataset.tasks.index(prompts.tasks[task]) for task in prompts.task_index]
        self.demonstrations = [
            [(s, a) for s, a, of in zip(states, actions, number, strict=True) if of == task]
            for task in range(len(dataset.tasks))
        ]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int) -> dict[str, np.ndarray]:
        demonstrations = self.demonstrations[self.task[self.index[place][0]]]
        which = random.randrange(len(demonstrations))
        start = random.randrange(len(demonstrations[which][1]) - self.prompt + 1)
        return self.cut(place, which, start)

    def cut(self, place: int, which: int, start: int) -> dict[str, np.ndarray]:
        """Window number `place`, with the prompt at step `start` of its task's demonstration `which`."""
        episode, step = self.index[place]
        task = self.task[episode]
        past = self.states[episode][max(step - self.history + 1, 0) : step + 1]
        ahead = self.actions[episode][step : step + self.horizon]
        history = np.zeros((self.history, past.shape[1]), np.float32)
        history[self.history - len(past) :] = past
        actions = np.zeros((self.horizon, ahead.shape[1]), np.float32)
        actions[: len(ahead)] = ahead
        mask = np.zeros(self.horizon, bool)
        mask[: len(ahead)] = True
        states, shown = self.demonstrations[task][which]
        return {
            "history": history,
            "actions": actions,
            "mask": mask,
            "task": np.int64(task),
            "return": self.returns[episode : episode + 1],
            "prompt_states": states[start : start + self.prompt],
            "prompt_actions": shown[start : start + self.prompt],
        }

    def batches(self, per_task: int) -> Iterator[dict[str, torch.Tensor]]:
        """Endless batches with `per_task` windows of every task."""

        def places() -> Iterator[list[int]]:
            while True:
                yield [random.choice(places) for places in self.of_task for _ in range(per_task)]

        return iter(DataLoader(self, batch_sampler=places()))


class PlainestWindows(PlainWindows):
    """The same samples as one first writes them: sliced from the dataset, normalised and padded one by one."""

    def __init__(self, dataset: TrajectoryDataset, prompts: TrajectoryDataset, normalizer: Normalizer, **sizes: int):
        super().__init__(dataset, prompts, normalizer, **sizes)
        self.dataset, self.shown, self.clip = dataset, prompts, normalizer.config.clip
        self.scales = {name: value.numpy() for name, value in normalizer.named_buffers()}
        names = [prompts.tasks[task] for task in prompts.task_index]
        self.episodes = [[e for e, name in enumerate(names) if name == task] for task in dataset.tasks]

    def cut(self, place: int, which: int, start: int) -> dict[str, np.ndarray]:
        episode, step = self.index[place]
        data, task = self.dataset, self.task[episode]
        first, last = data.offsets[episode], data.offsets[episode + 1] - 1  # the row of its last state, without action
        row = first + step
        past = self.states_of(data.states[max(row - self.history + 1, first) : row + 1])
        ahead = self.actions_of(data.actions[row : min(row + self.horizon, last)])
        missing = self.horizon - len(ahead)
        begin = self.shown.offsets[self.episodes[task][which]] + start
        return {
            "history": np.concatenate([np.zeros((self.history - len(past), STATE_DIM), np.float32), past]),
            "actions": np.concatenate([ahead, np.zeros((missing, ACTION_DIM), np.float32)]),
            "mask": np.concatenate([np.ones(len(ahead), bool), np.zeros(missing, bool)]),
            "task": np.int64(task),
            "return": self.returns[episode : episode + 1],
            "prompt_states": self.states_of(self.shown.states[begin : begin + self.prompt]),
            "prompt_actions": self.actions_of(self.shown.actions[begin : begin + self.prompt]),
        }

    def states_of(self, states: np.ndarray) -> np.ndarray:
        return np.clip((states - self.scales["state_loc"]) / self.scales["state_scale"], -self.clip, self.clip)

    def actions_of(self, actions: np.ndarray) -> np.ndarray:
        return (actions - self.scales["action_loc"]) / self.scales["action_scale"]


def _episodes(dataset: TrajectoryDataset, normalizer: Normalizer) -> tuple[list[np.ndarray], list[np.ndarray]]:
    states = normalizer.states(torch.from_numpy(dataset.states)).numpy()
    actions = normalizer.actions(torch.from_numpy(dataset.actions)).numpy()
    ends = dataset.offsets[1:-1]
    return np.split(states, ends), [rows[:-1] for rows in np.split(actions, ends)]


def numbers(tasks: int, episodes: int, steps: int, seed: int) -> TrajectoryDataset:
    """Trajectories of random numbers in the shape of Meta-World's."""
    rng, count = np.random.default_rng(seed), tasks * episodes
    return TrajectoryDataset.from_arrays(
        states=rng.standard_normal((count, steps + 1, STATE_DIM), dtype=np.float32),
        actions=rng.uniform(-1, 1, (count, steps, ACTION_DIM)).astype(np.float32),
        rewards=rng.random((count, steps), dtype=np.float32),
        tasks=[f"task-{number:02d}" for number in range(tasks) for _ in range(episodes)],
    )


def require_equal(windows: Windows, plain: PlainWindows, seed: int) -> None:
    """Ask both for the same windows with the same prompts."""
    drawn = windows.draw(PER_TASK, torch.Generator().manual_seed(seed))
    fields = windows.gather(drawn)
    for i, (task, place) in enumerate(zip(drawn["task"].tolist(), drawn["row"].tolist(), strict=True)):
        demonstrations = plain.demonstrations[task]
        which = int(drawn["demonstration"][i] * len(demonstrations))
        start = int(drawn["start"][i] * (len(demonstrations[which][1]) - PROMPT + 1))
        expected = plain.cut(place, which, start)
        assert expected.keys() == fields.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(fields[name][i].numpy(), value, rtol=1e-6, atol=1e-6, err_msg=name)


def main() -> None:
    options = parse(__doc__.splitlines()[0], rounds=40)
    random.seed(options.seed)
    data = numbers(TASKS, EPISODES, STEPS, options.seed)
    prompts = numbers(TASKS, DEMONSTRATIONS, 2 * PROMPT, options.seed + 1)
    normalizer = Normalizer.fit(data, Normalization())
    windows = Windows(data, normalizer, horizon=HORIZON, history=HISTORY, prompt=PROMPT, prompts=prompts, returns=True)
    runs: dict[str, Callable[[], Any]] = {
        "mtdiff": lambda: [windows.sample(PER_TASK, generator) for _ in range(BATCHES)]
    }
    for name, kind in (("plain Dataset, DataLoader", PlainestWindows), ("tuned Dataset, DataLoader", PlainWindows)):
        plain = kind(data, prompts, normalizer, horizon=HORIZON, history=HISTORY, prompt=PROMPT)
        require_equal(windows, plain, options.seed)
        batches = plain.batches(PER_TASK)
        runs[name] = lambda batches=batches: [next(batches) for _ in range(BATCHES)]
    generator = torch.Generator().manual_seed(options.seed)
    seconds = interleave(runs, rounds=options.rounds)
    size = TASKS * PER_TASK
    rows = []
    for name, measured in seconds.items():
        per_batch = spread([value / BATCHES for value in measured])
        rate = spread([size * BATCHES / value for value in measured])
        times = ratio(measured, seconds["mtdiff"])
        row = {"name": name, "cpu_seconds_per_batch": per_batch, "windows_per_cpu_second": rate}
        rows.append({**row, "times_of_mtdiff": times})
    print(f"{size} windows of {TASKS} tasks a batch, {data.num_steps:,} steps, {options.rounds} rounds")
    cells = [
        (
            row["name"],
            show(row["cpu_seconds_per_batch"], scale=1000),
            show(row["windows_per_cpu_second"], digits=0),
            show(row["times_of_mtdiff"], digits=1),
        )
        for row in rows
    ]
    print(table(("", "CPU ms per batch", "windows per CPU second", "times mtdiff's"), cells))
    settings = {"windows_per_batch": size, "tasks": TASKS, "steps": data.num_steps, "horizon": HORIZON}
    settings |= {"history": HISTORY, "prompt": PROMPT, "rounds": options.rounds, "batches_per_round": BATCHES}
    write(options.json, seed=options.seed, rows=[{**settings, **row} for row in rows])


if __name__ == "__main__":
    main()
