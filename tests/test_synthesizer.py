"""MTDiff-S: what windows of transitions are, what a sample is, and that one prompt serves a whole batch exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from small_parts import small

import mtdiff
from mtdiff.compose import compose, set_sampling, windows
from mtdiff.conditioning.encoder import Condition
from mtdiff.data.normalizer import Normalization, Normalizer
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.data.windows import Windows
from mtdiff.errors import DataError, MTDiffError, RecipeError
from mtdiff.pipelines import SynthesizerPipeline
from mtdiff.recipe import load_recipe
from mtdiff.registry import BACKBONES
from mtdiff.reporting import evaluate_trained
from mtdiff.representations.transitions import TransitionsRepresentation, repeated

TASKS = ["left", "right"]
NETWORKS = [
    {"name": "gpt2"}, {"name": "gpt2", "split_tokens": True}, {"name": "gpt2", "attention": "bidirectional"},
    {"name": "residual_mlp"}, {"name": "temporal_unet"},
]  # fmt: skip


def walk(seed: int, steps: int = 14) -> TrajectoryDataset:
    """A point that is pushed; a state is where it is, where it was, and where it should go."""
    random = np.random.default_rng(seed)
    states, actions, rewards = [], [], []
    for sign in (-1, 1, -1, 1):
        where, goal, seen = random.normal(), random.normal(), []
        before, pushes = where, np.clip(0.5 * sign + random.normal(size=(steps, 1)), -1, 1).astype(np.float32)
        seen.append([where, before, goal])
        for push in pushes[:, 0]:
            before, where = where, where + 0.3 * push
            seen.append([where, before, goal])
        states.append(np.array(seen, np.float32))
        actions.append(pushes)
        rewards.append(-np.abs(states[-1][1:, 0] - goal))
    return TrajectoryDataset.from_arrays(states=states, actions=actions, rewards=rewards, tasks=TASKS * 2)


def values(backbone: dict[str, Any], **changes: Any) -> dict[str, Any]:
    spec = small(BACKBONES[backbone["name"]])
    return {
        "pipeline": "synthesizer",
        "seed": 0,
        "normalization": {},
        "representation": {"name": "transitions", "horizon": 6, **changes},
        "conditioning": {"task": {"name": "trajectory_prompt", "length": 3, "hidden": [8]}},
        "backbone": {**spec, "width": 16, **backbone},
        "scheduler": {"name": "ddpm", "num_train_timesteps": 20},
        "sampling": {"scheduler": None, "num_inference_steps": 4, "temperature": 1.0, "prompts_per_task": 2},
    }


def build(backbone: dict[str, Any], **changes: Any) -> SynthesizerPipeline:
    pipe, _ = compose(values(backbone, **changes), walk(0), walk(1))
    generator = torch.Generator().manual_seed(0)
    for parameter in (*pipe.backbone.parameters(), *pipe.conditioning.parameters()):
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return pipe


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def test_windows_show_whole_stretches_of_episodes_in_model_space() -> None:
    data = walk(0)
    normalizer = Normalizer.fit(data, Normalization(), rewards=True)
    made = Windows(data, normalizer, horizon=6, transitions=True)
    assert len(made) == 4 * (14 - 6 + 1)
    batch = made.sample(50, torch.Generator().manual_seed(0))
    assert batch["mask"].all()
    states, rewards = normalizer.physical_states(batch["states"]), normalizer.physical_rewards(batch["rewards"])
    everything = torch.from_numpy(data.states)
    for i in range(100):
        row = int((everything - states[i, 0]).abs().sum(1).argmin())
        torch.testing.assert_close(states[i], everything[row : row + 7])
        torch.testing.assert_close(rewards[i, :, 0], torch.from_numpy(data.rewards[row : row + 6]))
        torch.testing.assert_close(batch["actions"][i], torch.from_numpy(data.actions[row : row + 6]))


def test_a_horizon_that_no_episode_has_is_refused() -> None:
    data = walk(0)
    message = (
        r"^representation.horizon: a window should show 15 whole steps, and the longest episode of task left has 14$"
    )
    with pytest.raises(DataError, match=message):
        Windows(data, Normalizer.fit(data, Normalization(), rewards=True), horizon=15, transitions=True)


def test_what_a_state_repeats_is_found_and_written_again() -> None:
    data = walk(0)
    rows = np.delete(np.arange(len(data.states)), data.offsets[1:] - 1)
    assert repeated(data.states, rows).tolist() == [-1, 0, 2]
    pipe = build({"name": "residual_mlp"})
    assert pipe.representation.repeats.tolist() == [-1, 0, 2]
    states = pipe(prompt="left", generator=seeds(*range(5))).states
    assert torch.equal(states[:, 1:, 1], states[:, :-1, 0])
    assert torch.equal(states[:, 1:, 2], states[:, :1, 2].expand(-1, 6))
    assert not torch.equal(states[:, 1:, 0], states[:, :-1, 0])


@pytest.mark.parametrize(("next_states", "transitions"), [("none", 5), ("absolute", 6), ("difference", 6)])
def test_a_sample_is_whole_transitions_inside_the_datas_bounds(next_states: str, transitions: int) -> None:
    data, pipe = walk(0), build({"name": "gpt2"}, next_states=next_states)
    found = pipe(prompt="left", num_samples=40, generator=torch.Generator().manual_seed(0))
    assert found.states.shape == (40, transitions + 1, 3)
    assert found.actions.shape == (40, transitions, 1) and found.actions.abs().max() <= 1
    assert found.rewards.shape == (40, transitions)
    for array, real in ((found.states, data.states), (found.rewards, data.rewards)):
        assert array.min() >= real.min() - 1e-5 and array.max() <= real.max() + 1e-5
    assert found.states[:, :, 0].std() > 0.1, "all alike"


def test_a_state_that_is_written_twice_is_the_mean_of_both() -> None:
    representation = TransitionsRepresentation(horizon=3, next_states="absolute", state_dim=1, action_dim=1)
    x = torch.tensor([[[0.0, 5, 6, 1], [3, 5, 6, 4], [8, 5, 6, 9]]])  # state, action, reward, next state
    assert representation.decode(x)["states"][0, :, 0].tolist() == [0, 2, 6, 9]


def test_a_change_is_carried_in_units_of_its_own_spread() -> None:
    data = walk(0)
    normalizer = Normalizer.fit(data, Normalization(), rewards=True)
    representation = TransitionsRepresentation(horizon=6, state_dim=3, action_dim=1)
    representation.limit(normalizer, data)
    window = Windows(data, normalizer, horizon=6, transitions=True).sample(200, torch.Generator().manual_seed(0))
    x, _ = representation.encode(window)
    assert x[..., -3].std() == pytest.approx(1, abs=0.1) and not x[..., -1].any(), "the goal never changes"
    assert ((x >= representation.bounds[:, 0] - 1e-5) & (x <= representation.bounds[:, 1] + 1e-5)).all()
    # Changes of less than a twentieth of their spread are none, six in a row.
    least = 6 * 0.05 * float(representation.difference_scale.max())
    torch.testing.assert_close(representation.decode(x)["states"], window["states"], rtol=1e-4, atol=least)
    blurred = x.clone()
    blurred[..., :3] += 0.1 * torch.randn(blurred[..., :3].shape, generator=torch.Generator().manual_seed(1))
    states = normalizer.physical_states(representation.decode(blurred)["states"])
    real = normalizer.physical_states(window["states"])
    moved, truly = states[:, 1:, 0] - states[:, :-1, 0], real[:, 1:, 0] - real[:, :-1, 0]
    inside = (states[:, :, 0] < data.states[:, 0].max()) & (states[:, :, 0] > data.states[:, 0].min())
    inside = inside[:, 1:] & inside[:, :-1]
    least = 0.05 * float(representation.difference_scale[0] * normalizer.state_scale[0])
    torch.testing.assert_close(moved[inside], truly[inside], rtol=1e-4, atol=least)
    assert not moved[inside][truly[inside].abs() < 0.99 * least].any(), "what lies still lies still"


def test_the_first_state_keeps_the_velocity_that_was_sampled() -> None:
    data = walk(0)
    representation = TransitionsRepresentation(horizon=2, state_dim=3, action_dim=1)
    representation.limit(Normalizer.fit(data, Normalization(), rewards=True), data)
    # Where it is, where it was (by a first guess), the goal; it was sampled to have moved by 0.5 before.
    states = torch.tensor([[[2.0, 1.0, 9.0], [2.3, 1.5, 9.0], [2.2, 1.8, 9.0]]])
    found = representation.repeat(states)
    torch.testing.assert_close(found[0, :, 1], torch.tensor([1.5, 2.0, 2.3]))
    assert torch.equal(found[..., [0, 2]], states[..., [0, 2]])


def test_weights_are_those_of_the_channels() -> None:
    arguments = {"state_weight": 2.0, "action_weight": 0.5, "reward_weight": 3.0, "state_dim": 2, "action_dim": 1}
    representation = TransitionsRepresentation(horizon=2, next_states="absolute", **arguments)
    window = {"states": torch.randn(4, 3, 2), "actions": torch.randn(4, 2, 1), "rewards": torch.randn(4, 2, 1)}
    x, weight = representation.encode(window)
    assert x.shape == (4, 2, 6) and weight[0, 1].tolist() == [2, 2, 0.5, 3, 2, 2]
    assert torch.equal(x[:, 0, 4:], x[:, 1, :2]), "a next state is the next step's state"


@pytest.mark.parametrize("backbone", NETWORKS, ids=str)
def test_one_prompt_serves_the_whole_batch_exactly(backbone: dict[str, Any]) -> None:
    pipe = build(backbone)
    together = pipe(prompt="left", generator=seeds(0, 1, 2))
    listed = pipe(prompt=["left"] * 3, generator=seeds(0, 1, 2))
    alone = [pipe(prompt="left", generator=seeds(i)) for i in range(3)]
    for name in ("states", "actions", "rewards"):
        each = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), each, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(getattr(listed, name), each, rtol=1e-4, atol=1e-5)
    other = pipe(prompt="right", generator=seeds(0, 1, 2))
    assert (other.actions - together.actions).abs().max() > 1e-4, "the prompt is not read"


@pytest.mark.parametrize("backbone", NETWORKS[:2], ids=str)
def test_keys_and_values_that_are_shared_give_what_the_plain_network_gives(backbone: dict[str, Any]) -> None:
    pipe = build(backbone)
    net, times = pipe.backbone, (15, 7, 0)
    prompt = {"prompt_states": torch.randn(1, 3, 3), "prompt_actions": torch.randn(1, 3, 1)}
    with torch.inference_mode():
        condition = pipe.conditioning(prompt)
        shared = net.prefix(condition, times, batch=1).spread(4)
        predict = net.prepare(Condition(tokens={}), times, prefix=shared)
        for i, time in enumerate(times):
            x = torch.randn(4, 6, pipe.representation.channels)
            expected = net(x, torch.full((4,), time), condition.rows(torch.zeros(4, dtype=torch.long)))
            torch.testing.assert_close(predict(x, i)[0], expected, rtol=1e-4, atol=1e-5)


def test_split_tokens_share_the_layers_of_states_and_see_no_later_piece() -> None:
    pipe = build({"name": "gpt2", "split_tokens": True}, next_states="absolute")
    net = pipe.backbone
    assert set(net.embed.layers) == {"states", "actions", "rewards"}
    assert len(net.positions) == 3 + 1 + 4 * 6
    condition = pipe.conditioning({"prompt_states": torch.randn(2, 3, 3), "prompt_actions": torch.randn(2, 3, 1)})
    x = torch.randn(2, 6, 8)
    changed = x.clone()
    changed[:, 2, 3] += 1  # the action of step 2
    moved = (net(changed, torch.tensor([3, 9]), condition) - net(x, torch.tensor([3, 9]), condition)).abs() > 1e-6
    assert not moved[:, :2].any() and not moved[:, 2, :3].any() and moved[:, 2, 3:].any() and moved[:, 3:].any()


def test_it_is_saved_and_loaded_in_every_way(tmp_path: Any) -> None:
    pipe = build({"name": "gpt2", "split_tokens": True}, next_states="absolute")
    pipe.save_pretrained(tmp_path)
    expected = pipe(prompt="left", generator=seeds(3, 4))
    for load in (mtdiff.load, DiffusionPipeline.from_pretrained, SynthesizerPipeline.from_pretrained):
        again = load(tmp_path)
        assert type(again) is SynthesizerPipeline
        found = again(prompt="left", generator=seeds(3, 4))
        assert all(torch.equal(found[name], expected[name]) for name in ("states", "actions", "rewards"))
    set_sampling(again, {"num_inference_steps": 2, "scheduler": "dpm_solver", "execute": 3})
    assert again.config.num_inference_steps == 2 and "execute" not in again.config


def test_bad_calls_are_refused() -> None:
    pipe = build({"name": "residual_mlp"})
    for arguments, message in (
        ({"num_samples": 0}, "num_samples: must be at least 1, got 0"),
        ({"prompt": ["left", "right"], "num_samples": 3}, "num_samples: must be 2, as many as prompts or tasks, got 3"),
        ({"num_samples": 3, "generator": seeds(1, 2)}, "generator: need one, or one for each of the 3 samples, got 2"),
        ({"temperature": -1.0}, "temperature: must be a finite number of at least 0, got -1.0"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            pipe(**{"prompt": "left", **arguments})
    with pytest.raises(
        DataError, match="^prompt: this synthesizer was trained with it, so a sample needs it; got nothing$"
    ):
        pipe()
    wide = {"states": np.zeros((3, 4)), "actions": np.zeros((3, 1))}
    message = r"^prompt: states and actions must have shapes \(3, 3\) and \(3, 1\), got \(3, 4\) and \(3, 1\)$"
    with pytest.raises(DataError, match=message):
        pipe(prompt=wide)


def test_recipes_that_mix_the_two_kinds_are_refused(tmp_path: Any) -> None:
    mine = "extends: presets/synthesizer\n"
    for text, message in (
        ("extends: quickstart\npipeline: synthesizer", "representation.name: must be one that a synthesizer samples "
            "(transitions), got actions"),
        (mine + "pipeline: planner", "representation.name: must be one that a planner samples (actions), got "
            "transitions"),
        (mine + "conditioning: {history: history}", "conditioning.history: must be null, because a synthesizer is told "
            "its task alone, got history"),
        (mine + "representation: {horizon: 1, next_states: none}", "representation.horizon: must be at least 2, got 1"),
        (mine + "backbone: {split_tokens: true, actions_per_token: 2}", "backbone.split_tokens: must be false where "
            "actions_per_token is not 1, got 2"),
    ):  # fmt: skip
        (tmp_path / "my.yaml").write_text(text)
        with pytest.raises(RecipeError) as refused:
            load_recipe(tmp_path / "my.yaml")
        assert message in str(refused.value)


def test_a_synthesizer_cannot_be_evaluated(tmp_path: Any) -> None:
    build({"name": "residual_mlp"}).save_pretrained(tmp_path)
    with pytest.raises(MTDiffError) as refused:
        evaluate_trained(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path}: is a synthesizer, which writes data and does not act; ")


@pytest.mark.slow
def test_it_learns_the_dynamics_and_which_task_is_meant(tmp_path: Any) -> None:
    """A point moves by 0.3 of its action: samples obey that far better than a state that is copied."""
    data = TrajectoryDataset.from_arrays(
        states=[e.states for s in range(20) for e in walk(s)],
        actions=[e.actions for s in range(20) for e in walk(s)],
        rewards=[e.rewards for s in range(20) for e in walk(s)],
        tasks=TASKS * 40,
    )
    recipe = values({"name": "residual_mlp", "width": 64, "num_layers": 2, "dropout": 0.0})
    pipe, scheduler = compose(recipe, data, walk(1))
    from mtdiff.training import Trainer, Training

    settings = Training(updates=500, batch_per_task=32, learning_rate=3e-3, log_with=(), validation=0.0)
    drawn = windows(pipe, data, walk(1))
    Trainer(pipe, scheduler, drawn, None, settings, seed=0, folder=tmp_path).run()
    means = {}
    for task in TASKS:
        found = pipe(prompt=task, num_samples=200, num_inference_steps=20, generator=torch.Generator().manual_seed(0))
        moved = found.states[:, 1:, 0] - found.states[:, :-1, 0]
        error = (moved - 0.3 * found.actions[..., 0]).square().mean()
        assert error < 0.25 * moved.square().mean(), (task, error, moved.square().mean())
        means[task] = float(found.actions.mean())
    assert means["left"] < -0.15 < 0.15 < means["right"], means
