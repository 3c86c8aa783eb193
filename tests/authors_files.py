"""Files as MTDiff's authors wrote them, small."""

import numpy as np

STATE_DIM, ACTION_DIM = 5, 2


def episode(seed=0, steps=12, task="reach-v2", **changes):
    """One of the authors' dicts: their keys, shapes and types, and an action beyond 1."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(steps + 1, STATE_DIM)).astype(np.float32)
    actions = np.tanh(rng.normal(size=(steps, ACTION_DIM))).astype(np.float32)
    actions[3, 1] = -4.11
    return {
        "observations": states[:-1],
        "actions": actions,
        "rewards": rng.random((steps, 1)).astype(np.float32),
        "next_observations": states[1:],
        "terminals": np.eye(steps, dtype=np.float32)[-1:].T,
        "task": task,
    } | changes  # fmt: skip


def write_npy(path, episodes):
    array = np.empty(len(episodes), object)
    array[:] = episodes
    np.save(path, array, allow_pickle=True)
    return path
