"""Synthesizers whose states have units of their own task: millimetres within tasks that are metres apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mtdiff
from mtdiff.augmentations.synthesizer import SynthesizerAugmentation
from mtdiff.compose import compose, windows
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError
from mtdiff.pipelines import Prompt, SynthesizerPipeline
from mtdiff.representations.transitions import TransitionsRepresentation
from mtdiff.synthesis import synthesize
from mtdiff.training.warm_start import warm_start

PLACES = {"near": 0.0, "far": 5.0, "unseen": -30.0}
SPREAD = 0.02


def walks(tasks: list[str], seed: int) -> TrajectoryDataset:
    """Small random walks around a place of each task, beside a number that never changes."""
    random = np.random.default_rng(seed)
    names = [task for task in tasks for _ in range(3)]
    states = [
        np.stack([PLACES[task] + SPREAD * random.normal(size=13), np.full(13, PLACES[task])], axis=1).astype(np.float32)
        for task in names
    ]
    actions = [random.uniform(-1, 1, (12, 1)).astype(np.float32) for _ in names]
    return TrajectoryDataset.from_arrays(
        states=states, actions=actions, rewards=[random.normal(size=12).astype(np.float32) for _ in names], tasks=names
    )


def build(**representation: Any) -> SynthesizerPipeline:
    values = {
        "pipeline": "synthesizer",
        "seed": 0,
        "normalization": {},
        "representation": {"name": "transitions", "horizon": 4, "scale": "task", **representation},
        "conditioning": {"task": {"name": "trajectory_prompt", "length": 3, "hidden": [8]}},
        "backbone": {"name": "residual_mlp", "width": 16, "num_layers": 1},
        "scheduler": {"name": "ddpm", "num_train_timesteps": 20},
        "sampling": {"scheduler": None, "num_inference_steps": 4, "temperature": 1.0, "prompts_per_task": 2},
    }
    pipe, _ = compose(values, walks(["near", "far"], 0), walks(["near", "far"], 1))
    return pipe


def demonstrations(task: str, count: int = 3) -> list[Prompt]:
    data = walks([task], 2)
    return [Prompt(states=data[i].states[:3], actions=data[i].actions[:3]) for i in range(count)]


@pytest.mark.parametrize("next_states", ["none", "absolute", "difference"])
def test_what_is_diffused_has_units_of_its_task_and_comes_back(next_states: str) -> None:
    pipe, data = build(next_states=next_states), walks(["near", "far"], 0)
    batch = windows(pipe, data, walks(["near", "far"], 1)).sample(200, torch.Generator().manual_seed(0))
    x, _ = pipe.representation.encode(batch)
    for task in (0, 1):
        mine = x[batch["task"] == task, :, 0]
        assert abs(mine.mean()) < 0.3 and 0.7 < mine.std() < 1.3
    found = pipe.representation.decode(
        x, type(pipe._units("far"))(*(part[batch["task"], None] for part in _tables(pipe)))
    )
    kept = found["states"].shape[1]
    torch.testing.assert_close(found["states"], batch["states"][:, :kept], atol=0.06 / 2.5, rtol=0)


def _tables(pipe: SynthesizerPipeline) -> tuple[torch.Tensor, torch.Tensor]:
    return pipe.representation.task_loc, pipe.representation.task_spread


@pytest.mark.parametrize("task", ["near", "far", "unseen"])
def test_a_sample_lies_where_its_task_does(task: str) -> None:
    pipe, shown = build(), demonstrations(task)
    noise = [torch.Generator().manual_seed(number) for number in range(20)]
    given = {"scale_of": shown} if task == "unseen" else {"scale_of": task}
    states = pipe(prompt=shown[0], generator=noise, **given).states
    assert (states[..., 0] - PLACES[task]).abs().max() < 6 * SPREAD
    assert states[..., 0].std() > SPREAD / 4


def test_where_the_units_come_from() -> None:
    pipe, shown = build(), demonstrations("unseen")
    pipe.prompts = pipe.prompts.with_prompts({"unseen": shown})

    def states(**told: Any) -> torch.Tensor:
        return pipe(generator=torch.Generator().manual_seed(0), **told).states

    near = pipe.prompts["near"][0]
    named = states(prompt="near")
    assert torch.equal(named, states(prompt=near, scale_of="near"))
    assert not torch.equal(named, states(prompt=near))  # measured on its three steps alone
    assert torch.equal(states(prompt="unseen"), states(prompt=shown[0], scale_of=shown))
    both = pipe(prompt=["near", "far"], generator=[torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)])
    torch.testing.assert_close(both.states[:1], named)
    assert (both.states[1, :, 0] - PLACES["far"]).abs().max() < 6 * SPREAD


def test_saved_loaded_and_written_by_every_way_alike(tmp_path: Path) -> None:
    pipe, shown = build(), demonstrations("unseen")
    pipe.save_pretrained(tmp_path / "pipe")
    again = mtdiff.load(tmp_path / "pipe")
    told = {"prompt": "far", "num_samples": 3}
    found, expected = (one(**told, generator=torch.Generator().manual_seed(0)).states for one in (again, pipe))
    assert torch.equal(found, expected)
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for prompt, path in zip(shown, files, strict=True):
        prompt.save(path)
    synthesize(
        tmp_path / "pipe", tasks=["far", "unseen"], transitions=200, folder=tmp_path / "data",
        prompts={"unseen": files}, progress=False,
    )  # fmt: skip
    written = TrajectoryDataset.load(tmp_path / "data")
    for number, task in enumerate(written.tasks):
        rows = np.repeat(written.task_index, written.lengths + 1) == number
        assert np.abs(written.states[rows, 0] - PLACES[task]).max() < 6 * SPREAD
    part = SynthesizerAugmentation(pipeline=pipe, prompts=shown, task="unseen")
    added = part.write(walks(["unseen"], 3), 40, seed=0)
    assert np.abs(added["state"][:, 0] - PLACES["unseen"]).max() < 6 * SPREAD


def test_after_a_warm_start_they_are_measured_in_the_units_that_were_taken_over(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "pipe")
    pipe, data = build(), walks(["near", "far"], 0)
    pipe.normalizer.state_scale.mul_(7)
    pipe.representation.limit(pipe.normalizer, data)
    warm_start(pipe, tmp_path / "pipe", data)
    expected = build()
    for name, value in expected.representation.state_dict().items():
        torch.testing.assert_close(pipe.representation.state_dict()[name], value)


def test_messages() -> None:
    pipe = build()
    told: dict[str, Any] = {"prompt": pipe.prompts["near"][0]}
    with pytest.raises(DataError, match=r"^scale_of: unknown task 'nea'. Allowed: far, near. Did you mean 'near'\?$"):
        pipe(**told, scale_of="nea")
    with pytest.raises(DataError, match=r"^scale_of: the list of demonstrations is empty$"):
        pipe(**told, scale_of=[])
    with pytest.raises(DataError, match=r"^scale_of: the states of this synthesizer have the same units whatever"):
        build(scale="data")(**told, scale_of="near")
    with pytest.raises(DataError, match=r"^scale_of: the states of each task have other units; name one of near, far$"):
        pipe.scale_for(None)
    with pytest.raises(ValueError, match=r"^smallest_std: must be a finite number above 0, got 0.0$"):
        TransitionsRepresentation(scale="task", smallest_std=0.0, state_dim=2, action_dim=1)
