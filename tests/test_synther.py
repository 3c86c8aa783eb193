"""SynthER as a recipe: what the preset says, and a synthesizer without any condition from recipe to dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mtdiff
from mtdiff.augmentations import SynthesizerAugmentation
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError, RecipeError
from mtdiff.pipelines import SynthesizerPipeline
from mtdiff.recipe import load_recipe
from mtdiff.runs import Run, train
from mtdiff.synthesis import synthesize

LAW = np.array([[0.8, 0.3], [-0.2, 0.7]])


def moves(*tasks: str, seed: int = 0, count: int = 30) -> TrajectoryDataset:
    """A linear system that is pushed at random: s' = LAW s + (0, a), r = s_0 - a."""
    random = np.random.default_rng(seed)
    states, actions, rewards = [], [], []
    for _ in range(count):
        seen, pushes = [random.normal(size=2)], random.uniform(-1, 1, (20, 1))
        for push in pushes[:, 0]:
            seen.append(LAW @ seen[-1] + np.array([0, push]))
        states.append(np.array(seen))
        actions.append(pushes)
        rewards.append(states[-1][:-1, 0] - pushes[:, 0])
    names = [tasks[number % len(tasks)] for number in range(count)]
    return TrajectoryDataset.from_arrays(states=states, actions=actions, rewards=rewards, tasks=names)


def recipe(*tasks: str, **changes: Any) -> dict[str, Any]:
    return {
        "extends": "presets/synther",
        "suite": {"name": "offline", "tasks": list(tasks), "state_dim": 2, "action_dim": 1},
        "data": {"name": "given"},
        "backbone": {"width": 64, "num_layers": 2},
        "sampling": {"num_inference_steps": 32},
        "training": {
            "updates": 700, "batch_per_task": 128, "learning_rate": 3e-3, "ema_decay": 0.98, "log_with": [],
            "validate_every": 350,
        },
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="module", params=["absolute", "difference"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    representation = {"name": "transitions", "horizon": 1, "next_states": request.param}
    root = tmp_path_factory.mktemp(request.param)
    return train(recipe("push", representation=representation), dataset=moves("push"), root=root)


def test_the_preset_is_synthers_recipe() -> None:
    values = load_recipe("presets/synther").values
    assert values["pipeline"] == "synthesizer" and values["conditioning"] == {}
    assert values["normalization"]["states"] == values["normalization"]["actions"] == "z_score"
    assert values["scheduler"] == {"name": "edm", "num_train_timesteps": 1024, "p_mean": -1.2, "p_std": 1.2}
    expected = {
        "representation": {"name": "transitions", "horizon": 1, "next_states": "absolute"},
        "backbone": {"name": "residual_mlp", "width": 2048, "num_layers": 6},
        "sampling": {"num_inference_steps": 128, "temperature": 1.0},
        "training": {
            "updates": 100_000, "batch_per_task": 1024, "learning_rate": 3e-4, "learning_rate_schedule": "cosine",
            "loss": "mse", "warmup": 0,
        },
    }  # fmt: skip
    for section, numbers in expected.items():
        assert {key: values[section][key] for key in numbers} == numbers


@pytest.mark.slow
def test_without_conditions_it_learns_the_dynamics_and_the_data(run: Run) -> None:
    pipe, real = mtdiff.load(run.folder), moves("push").transitions()
    assert isinstance(pipe, SynthesizerPipeline) and len(pipe.prompts) == 0
    made = SynthesizerAugmentation(pipeline=pipe).write(moves("push"), 2000, seed=0)
    true = made["state"] @ LAW.T + np.concatenate([np.zeros((2000, 1)), made["action"]], axis=1)
    moved = np.square(made["state"] - true).mean()
    assert np.square(made["next_state"] - true).mean() < 0.05 * moved
    assert np.square(made["reward"] - made["state"][:, 0] + made["action"][:, 0]).mean() < 0.03
    for name in ("state", "action", "next_state"):
        assert np.abs(made[name].mean(0) - real[name].mean(0)).max() < 0.15
        np.testing.assert_allclose(made[name].std(0), real[name].std(0), rtol=0.15)
    both, truth = (np.concatenate([rows["state"], rows["action"]], axis=1) for rows in (made, real))
    np.testing.assert_allclose(np.corrcoef(both.T), np.corrcoef(truth.T), rtol=0, atol=0.12)


@pytest.mark.slow
def test_saved_and_loaded_it_samples_the_same(run: Run, tmp_path: Path) -> None:
    pipe = mtdiff.load(run.folder)
    found = pipe(num_samples=5, generator=torch.Generator().manual_seed(0))
    assert found.states.shape == (5, 2, 2) and found.actions.shape == (5, 1, 1) and found.rewards.shape == (5, 1)
    pipe.save_pretrained(tmp_path)
    again = mtdiff.load(tmp_path)(num_samples=5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.states, found.states) and torch.equal(again.rewards, found.rewards)
    one = pipe(generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one.states, found.states[:1], rtol=0, atol=1e-5)
    alike = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    assert pipe(generator=alike).states.shape == (2, 2, 2)


@pytest.mark.slow
def test_synthesize_needs_no_prompt_and_knows_its_one_task(run: Run, tmp_path: Path) -> None:
    made = synthesize(run.folder, tasks=["push"], transitions=300, folder=tmp_path / "data", progress=False)
    assert [made[key] for key in ("samples", "transitions", "transitions_per_sample")] == [300, 300, 1]
    data = TrajectoryDataset.load(tmp_path / "data")
    assert data.tasks == ["push"] and (data.lengths == 1).all() and data.truncated.all()
    message = (
        r"^task: this synthesizer is not told which task is meant and was trained on push, so it cannot write data of "
        r"reach alone\.$"
    )
    with pytest.raises(DataError, match=message):
        synthesize(run.folder, tasks=["reach"], transitions=300, folder=tmp_path / "other", progress=False)


@pytest.mark.slow
def test_another_solver_samples_over_the_noise_of_training(run: Run, tmp_path: Path) -> None:
    changes = ["sampling.scheduler={name: unipc}", "sampling.num_inference_steps=12"]
    synthesize(run.folder, tasks=["push"], transitions=200, folder=tmp_path / "data", overrides=changes, progress=False)
    states = TrajectoryDataset.load(tmp_path / "data").transitions()["state"]
    np.testing.assert_allclose(states.std(0), moves("push").transitions()["state"].std(0), rtol=0.3)


def test_without_conditions_there_is_one_task() -> None:
    message = (
        r"conditioning: must tell a synthesizer the task, because it learns 2 and what it writes would belong to none "
        r"of them\. Give conditioning\.task an encoder, or name a single task in suite\.tasks$"
    )
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe("push", "reach"))
    for told in ({"name": "one_hot"}, {"name": "trajectory_prompt", "length": 3}):
        load_recipe(recipe("push", "reach", conditioning={"task": told, "history": None, "return": None}))


def test_a_fault_of_the_condition_is_not_taken_for_its_lack() -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe("push", "reach", conditioning={"task": {"name": "trajectory_prompt", "length": 0}}))
    assert str(error.value) == "conditioning.task.length: must be at least 1, got 0"
