"""What tests of policies that learn values share: small data, a policy of two tasks, and a bandit to train it on."""

import numpy as np
import torch
from slow_learners import mlp, networks

from mtdiff import TrajectoryDataset
from mtdiff.compose import compose, windows
from mtdiff.training import Trainer, Training

STATE, ACTION = 3, 2
SMALL = {"width": 4, "hidden": (7, 5), "critic_hidden": (6, 5), "discount": 0.9, "tau": 0.1}
TOLD = {"task": {"name": "one_hot", "hidden": (6,)}}


def episodes(seed=0, lengths=(4, 6, 3, 5)):
    """Of tasks one, two, one, two; the first and the last end by themselves. Rewards of two are a hundredfold."""
    rng = np.random.default_rng(seed)
    return TrajectoryDataset.from_arrays(
        states=[rng.normal(2, 3, (n + 1, STATE)).astype(np.float32) for n in lengths],
        actions=[rng.uniform(-1, 1, (n, ACTION)).astype(np.float32) for n in lengths],
        rewards=[(rng.normal(size=n) * (1, 100)[i % 2]).astype(np.float32) for i, n in enumerate(lengths)],
        tasks=["one", "two"] * (len(lengths) // 2),
        terminated=[i in (0, len(lengths) - 1) for i in range(len(lengths))],
    )


def bandit(seed=0, count=300):
    """One step: in task one the action 0.8 earns 1 and in task two -0.8 does; three of four actions are bad."""
    rng = np.random.default_rng(seed)
    tasks = ["one", "two"] * (count // 2)
    good = np.array([0.8 if task == "one" else -0.8 for task in tasks])
    taken = np.where(rng.random(count) < 0.25, good, -0.4 * np.sign(good)) + rng.normal(0, 0.02, count)
    rewards = (np.abs(taken - good) < 0.2).astype(np.float32)
    return TrajectoryDataset.from_arrays(
        states=[rng.normal(size=(2, 1)).astype(np.float32) for _ in tasks],
        actions=[np.array([[a]], np.float32) for a in taken],
        rewards=[np.array([r]) for r in rewards],
        tasks=tasks,
        terminated=[True] * count,
    )


def pipeline(name, dataset, told=TOLD, **settings):
    values = {
        "seed": 0, "pipeline": "policy", "normalization": {}, "conditioning": dict(told),
        "policy": {"name": name, **SMALL, **settings}, "sampling": {"scheduler": None, "prompts_per_task": 1},
    }  # fmt: skip
    return compose(values, dataset, None)[0]


def batch(pipe, dataset, per_task=5, seed=0):
    """Fields, the condition and the random numbers of a loss."""
    generator = torch.Generator().manual_seed(seed)
    fields = windows(pipe, dataset, None).sample(per_task, generator)
    return fields, pipe.conditioning(fields), pipe.policy.draw(len(fields["task"]), generator)


def trainer(folder, pipe, dataset, **settings):
    small = {
        "updates": 12, "batch_per_task": 6, "learning_rate": 3e-3, "max_grad_norm": 0.0, "log_every": 3,
        "validate_every": 1000, "checkpoint_every": 5, "log_with": (),
    }  # fmt: skip
    return Trainer(pipe, None, windows(pipe, dataset, None), None, Training(**small | settings), seed=0, folder=folder)


def acted(pipe, task, states=((0.0,), (1.0,))):
    """What it does in states, one after the other: (n, A)."""
    generators = [torch.Generator().manual_seed(i) for i in range(len(states))]
    states = torch.tensor(states)[:, None]
    return pipe(states, task=task, generator=generators).actions[:, 0]


def of_task(critics, x, task):
    """Every estimate (E, B) of x (B, D), sample by sample, with the layers of its task."""
    members = networks(critics.layers)
    estimates, tasks = critics.estimates, critics.num_tasks
    rows = [
        torch.stack([mlp(members[e * tasks + int(number)], row)[0] for row, number in zip(x, task, strict=True)])
        for e in range(estimates)
    ]
    return torch.stack(rows)


def slopes(loss, module):
    """Gradients of a loss in a module's trained weights, side by side; zeros where it has no part."""
    weights = [value for value in module.parameters() if value.requires_grad]
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    pairs = zip(found, weights, strict=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in pairs])
