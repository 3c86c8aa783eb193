"""What a planner refuses, word by word."""

import pytest
import torch

from mtdiff.errors import DataError
from mtdiff.pipelines import Prompt

HISTORY = torch.linspace(-1, 1, 15).reshape(3, 5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def plan(pipe, **changes):
    arguments = {"prompt": "reach-v3", "history": HISTORY, "generator": seeded()} | changes
    return pipe(**arguments).actions


def bad(name, value):
    array = torch.zeros(4, 5) if name == "states" else torch.zeros(4, 2)
    array[1, 1] = value
    return {"states": torch.zeros(4, 5), "actions": torch.zeros(4, 2)} | {name: array}


REFUSED = [
    ({"prompt": None}, "prompt: this planner was trained with it, so a plan needs it; got nothing"),
    ({"prompt": []}, "prompt: the list of prompts is empty"),
    ({"prompt": "reach-v2"}, "prompts: unknown task 'reach-v2'. Allowed: push-v3, reach-v3. Did you mean 'reach-v3'?"),
    ({"prompt": {"states": torch.zeros(4, 5)}}, "prompt: needs 'states' and 'actions', got states"),
    ({"prompt": 3}, "prompt: must be a task name, a Prompt or a mapping with states and actions, got int"),
    (
        {"prompt": {"states": torch.zeros(3, 5), "actions": torch.zeros(3, 2)}},
        "prompt: states and actions must have shapes (4, 5) and (4, 2), got (3, 5) and (3, 2)",
    ),
    (
        {"prompt": {"states": torch.zeros(4, 6), "actions": torch.zeros(4, 2)}},
        "prompt: states and actions must have shapes (4, 5) and (4, 2), got (4, 6) and (4, 2)",
    ),
    (
        {"prompt": {"states": torch.zeros(4, 5), "actions": torch.zeros(3, 2)}},
        "prompt: states and actions must have equally many steps, got 4 and 3",
    ),
    (
        {"prompt": {"states": torch.zeros(4), "actions": torch.zeros(4, 2)}},
        "prompt states: must have shape (J, width), got (4,)",
    ),
    ({"prompt": bad("states", float("nan"))}, "prompt states: contains NaN or infinity"),
    ({"prompt": bad("actions", float("inf"))}, "prompt actions: contains NaN or infinity"),
    ({"history": None}, "history: this planner was trained with it, so a plan needs it; got nothing"),
    ({"history": torch.zeros(5)}, "history: must have shape (n, 5) or (B, n, 5) with n >= 1, got (5,)"),
    ({"history": torch.zeros(2, 6)}, "history: must have shape (n, 5) or (B, n, 5) with n >= 1, got (1, 2, 6)"),
    ({"history": torch.zeros(2, 0, 5)}, "history: must have shape (n, 5) or (B, n, 5) with n >= 1, got (2, 0, 5)"),
    ({"history": torch.full((1, 5), float("nan"))}, "history: contains NaN or infinity"),
    ({"target_return": float("nan")}, "target_return: contains NaN or infinity"),
    (
        {"prompt": ["reach-v3"] * 2, "history": torch.zeros(3, 1, 5)},
        "batch sizes must be equal or 1, got {'prompt_states': 2, 'prompt_actions': 2, 'history': 3, 'return': 1}",
    ),
    (
        {"history": torch.zeros(2, 1, 5), "generator": [seeded(0), seeded(1), seeded(2)]},
        "batch sizes must be equal or 1, got {'prompt_states': 1, 'prompt_actions': 1, 'history': 2, 'return': 1, "
        "'generator': 3}",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=range(len(REFUSED)))
def test_conditions_that_are_refused(planner, changes, message):
    with pytest.raises(DataError) as error:
        plan(planner, **changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_actions": 0}, "num_actions: must be between 1 and the horizon 8, got 0"),
        ({"num_actions": 9}, "num_actions: must be between 1 and the horizon 8, got 9"),
        ({"temperature": -0.5}, "temperature: must be a finite number of at least 0, got -0.5"),
        ({"initial_temperature": -1}, "initial_temperature: must be a finite number of at least 0, got -1"),
        ({"temperature": float("nan")}, "temperature: must be a finite number of at least 0, got nan"),
        (
            {"num_inference_steps": 51},
            "num_inference_steps: must be between 1 and the 50 timesteps of training, got 51",
        ),
        (
            {"prompt": ["reach-v3"] * 3, "generator": [seeded(0), seeded(1)]},
            "generator: need one, or one for each of the 3 samples, got 2",
        ),
    ],
)
def test_numbers_that_are_refused(planner, changes, message):
    with pytest.raises(ValueError, match=r": (must|need)") as error:
        plan(planner, **changes)
    assert str(error.value) == message


def test_prompts_are_checked_when_they_are_made():
    with pytest.raises(DataError) as error:
        Prompt(states=[[0.0, float("nan")]], actions=[[0.0]])
    assert str(error.value) == "prompt states: contains NaN or infinity"
