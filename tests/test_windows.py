"""Windows and prompts against a slow reference that walks every episode step by step."""

import numpy as np
import pytest
import torch

from mtdiff.data.normalizer import Normalization, Normalizer
from mtdiff.data.prompt_windows import PromptWindows
from mtdiff.data.trajectories import Trajectory, TrajectoryDataset
from mtdiff.data.windows import Windows, scale_returns
from mtdiff.errors import DataError

HORIZON, HISTORY = 5, 3


@pytest.fixture
def normalizer(dataset):
    return Normalizer.fit(dataset, Normalization(actions="z_score", clip=1.5))


def every_step(dataset):
    """(episode, step) of all actions, in the order windows are numbered: task by task, episode by episode."""
    return [
        (e, t)
        for number in range(len(dataset.tasks))
        for e in range(len(dataset))
        if dataset.task_index[e] == number
        for t in range(dataset.lengths[e])
    ]


def all_windows(windows, dataset):
    places = every_step(dataset)
    return places, windows.gather(
        {
            "task": torch.tensor([dataset.task_index[e] for e, _ in places]),
            "row": torch.arange(len(places)),
            "demonstration": torch.zeros(len(places), dtype=torch.float64),
            "start": torch.zeros(len(places), dtype=torch.float64),
        }
    )


def reference(dataset, normalizer, e, t):
    """One window, by hand: numpy, float64, a loop over steps."""
    episode = dataset[e]
    loc, scale = (getattr(normalizer, f"state_{n}").double().numpy() for n in ("loc", "scale"))
    a_loc, a_scale = (getattr(normalizer, f"action_{n}").double().numpy() for n in ("loc", "scale"))
    history, actions, mask = [], [], []
    for step in range(t - HISTORY + 1, t + 1):
        seen = np.clip((episode.states[step] - loc) / scale, -1.5, 1.5) if step >= 0 else np.zeros(len(loc))
        history.append(seen)
    for step in range(t, t + HORIZON):
        mask.append(step < len(episode))
        actions.append((episode.actions[step] - a_loc) / a_scale if mask[-1] else np.zeros(len(a_loc)))
    return np.array(history), np.array(actions), np.array(mask)


def test_every_window_of_every_episode_equals_the_reference(dataset, normalizer):
    windows = Windows(dataset, normalizer, horizon=HORIZON, history=HISTORY)
    assert len(windows) == dataset.num_steps == 84
    places, batch = all_windows(windows, dataset)
    assert len(places) == 84
    for i, (e, t) in enumerate(places):
        history, actions, mask = reference(dataset, normalizer, e, t)
        np.testing.assert_allclose(batch["history"][i], history, atol=1e-6)
        np.testing.assert_allclose(batch["actions"][i], actions, atol=1e-6)
        np.testing.assert_array_equal(batch["mask"][i], mask)
    assert batch["mask"][:, 0].all()  # a terminal row is never acted on
    assert batch["history"].dtype == batch["actions"].dtype == torch.float32


def test_history_before_an_episode_is_exactly_zero_in_model_space(dataset, normalizer):
    places, batch = all_windows(Windows(dataset, normalizer, horizon=1, history=HISTORY), dataset)
    for i, (_, t) in enumerate(places):
        known = min(t + 1, HISTORY)
        assert (batch["history"][i, : HISTORY - known] == 0).all()
        assert (batch["history"][i, HISTORY - known :].abs().sum(-1) > 0).all()


def test_draw_balances_tasks_and_reaches_every_window(dataset, normalizer):
    windows = Windows(dataset, normalizer, horizon=1)
    drawn = windows.draw(2000, torch.Generator().manual_seed(0))
    assert drawn["task"].tolist() == [0] * 2000 + [1] * 2000
    task_of = torch.tensor([dataset.task_index[e] for e, _ in every_step(dataset)])
    assert torch.equal(task_of[drawn["row"]], drawn["task"])
    times = torch.bincount(drawn["row"], minlength=len(windows)).double()
    for number, steps in enumerate((50, 34)):
        mine = times[task_of == number]
        assert len(mine) == steps
        expected = 2000 / steps
        assert mine.min() > 0  # every step, the first and the last included
        assert ((mine - expected) ** 2 / expected).sum() < 1.8 * steps  # chi-squared far beyond 99.9 %


def test_draw_depends_on_the_generator_alone(dataset, normalizer, prompts):
    arguments = {"horizon": 2, "prompt": 4, "prompts": prompts}
    first = Windows(dataset, normalizer, **arguments).draw(7, torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    generator = torch.Generator().manual_seed(3)
    windows = Windows(dataset, normalizer, **arguments)
    again, later = windows.draw(7, generator), windows.draw(7, generator)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(again["row"], later["row"])
    assert all(value.device.type == "cpu" for value in first.values())
    sampled = windows.sample(7, torch.Generator().manual_seed(3))
    gathered = windows.gather(first)
    assert all(torch.equal(sampled[name], gathered[name]) for name in gathered)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gathers_what_the_cpu_gathers(dataset, normalizer, prompts):
    arguments = {"horizon": HORIZON, "history": HISTORY, "prompt": 4, "prompts": prompts, "returns": True}
    cpu, gpu = (Windows(dataset, normalizer, device=device, **arguments) for device in ("cpu", "cuda"))
    a, b = (w.sample(50, torch.Generator().manual_seed(0)) for w in (cpu, gpu))
    for name, value in a.items():
        assert b[name].device.type == "cuda"
        assert torch.equal(value, b[name].cpu())


def test_gather_leaves_what_was_drawn_alone(dataset, normalizer, prompts):
    windows = Windows(dataset, normalizer, horizon=2, prompt=4, prompts=prompts)
    drawn = windows.draw(3, torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in drawn.items()}
    states = dataset.states.copy()
    batch = windows.gather(drawn)
    batch["history"].zero_()
    batch["prompt_states"].zero_()
    assert all(torch.equal(before[name], drawn[name]) for name in before)
    np.testing.assert_array_equal(dataset.states, states)
    assert windows.gather(drawn)["history"].abs().sum() > 0


# prompts


def numbered(*lengths):
    """Demonstrations of task "a" and "b" in turn whose states are (episode, step) and actions step / 1000."""
    episodes = []
    for e, length in enumerate(lengths):
        steps = np.arange(length + 1)
        episodes.append(
            Trajectory(
                states=np.stack([np.full(length + 1, e), steps], 1), actions=steps[:-1, None] / 1000,
                rewards=np.zeros(length), success=np.zeros(length, bool), terminated=False, truncated=True,
                task="ab"[e % 2],
            )
        )  # fmt: skip
    return TrajectoryDataset.from_trajectories(episodes)


GRID = torch.cat([torch.linspace(0, 1, 41, dtype=torch.float64)[:-1], torch.tensor([1 - 2**-53], dtype=torch.float64)])


def cut(data, *, length, tasks=("b", "a"), **arguments):
    """(task, episode, steps) of prompts for every task and a grid over the two numbers drawn."""
    cutter = PromptWindows(data, None, tasks, length=length, **arguments)
    task, which, start = torch.cartesian_prod(torch.arange(2).double(), GRID, GRID).T
    batch = cutter.gather(task.long(), which, start)
    states, actions = batch["prompt_states"], batch["prompt_actions"]
    assert states.shape == (len(task), length, 2)
    np.testing.assert_allclose(actions[..., 0], states[..., 1] / 1000, atol=1e-7)  # both cut alike
    assert (states[..., 0] == states[:, :1, 0]).all()  # all of one episode
    return list(zip(task.int().tolist(), states[:, 0, 0].int().tolist(), states[..., 1].int().tolist(), strict=True))


def test_contiguous_prompts_start_anywhere_and_end_in_time():
    found = cut(numbered(3, 5, 4, 7, 9), length=3)
    starts = {}
    for task, episode, steps in found:
        assert episode % 2 == (1, 0)[task]  # the caller's numbering of tasks, not the dataset's
        assert steps == list(range(steps[0], steps[0] + 3))
        starts.setdefault(episode, set()).add(steps[0])
    # Every demonstration and every start, up to the last one possible and never past it.
    assert starts == {0: {0}, 1: {0, 1, 2}, 2: {0, 1}, 3: {0, 1, 2, 3, 4}, 4: {0, 1, 2, 3, 4, 5, 6}}


@pytest.mark.parametrize("latest", [0, 1, 2, 149])
def test_prompts_begin_no_later_than_they_may(latest):
    starts = {}
    for _, episode, steps in cut(numbered(3, 5, 4, 7, 9), length=3, latest_start=latest):
        assert steps == list(range(steps[0], steps[0] + 3))
        starts.setdefault(episode, set()).add(steps[0])
    assert starts == {e: set(range(min(last, latest) + 1)) for e, last in enumerate((0, 2, 1, 4, 6))}


def test_even_prompts_span_the_whole_demonstration():
    for _, episode, steps in cut(numbered(3, 5, 4, 7, 9), length=3, spacing="even"):
        assert steps == {0: [0, 1, 2], 1: [0, 2, 4], 2: [0, 1, 3], 3: [0, 3, 6], 4: [0, 4, 8]}[episode]
    assert {tuple(steps) for *_, steps in cut(numbered(3, 5), length=1, spacing="even")} == {(0,)}


def test_prompts_are_in_model_space_and_of_the_windows_task(dataset, prompts, normalizer):
    windows = Windows(dataset, normalizer, horizon=1, prompt=4, prompts=prompts)
    batch = windows.sample(40, torch.Generator().manual_seed(0))
    for task, states, actions in zip(batch["task"], batch["prompt_states"], batch["prompt_actions"], strict=True):
        found = [
            (e, start)
            for e in range(len(prompts))
            for start in range(prompts.lengths[e] - 3)
            if torch.allclose(normalizer.states(torch.from_numpy(prompts[e].states[start : start + 4])), states)
        ]
        assert len(found) == 1
        e, start = found[0]
        assert prompts[e].task == dataset.tasks[task]
        expected = normalizer.actions(torch.from_numpy(prompts[e].actions[start : start + 4]))
        torch.testing.assert_close(actions, expected)


def test_prompts_in_physical_units_are_those_in_model_space_before_it(dataset, prompts, normalizer):
    arguments = {"horizon": 2, "prompt": 4, "prompts": prompts, "prompt_latest_start": 1}
    raw, scaled = (
        Windows(dataset, normalizer, prompt_normalize=flag, **arguments).sample(40, torch.Generator().manual_seed(0))
        for flag in (False, True)
    )
    assert torch.equal(normalizer.states(raw["prompt_states"]), scaled["prompt_states"])
    assert torch.equal(normalizer.actions(raw["prompt_actions"]), scaled["prompt_actions"])
    assert torch.equal(raw["history"], scaled["history"])
    known = {row.tobytes() for row in prompts.states}
    assert all(row.tobytes() in known for row in raw["prompt_states"].reshape(-1, 5).numpy())


@pytest.mark.parametrize(("horizon", "history"), [(1, 1), (1, 4), (2, 1), (3, 2), (40, 30)])
def test_windows_of_any_size_equal_a_loop_over_steps(dataset, normalizer, horizon, history):
    """Bit by bit, longer than any episode included."""
    places, batch = all_windows(Windows(dataset, normalizer, horizon=horizon, history=history), dataset)
    for i, (e, t) in enumerate(places):
        states = normalizer.states(torch.from_numpy(dataset[e].states))
        actions = normalizer.actions(torch.from_numpy(dataset[e].actions))
        past = [states[s] if s >= 0 else torch.zeros(5) for s in range(t - history + 1, t + 1)]
        mask = [s < len(actions) for s in range(t, t + horizon)]
        ahead = [actions[s] if known else torch.zeros(2) for s, known in enumerate(mask, start=t)]
        assert torch.equal(batch["history"][i], torch.stack(past))
        assert torch.equal(batch["actions"][i], torch.stack(ahead))
        assert batch["mask"][i].tolist() == mask


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((9, 9, 9, 2), "task b: a prompt of 3 steps is asked for, but its shortest demonstration has 2"),
        ((9,), "task b: a prompt of 3 steps is asked for, but it has no demonstration"),
    ],
)
def test_demonstrations_that_do_not_do(lengths, message):
    with pytest.raises(DataError) as error:
        PromptWindows(numbered(*lengths), None, ["a", "b"], length=3)
    assert str(error.value) == message


def test_missing_demonstrations_and_tasks_without_steps(dataset, normalizer):
    with pytest.raises(DataError) as error:
        Windows(dataset, normalizer, horizon=1, prompt=4)
    assert str(error.value) == "the recipe asks for prompts, but the dataset has no prompt demonstrations"
    with pytest.raises(DataError) as error:
        Windows(dataset.of_task("reach-v3"), normalizer, horizon=1, returns=True)
    assert str(error.value) == "no steps of task push-v3 in the dataset"


# returns


def with_returns(by_task):
    return TrajectoryDataset.from_arrays(
        states=[np.zeros((3, 1)) for returns in by_task.values() for _ in returns],
        actions=[np.zeros((2, 1)) for returns in by_task.values() for _ in returns],
        rewards=[[value - 1, 1] for returns in by_task.values() for value in returns],
        tasks=[task for task, returns in by_task.items() for _ in returns],
    )


def test_returns_are_scaled_per_task_and_clipped():
    data = with_returns({"a": range(21), "b": [100 * k for k in range(21)], "c": [7, 7, 7]})
    # The 5 % quantile of 0 .. 20 is 1, the 95 % quantile 19.
    ramp = [min(max((k - 1) / 18, 0), 1) for k in range(21)]
    np.testing.assert_allclose(scale_returns(data), [*ramp, *ramp, 1, 1, 1], atol=1e-12)


def test_held_out_episodes_are_labelled_on_the_scale_of_the_others():
    learn = with_returns({"a": range(21), "b": [0, 1]})
    held_out = with_returns({"a": [10], "b": [50]})
    np.testing.assert_allclose(scale_returns(held_out, learn), [0.5, 1])
    identity = Normalizer(state_dim=1, action_dim=1, clip=0.0)
    windows = Windows(held_out, identity, horizon=1, returns=True, returns_of=learn)
    label = windows.sample(3, torch.Generator().manual_seed(0))["return"]
    torch.testing.assert_close(label, torch.tensor([[0.5]] * 3 + [[1.0]] * 3))


def test_windows_carry_the_return_of_their_episode(dataset, normalizer):
    places, batch = all_windows(Windows(dataset, normalizer, horizon=1, returns=True), dataset)
    label = scale_returns(dataset)
    assert batch["return"].shape == (len(places), 1)
    np.testing.assert_allclose(batch["return"][:, 0], [label[e] for e, _ in places], atol=1e-7)
    assert 0 <= batch["return"].min() < 0.1 < 0.9 < batch["return"].max() <= 1


def test_fields_that_are_not_asked_for_are_not_made(dataset, normalizer):
    batch = Windows(dataset, normalizer, horizon=1).sample(1, torch.Generator())
    assert set(batch) == {"history", "actions", "mask", "task"}
