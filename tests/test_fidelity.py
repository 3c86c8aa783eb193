"""Fidelity of written transitions: closed forms, slow references, and the real simulator's floor."""

from __future__ import annotations

import builtins
import json
import math
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import norm

from mtdiff.environments import Gymnasium, MetaWorld
from mtdiff.environments.dynamics import Stepped, dynamics_of
from mtdiff.errors import DataError, EnvironmentFault, MTDiffError
from mtdiff.evaluation.closeness import (
    bin_coverage,
    correlation_similarity,
    marginal_similarity,
    nearest,
    transitions_of,
)
from mtdiff.evaluation.embedding import Embedding, embed, embedding_figure, embedding_svg
from mtdiff.evaluation.fidelity import fidelity


class Spring:
    """Dynamics in closed form: a point on a spring whose position the state also repeats one step late."""

    task = "spring"
    parts = {"point": range(2), "previous": range(2, 4)}
    blurred: tuple[str, ...] = ()

    def step(self, states: Any, actions: Any) -> Stepped:
        now = np.asarray(states, float)[:, :2]
        after = np.concatenate([0.9 * now + 0.1 * np.asarray(actions, float), now], axis=1)
        possible = np.abs(now).max(axis=1) < 5.0
        rewards = np.where(possible, -np.square(now).sum(axis=1), np.nan)
        return Stepped(next_states=np.where(possible[:, None], after, np.nan), rewards=rewards, restored=possible)

    def close(self) -> None:
        pass


def recorded(rows: int, seed: int = 0) -> dict[str, Any]:
    """Transitions of the spring, without a fault."""
    generator = np.random.default_rng(seed)
    states, actions = generator.normal(size=(rows, 4)), generator.uniform(-1, 1, size=(rows, 2))
    answer = Spring().step(states, actions)
    return {"state": states, "action": actions, "reward": answer.rewards, "next_state": answer.next_states}


def episodes(suite: MetaWorld, task: str, *, seeds: range, noise: float = 0.2, steps: int = 70) -> dict[str, Any]:
    """Transitions of the scripted expert with noise, as `TrajectoryDataset.transitions()` has them."""
    environment, act, generator = suite.make(task), suite.demonstrator(task), np.random.default_rng(0)
    rows = []
    for seed in seeds:
        state = environment.reset(seed)
        for _ in range(steps):
            action = np.clip(act(environment.full_state) + noise * generator.normal(size=4), -1, 1)
            after, reward, *_ = environment.step(action)
            rows.append((state, action, reward, after))
            state = after
    environment.close()
    return dict(zip(("state", "action", "reward", "next_state"), map(np.array, zip(*rows, strict=True)), strict=True))


def test_the_real_data_itself_has_distance_0_and_covers_everything():
    data = recorded(300)
    result = fidelity(data, data, dynamics=Spring())
    assert (result.distance, result.bin_coverage, result.marginal) == (0.0, 1.0, 1.0)
    assert result.pairwise == pytest.approx(1.0)
    assert result.dynamics is not None and result.dynamics.error == 0.0 and result.dynamics.floor == 0.0
    assert (result.reward_error, result.repetition, result.restored) == (0.0, 0.0, 1.0)
    assert 0.5 < result.distance_real < 5.0
    assert json.loads(json.dumps(result.to_dict()))["parts"]["point"]["ratio"] == 0.0


def test_copying_the_state_has_a_ratio_of_1_in_every_part():
    real = recorded(200)
    result = fidelity({**real, "next_state": real["state"]}, real, dynamics=Spring())
    assert result.dynamics.ratio == 1.0
    assert {name: part.ratio for name, part in result.parts.items()} == {"point": 1.0, "previous": 1.0}
    assert result.repetition == pytest.approx(np.abs(real["state"][:, 2:] - real["state"][:, :2]).mean())


def test_noise_on_the_next_state_shows_as_its_variance_over_that_of_the_real_states():
    real = recorded(5000)
    noisy = {**real, "next_state": real["next_state"] + 0.3 * np.random.default_rng(1).normal(size=(5000, 4))}
    result = fidelity(noisy, real, dynamics=Spring(), samples=4000)
    assert result.dynamics.error == pytest.approx(0.09, rel=0.05)
    assert result.rows == 4000


def test_states_that_cannot_be_are_counted_and_in_no_error():
    real = recorded(100)
    synthetic = {name: values.copy() for name, values in real.items()}
    synthetic["state"][:25] += 100.0
    result = fidelity(synthetic, real, dynamics=Spring())
    assert (result.restored, result.restored_real) == (0.75, 1.0)
    assert result.dynamics.error == 0.0


def test_a_blurred_part_is_reported_but_not_in_the_total():
    class Blurred(Spring):
        blurred = ("previous",)

    real = recorded(100)
    wrong = {**real, "next_state": real["next_state"] + np.array([0.0, 0.0, 1.0, 1.0])}
    result = fidelity(wrong, real, dynamics=Blurred())
    assert result.dynamics.error == 0.0 and result.parts["previous"].error > 0.5


def test_without_a_simulator_only_what_needs_it_is_missing():
    result = fidelity(recorded(50, seed=1), recorded(50))
    assert result.dynamics is None and result.restored is None and result.parts == {} and result.repetition is None
    assert result.distance > 0 and 0 < result.bin_coverage <= 1


def test_a_shifted_gaussian_has_the_known_similarity_and_coverage():
    generator = np.random.default_rng(0)
    real, shifted = generator.normal(size=(50_000, 1)), generator.normal(size=(50_000, 1)) + 1.0
    # sup |Phi(x) - Phi(x - 1)| lies at x = 1/2
    assert marginal_similarity(shifted, real) == pytest.approx(1 - (2 * norm.cdf(0.5) - 1), abs=0.01)
    half = np.abs(real)  # hits the bins above the median, 10 of 20
    assert bin_coverage(half, real, bins=20) == pytest.approx(0.5, abs=0.051)
    assert bin_coverage(real + 100.0, real, bins=20) == 0.0


def test_correlations_are_compared_pair_by_pair():
    generator = np.random.default_rng(0)
    x, z = generator.normal(size=(2, 100_000, 1))
    real, opposite, apart = np.hstack([x, x]), np.hstack([x, -x]), np.hstack([x, z])
    assert correlation_similarity(opposite, real) == pytest.approx(0.0)
    assert correlation_similarity(apart, real) == pytest.approx(0.5, abs=0.01)
    assert correlation_similarity(np.hstack([x, 0 * x]), real) == pytest.approx(0.5)


def test_numbers_that_never_vary_are_in_no_coverage():
    real = np.hstack([np.random.default_rng(0).normal(size=(500, 1)), np.full((500, 1), 3.0)])
    other = real + np.array([0.0, 1e-3])
    assert bin_coverage(other, real, bins=20) == marginal_similarity(other, real) == 1.0


def test_nearest_agrees_with_all_distances_and_is_exactly_0_for_a_copy():
    generator = np.random.default_rng(0)
    queries, points = generator.normal(size=(300, 7)), generator.normal(size=(9000, 7))
    queries[5] = points[8500]
    found = nearest(queries, points)
    np.testing.assert_allclose(found, cdist(queries, points).min(axis=1), atol=1e-12)
    assert found[5] == 0.0


def test_the_choice_of_rows_follows_from_the_seed():
    real, synthetic = recorded(400), recorded(400, seed=1)
    first, again, other = (fidelity(synthetic, real, seed=seed, samples=50) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {**d, "state": d["state"][:, :3], "next_state": d["next_state"][:, :3]},
         "synthetic: state: should be 4 numbers, as in the real data, got 3."),
        (lambda d: {**d, "action": d["action"][:, :1]},
         "synthetic: action: should be 2 numbers, as in the real data, got 1."),
        (lambda d: {**d, "next_state": d["next_state"][:-1]},
         "synthetic: next_state: should have shape (20, 4), as its states do, got (19, 4)."),
        (lambda d: {**d, "reward": np.where(np.arange(20) < 3, np.nan, d["reward"])},
         "synthetic: reward: should be finite numbers, got NaN or infinity in 3 rows."),
        (lambda d: {name: values[:0] for name, values in d.items()},
         "synthetic: there are no transitions in it."),
        (lambda d: {"state": d["state"], "action": d["action"]},
         "synthetic: misses reward, next_state; transitions have state, action, reward, next_state."),
        (lambda d: {**d, "task": np.arange(20) // 15},
         "synthetic: should be transitions of one task, got 2 tasks: measure each by itself."),
        (lambda d: {**d, "state": d["state"][0]},
         "synthetic: state: should have shape (N, width), got (4,)."),
    ],
)  # fmt: skip
def test_bad_input_is_refused(change, message):
    with pytest.raises(DataError) as caught:
        fidelity(change(recorded(20)), recorded(20))
    assert str(caught.value) == message


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match=r"^samples: must be at least 2, got 1$"):
        fidelity(recorded(20), recorded(20), samples=1)


def test_a_suite_without_dynamics_says_so():
    with pytest.raises(EnvironmentFault) as caught:
        dynamics_of(Gymnasium(id="Pendulum-v1"), "Pendulum-v1")
    assert str(caught.value).startswith("gymnasium: this suite's simulator cannot be set to a given state")


def test_a_hidden_goal_is_refused():
    with pytest.raises(EnvironmentFault, match=r"^metaworld: with goal_visible: false a state does not tell"):
        dynamics_of(MetaWorld(tasks="reach", goal_visible=False), "reach-v3")


def test_a_picture_without_scikit_learn_says_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(name, name=name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MTDiffError) as caught:
        embed(recorded(20), recorded(20))
    assert str(caught.value) == (
        "t-SNE needs scikit-learn, which is not installed (sklearn.manifold): pip install 'mtdiff[tsne]'."
    )


@pytest.mark.slow
def test_the_picture_keeps_far_apart_what_is(tmp_path):
    pytest.importorskip("sklearn")
    real, far = recorded(60), recorded(60, seed=1)
    far["state"] = far["state"] + 30.0
    plane = embed(far, real, samples=40)
    assert plane.real.shape == plane.synthetic.shape == (40, 2)
    gap = np.linalg.norm(plane.real.mean(axis=0) - plane.synthetic.mean(axis=0))
    assert gap > 2 * plane.real.std(axis=0).max()
    embedding_figure(plane, title="spring").savefig(tmp_path / "plane.png")
    svg = embedding_svg(Embedding(real=plane.real, synthetic=plane.synthetic))
    assert svg.startswith("<svg") and "var(--first)" in svg and "var(--second)" in svg


@pytest.mark.slow
@pytest.mark.parametrize(("task", "floor"), [("pick-place-v3", 0.03), ("door-unlock-v3", 0.03)])
def test_the_real_simulator_confirms_real_transitions_and_no_others(task, floor):
    suite = MetaWorld(tasks=[task])
    real = episodes(suite, task, seeds=range(100, 104))
    dynamics = suite.dynamics(task, episodes=20)
    order = np.random.default_rng(0).permutation(len(real["state"]))
    true = fidelity(real, real, dynamics=dynamics, samples=60)
    shuffled = fidelity({**real, "action": real["action"][order]}, real, dynamics=dynamics, samples=60)
    noisy = {**real, "state": real["state"] + np.random.default_rng(1).normal(size=real["state"].shape)}
    assert fidelity(real, real, dynamics=dynamics, samples=60) == true  # nothing remains of one state in the next
    impossible = fidelity(noisy, real, dynamics=dynamics, samples=20)
    dynamics.close()
    assert true.restored == 1.0 and true.repetition == 0.0
    assert true.dynamics.ratio < floor and math.isclose(true.dynamics.ratio, true.dynamics.floor)
    assert shuffled.dynamics.ratio > 1.5 * true.dynamics.ratio
    assert true.reward_error < 0.1
    assert impossible.restored == 0.0 and impossible.dynamics is None


@pytest.mark.slow
def test_the_dynamics_refuse_what_they_cannot_use():
    dynamics = MetaWorld(tasks="reach").dynamics("reach-v3", episodes=2)
    with pytest.raises(EnvironmentFault, match=r"^reach-v3: states: should have shape \(3, 39\), got \(3, 38\)\.$"):
        dynamics.step(np.zeros((3, 38)), np.zeros((3, 4)))
    with pytest.raises(EnvironmentFault, match=r"^reach-v3: actions: should be finite numbers, got NaN or infinity"):
        dynamics.step(np.zeros((3, 39)), np.full((3, 4), np.nan))
    assert len(dynamics.step(np.zeros((0, 39)), np.zeros((0, 4))).restored) == 0
    assert len(transitions_of(episodes(MetaWorld(tasks="reach"), "reach-v3", seeds=range(1), steps=2), name="x")) == 4
    dynamics.close()
