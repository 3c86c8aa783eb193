"""The recipe of a point that learns within seconds, and data of controllers of which many go the wrong way.

What imitates the data succeeds seldom; what is rewarded can succeed always.
"""

import copy
from typing import Any

import numpy as np
import torch
from finetune_point import STEPS, Reach

from mtdiff.compose import compose
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.recipe import load_recipe

SUITE = {
    "name": "gymnasium",
    "id": "finetune_point:toy/Reach-v0",
    "tasks": {"straight": {"turned": False}, "turned": {"turned": True}},
}

RECIPE = {
    "suite": SUITE,
    "data": {"name": "given"},
    "representation": {"name": "actions", "horizon": 4},
    "conditioning": {"task": None, "history": {"name": "history", "hidden": [32], "input_norm": False}, "return": None},
    "backbone": {"name": "residual_mlp", "width": 32, "num_layers": 1},
    "scheduler": {"name": "ddpm", "num_train_timesteps": 10},
    "sampling": {
        "scheduler": {"name": "ddpm"}, "num_inference_steps": 5, "guidance_scale": 1.0, "temperature": 1.0,
        "execute": 4,
    },
    "training": {
        "updates": 300, "batch_per_task": 64, "learning_rate": 2e-3, "log_every": 200, "validate_every": 300,
        "checkpoint_every": 200, "validation": 0.1, "log_with": [],
    },
    "evaluation": {"episodes_per_task": 10, "demonstrator": False, "videos": False, "workers": 1},
    "finetune": {
        "environment_steps": 9000, "goals": 4, "rollouts_per_goal": 4, "epochs": 4, "batch": 32, "least_updates": 10,
        "regularizer_batch": 64, "learning_rate": 2e-3, "initial_rollouts": 0,
    },
}  # fmt: skip


def recipe(**changes: Any) -> dict[str, Any]:
    """The toy recipe with `section__key=value` changed; None removes it."""
    changed = copy.deepcopy(RECIPE)
    for place, value in changes.items():
        section, _, key = place.partition("__")
        if key:
            changed[section][key] = value
        else:
            changed[section] = value
    return changed


def recordings(count=40, good=0.7, seed=0):
    """Episodes of both tasks; a share `good` of them goes to the goal, the others drift some way."""
    rng, tasks = np.random.default_rng(seed), ["straight", "turned"]
    states, actions, rewards, names = [], [], [], []
    for number in range(count):
        task = tasks[number % 2]
        environment = Reach(turned=task == "turned")
        seen, pushed, earned = [environment.reset(seed=int(rng.integers(2**31)))[0]], [], []
        works, drift = rng.random() < good, rng.uniform(-1, 1)
        for _ in range(STEPS):
            wanted = 4 * environment.sign * (seen[-1][1] - seen[-1][0]) if works else drift
            action = np.clip([wanted + rng.normal(0, 0.2)], -1, 1).astype(np.float32)
            state, reward, *_ = environment.step(action)
            seen.append(state)
            pushed.append(action)
            earned.append(reward)
        states.append(np.stack(seen))
        actions.append(np.stack(pushed))
        rewards.append(np.array(earned, np.float32))
        names.append(task)
    return TrajectoryDataset.from_arrays(states=states, actions=actions, rewards=rewards, tasks=names)


BACKBONES = {
    "residual_mlp": {"name": "residual_mlp", "width": 16, "num_layers": 1},
    "gpt2": {"name": "gpt2", "width": 16, "num_layers": 2, "num_heads": 2, "actions_per_token": 1},
    "temporal_unet": {"name": "temporal_unet", "width": 16, "base": 8, "multipliers": [1, 2], "groups": 4},
}


def planner(backbone: str = "residual_mlp", **sampling: Any) -> Any:
    """An untrained planner of the toy recipe, with weights that matter."""
    changed = copy.deepcopy(RECIPE)
    changed["backbone"] = BACKBONES[backbone]
    changed["sampling"].update(sampling)
    pipe = compose(load_recipe(changed).values, recordings(4), None)[0]
    generator = torch.Generator().manual_seed(0)
    for part in (pipe.backbone, pipe.conditioning):
        for parameter in part.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return pipe
