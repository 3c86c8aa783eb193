"""Two synthetic tasks, and the smallest planner that can be composed and trained on them."""

import copy

import numpy as np
import pytest

from mtdiff.data.trajectories import Trajectory, TrajectoryDataset

STATE_DIM, ACTION_DIM = 5, 2
TASKS = ("reach-v3", "push-v3")


def _episode(task, length, rng):
    """The tasks want opposite actions in equal states, so only a prompt can tell which is right."""
    states = rng.normal(size=(length + 1, STATE_DIM)).astype(np.float32)
    states[:, -1] = 0.5  # a dimension that never changes
    sign = 1 if task == TASKS[0] else -1
    actions = np.tanh(sign * 2 * states[:-1, :ACTION_DIM])
    return Trajectory(
        states=states, actions=actions, rewards=rng.random(length), success=np.arange(length) == length - 1,
        terminated=False, truncated=True, task=task,
    )  # fmt: skip


def _dataset(lengths, seed):
    rng = np.random.default_rng(seed)
    return TrajectoryDataset.from_trajectories([_episode(task, length, rng) for task, length in lengths])


@pytest.fixture(scope="session")
def dataset():
    """Unequally long episodes of both tasks, mixed, three of push and five of reach."""
    reach, push = TASKS
    lengths = [(reach, 9), (push, 17), (reach, 1), (reach, 20), (push, 6), (reach, 12), (push, 11), (reach, 8)]
    return _dataset(lengths, 0)


@pytest.fixture(scope="session")
def prompts():
    """Demonstrations, none shorter than the four steps of a prompt, in another order of tasks."""
    return _dataset([(TASKS[1], 4), (TASKS[0], 9), (TASKS[1], 7), (TASKS[0], 5), (TASKS[0], 6)], 1)


_VALUES = {
    "seed": 0,
    "normalization": {},
    "representation": {"name": "actions", "horizon": 8},
    "conditioning": {
        "task": {"name": "trajectory_prompt", "length": 4, "hidden": (16,)},
        "history": {"name": "history", "length": 3, "hidden": (16,)},
        "return": {"name": "target_return", "hidden": (16,), "dropout": 0.25},
    },
    "backbone": {
        "name": "gpt2", "width": 16, "num_layers": 1, "num_heads": 2, "actions_per_token": 2, "dropout": 0.0,
    },
    "scheduler": {
        "name": "ddpm", "num_train_timesteps": 50, "beta_min": 0.1, "beta_max": 10.0, "prediction_type": "sample",
    },
    "sampling": {"scheduler": {"name": "dpm_solver"}, "num_inference_steps": 4, "prompts_per_task": 3},
}  # fmt: skip


@pytest.fixture
def values():
    """Sections of a resolved recipe, free to be changed."""
    return copy.deepcopy(_VALUES)


@pytest.fixture
def planner(values, dataset, prompts):
    """A planner of random weights, larger than those of an untrained one, so that conditions matter."""
    from mtdiff.compose import compose

    pipe = compose(values, dataset, prompts)[0]
    for parameter in pipe.backbone.blocks.parameters():
        if parameter.ndim == 2:
            parameter.data *= 10
    return pipe


@pytest.fixture
def make(values, dataset, prompts, tmp_path):
    """Build a trainer of a new pipeline in a named folder."""
    from mtdiff.compose import compose, windows
    from mtdiff.training import Trainer, Training

    small = {
        "updates": 12, "batch_per_task": 4, "learning_rate": 3e-3, "log_every": 3, "validate_every": 6,
        "checkpoint_every": 5, "keep_checkpoints": 2, "log_with": (),
    }  # fmt: skip

    def build(name="run", *, data=None, accelerator=None, **settings):
        pipe, scheduler = compose(values, dataset, prompts)
        train = windows(pipe, data or dataset, prompts)
        held_out = windows(pipe, dataset.subset([1, 2]), prompts, returns_of=dataset)
        return Trainer(
            pipe, scheduler, train, held_out, Training(**small | settings), seed=0, folder=tmp_path / name,
            accelerator=accelerator,
        )  # fmt: skip

    return build


@pytest.fixture(scope="session")
def faulty(tmp_path_factory):
    """Runs `mtdiff` on `toy.yaml` under faults."""
    from fault_server import RECIPE, Server

    folder = tmp_path_factory.mktemp("faults")
    (folder / "toy.yaml").write_text(RECIPE)
    server = Server(folder)
    yield server
    server.close()


@pytest.fixture(scope="session")
def whole(faulty):
    """The output folder of undisturbed commands, and how often each changed a file."""
    counts = {}
    for verb in (["collect", "toy.yaml", "--workers", 1], ["train", "toy.yaml"]):
        done = faulty(*verb, "--output", "whole")
        assert done.status == 0, done.err
        counts[verb[0]] = done.changes
    return faulty.folder / "whole", counts


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on loopback, to which this process is logged in; empty, with an empty cache."""
    from hub_client import connect
    from hub_server import Hub

    made = Hub()
    connect(monkeypatch, made, tmp_path / "home")
    yield made
    made.close()
