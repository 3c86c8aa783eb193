"""Augmentations: what is written, what is changed and what is not, against closed forms; training resumes exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_parts import small
from torch import Tensor

from mtdiff.augmentations import RAD, S4RL, Augmentation, Recorded, SynthesizerAugmentation
from mtdiff.compose import compose
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError
from mtdiff.learners import IQL, TD3BC, Learner, train_learner
from mtdiff.pipelines import SynthesizerPipeline
from mtdiff.registry import AUGMENTATIONS, BACKBONES
from mtdiff.studies.augment_plan import WRITING

KINDS = [TD3BC, IQL]
FIELDS = ["state", "action", "reward", "next_state", "terminated", "truncated"]


def batch(count: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {"state": (count, 5), "action": (count, 2), "reward": (count,), "next_state": (count, 5)}
    values = {name: torch.randn(shape, generator=generator) for name, shape in drawn.items()}
    values["action"].clamp_(-1, 1)
    return {**values, "terminated": torch.zeros(count)}


def learner(kind: type[Learner] = TD3BC) -> Learner:
    made = kind(state_dim=5, action_dim=2, hidden=(16, 16), seed=1)
    scales = torch.tensor([0.5, 1.0, 2.0, 4.0, 0.1])
    made.begin(torch.randn(200, 5, generator=torch.Generator().manual_seed(3)) * scales + 1, updates=10)
    return made


def episodes(*tasks: str, seed: int = 0, steps: int = 12) -> TrajectoryDataset:
    """Three random episodes of every task."""
    random = np.random.default_rng(seed)
    names = [task for task in tasks for _ in range(3)]
    return TrajectoryDataset.from_arrays(
        states=[random.normal(size=(steps + 1, 3)) for _ in names],
        actions=[random.uniform(-1, 1, (steps, 2)) for _ in names],
        rewards=[random.normal(size=steps) for _ in names],
        terminated=[number % 3 == 0 for number in range(len(names))],
        tasks=names,
    )


def synthesizer(*tasks: str, task: dict[str, Any] | None) -> SynthesizerPipeline:
    """Pieces of 4 transitions; its weights are random and not small, so that what it is told shows."""
    values: dict[str, Any] = {
        "pipeline": "synthesizer",
        "seed": 0,
        "normalization": {},
        "representation": {"name": "transitions", "horizon": 4},
        "conditioning": {"task": task} if task else {},
        "backbone": {**small(BACKBONES["residual_mlp"]), "width": 16},
        "scheduler": {"name": "ddpm", "num_train_timesteps": 8},
        "sampling": {"scheduler": None, "num_inference_steps": 2, "temperature": 1.0, "prompts_per_task": 3},
    }
    pipe, _ = compose(values, episodes(*tasks), episodes(*tasks, seed=1))
    generator = torch.Generator().manual_seed(0)
    for parameter in (*pipe.backbone.parameters(), *pipe.conditioning.parameters()):
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return pipe


PROMPTED = {"name": "trajectory_prompt", "length": 3, "hidden": [8]}


def assert_same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_more_recorded_transitions_are_those_of_other_episodes_each_once_while_they_last() -> None:
    real, other = episodes("a"), episodes("a", seed=1)
    augmentation = Recorded(reference=other)
    written = augmentation.write(real, 36, seed=0)
    there = other.transitions()
    assert sorted(written["reward"]) == sorted(there["reward"]), "36 there are"
    assert not np.array_equal(written["reward"], there["reward"])
    many = augmentation.write(real, 80, seed=0)
    values, counts = np.unique(many["reward"], return_counts=True)
    assert len(values) == 36 and set(counts.tolist()) == {2, 3}
    row = int(np.flatnonzero(there["reward"] == written["reward"][5])[0])
    assert all(np.array_equal(written[name][5], there[name][row]) for name in FIELDS)
    assert np.array_equal(augmentation.write(real, 36, seed=0)["state"], written["state"])


def test_rad_scales_a_transition_by_one_number() -> None:
    before, after = batch(2000), RAD(low=0.5, high=1.5).change(learner(), batch(2000))
    z = after["state"] / before["state"]
    torch.testing.assert_close(z, z[:, :1].expand(-1, 5))
    torch.testing.assert_close(after["next_state"], before["next_state"] * z[:, :1])
    assert 0.5 <= z.min() < 0.52 and 1.48 < z.max() <= 1.5 and abs(z[:, 0].mean() - 1) < 0.02
    for name in ("action", "reward", "terminated"):
        assert torch.equal(after[name], before[name])


@pytest.mark.parametrize("kind", KINDS)
def test_s4rl_moves_states_along_the_critics_slope(kind: type[Learner]) -> None:
    made, before = learner(kind), batch(3)
    after = S4RL(step=0.01).change(made, before)

    def value(standard: Tensor) -> float:
        """Q of the policy's action at one standardised state."""
        states = (standard * made.state_scale + made.state_loc)[None]
        return float(made.q(states, made.policy(states))[0].detach())

    for name in ("state", "next_state"):
        start = made.standard(before[name])
        moved = made.standard(after[name]) - start
        for row in range(3):
            for number in range(5):
                step = torch.zeros(5)
                step[number] = 5e-3
                slope = (value(start[row] + step) - value(start[row] - step)) / 1e-2
                assert float(moved[row, number]) == pytest.approx(0.01 * slope, abs=3e-5)
    assert torch.equal(after["action"], before["action"]) and not after["state"].requires_grad
    assert torch.equal(S4RL(step=0).change(made, before)["state"], before["state"])


def test_s4rl_moves_by_standard_deviations_whatever_the_units() -> None:
    """A state in millimetres moves as far, counted in standard deviations, as the same state in metres."""
    metres, millimetres = learner(), learner()
    millimetres.begin(torch.randn(200, 5, generator=torch.Generator().manual_seed(3)) * 1000, updates=10)
    metres.begin(torch.randn(200, 5, generator=torch.Generator().manual_seed(3)), updates=10)
    before = batch(8)
    larger = {**before, "state": before["state"] * 1000, "next_state": before["next_state"] * 1000}
    moved = S4RL(step=1.0).change(metres, before)["state"] - before["state"]
    assert moved.abs().max() > 0.01
    also = S4RL(step=1.0).change(millimetres, larger)["state"] - larger["state"]
    torch.testing.assert_close(also / 1000, moved, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("augmentation", [RAD(), S4RL()])
def test_training_goes_on_as_if_it_had_never_stopped(augmentation: Augmentation) -> None:
    data, change = {name: value.numpy() for name, value in batch(300).items()}, augmentation.change
    whole, half, rest, plain = learner(), learner(), learner(), learner()
    train_learner(whole, data, updates=10, batch=32, augment=change)
    train_learner(half, data, updates=4, batch=32, augment=change)
    rest.load_state_dict(half.state_dict())
    train_learner(rest, data, updates=10, batch=32, augment=change)
    train_learner(plain, data, updates=10, batch=32)
    states, expected = batch()["state"], whole.policy(batch()["state"])
    assert torch.equal(rest.policy(states), expected)
    assert not torch.equal(plain.policy(states), expected), "the batches were not augmented"


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_changes_batches_or_adds_to_the_data(name: str) -> None:
    """And `none` does neither; what is added can be learnt from, and none of it changes what it is given."""
    real = episodes("push")
    told: dict[str, Any] = {"reference": episodes("push", seed=1)}
    if name == "synthesizer":
        told["pipeline"] = synthesizer("push", task=PROMPTED)
    augmentation = AUGMENTATIONS.build({"name": name}, **told)
    assert isinstance(augmentation, Augmentation)
    given = {key: value.copy() for key, value in real.transitions().items()}
    written = augmentation.write(real, 30, seed=0)
    assert_same(real.transitions(), given)
    made = TD3BC(state_dim=3, action_dim=2, hidden=(8,))
    made.begin(given["state"], updates=4)
    drawn = {key: torch.from_numpy(given[key][:9].astype(np.float32)) for key in FIELDS}
    before = {key: value.clone() for key, value in drawn.items()}
    changed = augmentation.change(made, drawn)
    assert all(torch.equal(drawn[key], before[key]) for key in before)
    assert (written is not None) == (name in WRITING)
    assert torch.equal(changed["state"], before["state"]) == (name in ("none", *WRITING))
    if written is not None:
        assert len(written["state"]) == 30 and set(FIELDS) <= set(written)
        train_learner(made, [(given, 1), (written, 2)], updates=4, batch=8, augment=augmentation.change)


def test_duplicates_are_recorded_transitions_each_as_likely() -> None:
    real, augmentation = episodes("push"), AUGMENTATIONS.build("duplicate")
    recorded, found = real.transitions(), augmentation.write(real, 3600, seed=0)
    assert found.keys() == recorded.keys()
    where = {row.tobytes(): number for number, row in enumerate(recorded["state"])}
    rows = np.array([where[row.tobytes()] for row in found["state"]])
    assert_same(found, {name: values[rows] for name, values in recorded.items()})
    counts = np.bincount(rows, minlength=36)
    assert counts.min() > 60 and counts.max() < 140  # 100 expected, standard deviation 10
    assert_same(augmentation.write(real, 50, seed=0), augmentation.write(real, 50, seed=0))
    assert not np.array_equal(augmentation.write(real, 50, seed=1)["state"], found["state"][:50])


def test_duplicates_of_the_best_episodes_alone() -> None:
    real = episodes("push")
    best = real.subset([int(real.returns.argmax())])
    found = AUGMENTATIONS.build({"name": "duplicate", "best_episodes": 0.3}).write(real, 500, seed=0)
    assert {row.tobytes() for row in found["state"]} == {row.tobytes() for row in best.transitions()["state"]}
    with pytest.raises(ValueError, match=r"^best_episodes: must be above 0 and at most 1, got 0.0$"):
        AUGMENTATIONS.build({"name": "duplicate", "best_episodes": 0.0})


def test_synthetic_transitions_are_what_the_pipeline_samples() -> None:
    """Of every prompt as many pieces, one after the other, from one generator."""
    pipe, real = synthesizer("push", "reach", task=PROMPTED), episodes("push")
    found = AUGMENTATIONS.build("synthesizer", pipeline=pipe).write(real, 24, seed=5)
    assert [*found] == FIELDS
    generator = torch.Generator().manual_seed(5)
    for number, prompt in enumerate(pipe.prompts["push"]):
        expected = pipe(prompt=prompt, num_samples=2, generator=generator)
        for piece in range(2):
            rows = slice(8 * number + 4 * piece, 8 * number + 4 * piece + 4)
            np.testing.assert_array_equal(found["state"][rows], expected.states[piece, :-1])
            np.testing.assert_array_equal(found["next_state"][rows], expected.states[piece, 1:])
            np.testing.assert_array_equal(found["action"][rows], expected.actions[piece])
            np.testing.assert_array_equal(found["reward"][rows], expected.rewards[piece])
    assert not found["terminated"].any()
    assert np.flatnonzero(found["truncated"]).tolist() == [3, 7, 11, 15, 19, 23]


def test_what_is_synthesized_follows_from_the_seed_and_not_from_the_batch() -> None:
    pipe, real = synthesizer("push", task=PROMPTED), episodes("push")
    small_batches, large = (SynthesizerAugmentation(pipeline=pipe, batch=n) for n in (2, 256))
    first = large.write(real, 50, seed=0)
    for name, values in small_batches.write(real, 50, seed=0).items():
        np.testing.assert_allclose(values, first[name], rtol=0, atol=1e-5)
    assert_same(large.write(real, 50, seed=0), first)
    assert not np.array_equal(large.write(real, 50, seed=1)["state"], first["state"])
    assert len(first["state"]) == 50 and first["truncated"][-1]


def test_fewer_pieces_than_prompts_show_some_of_them() -> None:
    pipe, real = synthesizer("push", task=PROMPTED), episodes("push")
    shown = []
    for seed in range(6):
        found = SynthesizerAugmentation(pipeline=pipe).write(real, 3, seed=seed)["state"]
        one = [
            pipe(prompt=prompt, num_samples=1, generator=torch.Generator().manual_seed(seed)).states[0, :3].numpy()
            for prompt in pipe.prompts["push"]
        ]
        shown.append([np.array_equal(found, states) for states in one].index(True))
    assert len(set(shown)) > 1


def test_prompts_of_an_unseen_task_can_be_shown() -> None:
    pipe, real = synthesizer("push", task=PROMPTED), episodes("door", seed=4)
    with pytest.raises(DataError, match=r"^prompts: unknown task 'door'\. Allowed: push\.$"):
        SynthesizerAugmentation(pipeline=pipe).write(real, 8, seed=0)
    prompts = synthesizer("door", task=PROMPTED).prompts["door"]
    found = SynthesizerAugmentation(pipeline=pipe, prompts=prompts[:1]).write(real, 8, seed=0)
    expected = pipe(prompt=prompts[0], num_samples=2, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(found["action"], expected.actions.flatten(0, 1))


def test_a_task_is_told_by_its_number_or_not_at_all() -> None:
    numbered, alone = synthesizer("push", "reach", task={"name": "one_hot"}), synthesizer("push", task=None)
    push, reach = (
        SynthesizerAugmentation(pipeline=numbered).write(episodes(task), 8, seed=0) for task in ("push", "reach")
    )
    assert not np.array_equal(push["action"], reach["action"])
    assert_same(SynthesizerAugmentation(pipeline=numbered, task="push").write(episodes("reach"), 8, seed=0), push)
    expected = alone(num_samples=2, generator=torch.Generator().manual_seed(0))
    found = SynthesizerAugmentation(pipeline=alone).write(episodes("push"), 8, seed=0)
    np.testing.assert_array_equal(found["action"], expected.actions.flatten(0, 1))


def test_what_cannot_be_synthesized_is_refused() -> None:
    prompted, alone = synthesizer("push", task=PROMPTED), synthesizer("push", task=None)
    with pytest.raises(ValueError, match=r"^batch: must be at least 1, got 0$"):
        SynthesizerAugmentation(pipeline=prompted, batch=0)
    with pytest.raises(DataError, match=r"^prompts: the list of prompts is empty$"):
        SynthesizerAugmentation(pipeline=prompted, prompts=[])
    with pytest.raises(DataError, match=r"^prompts: this synthesizer is shown none, got 3$"):
        SynthesizerAugmentation(pipeline=alone, prompts=prompted.prompts["push"])
    message = (
        r"^task: this synthesizer is not told which task is meant and was trained on push, so what it writes is no "
        r"data of door$"
    )
    with pytest.raises(DataError, match=message):
        SynthesizerAugmentation(pipeline=alone).write(episodes("door"), 8, seed=0)
    with pytest.raises(DataError, match=r"^real: should be the episodes of one task, got those of push, door$"):
        SynthesizerAugmentation(pipeline=alone).write(episodes("push", "door"), 8, seed=0)


@pytest.mark.parametrize("name", ["duplicate", "synthesizer"])
def test_numbers_of_what_is_written_are_checked(name: str) -> None:
    augmentation = AUGMENTATIONS.build(name, pipeline=synthesizer("push", task=None))
    with pytest.raises(ValueError, match=r"^count: must be at least 1, got 0$"):
        augmentation.write(episodes("push"), 0, seed=0)
    with pytest.raises(ValueError, match=r"^seed: must be at least 0, got -1$"):
        augmentation.write(episodes("push"), 1, seed=-1)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^low, high: need 0 < low <= high, got 1\.5, 0\.5$"):
        RAD(low=1.5, high=0.5)
    with pytest.raises(ValueError, match=r"^step: must be at least 0, got -0\.1$"):
        S4RL(step=-0.1)
