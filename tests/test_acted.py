"""Data in which policies of several lengths of training act: what they note, who acted, what is refused."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from mtdiff.collection import collect
from mtdiff.data.sources.acted import Acted
from mtdiff.data.sources.collected import Collected
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments.metaworld import MetaWorld
from mtdiff.errors import EnvironmentFault, MTDiffError, RecipeError
from mtdiff.hub import load
from mtdiff.pipelines import AGENTS
from mtdiff.recipe import load_recipe
from mtdiff.run_data import collect_data

TEACHER = {
    "extends": "baselines/mtbc",
    "data": {"trajectories_per_task": 4, "prompts_per_task": 0},
    "policy": {"width": 8, "hidden": [16]},
    "training": {"batch_per_task": 8, "validate_every": 5, "checkpoint_every": 100, "log_with": []},
}
ARGUMENTS = {"updates": [2, 5], "trajectories_per_task": 4, "prompts_per_task": 1, "steps": 12, "noise": 0.1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the recipe, the folder of data and runs, the summary); tests must not change it."""
    place = tmp_path_factory.mktemp("acted")
    (place / "teacher.yaml").write_text(yaml.safe_dump(TEACHER))
    recipe = load_recipe({
        "extends": "baselines/mtbc",
        "suite": {"tasks": ["reach", "door-open"]},
        "data": {"name": "acted", "recipe": str(place / "teacher.yaml"), **ARGUMENTS},
    })  # fmt: skip
    return recipe, place / "outputs", collect_data(recipe, root=place / "outputs", workers=1, progress=False)


def test_episodes_say_how_long_was_trained(made):
    _, _, summary = made
    data = TrajectoryDataset.load(summary["folder"])
    assert data.of_task("door-open-v3").labels["updates"] == [2, 2, 5, 5]
    assert set(data.labels["sigma"]) == {0.1}
    assert set(data.lengths) == {12}
    assert summary["prompts"] == 2


def test_the_recipe_is_trained_on_the_suite_for_every_length(made):
    recipe, root, _ = made
    runs = sorted(root.glob("runs/teacher-*"))
    trained = {load_recipe(run / "recipe.yaml").get("training.updates"): run for run in runs}
    assert set(trained) == {2, 5}
    assert load_recipe(trained[2] / "recipe.yaml").get("suite.tasks") == recipe.build("suite").tasks


def test_actions_are_those_of_what_was_trained_and_noise(made):
    _, root, summary = made
    episode = TrajectoryDataset.load(summary["folder"]).of_task("reach-v3")[3]
    run = next(r for r in root.glob("runs/teacher-*") if load_recipe(r / "recipe.yaml").get("training.updates") == 5)
    agent = AGENTS["policy"](load(run))
    agent.reset(["reach-v3"], [episode.labels["seed"]])
    chosen = np.concatenate([agent.act(state[None], np.zeros(1, dtype=int)) for state in episode.states[:-1]])
    noise = np.random.default_rng([episode.labels["seed"], 1]).normal(size=chosen.shape) * 0.1
    np.testing.assert_allclose(episode.actions, np.clip(chosen + noise, -1, 1), atol=1e-6)


def test_prompts_are_the_scripted_experts(made):
    _, _, summary = made
    suite = MetaWorld(tasks=["reach"])
    expert = Collected(trajectories_per_task=4, prompts_per_task=1)
    with_expert = expert.record(
        suite, suite.make("reach-v3"), suite.demonstrator("reach-v3"), split="prompts", episode=0
    )
    shown = TrajectoryDataset.load(summary["folder"], split="prompts").of_task("reach-v3")[0]
    np.testing.assert_array_equal(shown.actions, with_expert.actions)


def test_nothing_is_trained_or_recorded_twice(made):
    recipe, root, summary = made
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    again = collect_data(recipe, root=root, workers=1, progress=False)
    assert again["collected"] == 0
    assert again["fingerprints"] == summary["fingerprints"]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


def test_the_card_says_who_acted(made):
    _, _, summary = made
    card = " ".join((Path(summary["folder"]) / "README.md").read_text().split())
    assert "had learnt after [2, 5] updates" in card
    assert "not the replay buffer of a reinforcement learner" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": " "}, "data.recipe: should be a recipe's name or path, got nothing"),
        ({"updates": ()}, r"data.updates: should be one number or more, each at least 1, got \[\]"),
        ({"updates": (10, 0)}, r"data.updates: should be .* got \[10, 0\]"),
        ({"noise": -1.0}, "data.noise: should be at least 0, got -1.0"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(RecipeError, match=message):
        Acted(**{"recipe": "baselines/mtbc", **arguments})


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("baselines/mtbcc", "no recipe 'baselines/mtbcc'.*Did you mean 'baselines/mtbc'"),
        ("tables/table1_mt10_cloned", "should learn from data of another source, got acted"),
        ("metaworld/synthesizer_mt10", "trains a synthesizer, and only a planner or policy acts"),
    ],
)
def test_refused_before_anything_is_made(recipe, message, tmp_path):
    wanted = load_recipe({
        "extends": "baselines/mtbc",
        "suite": {"tasks": ["reach"]},
        "data": {"name": "acted", "recipe": recipe},
    })  # fmt: skip
    with pytest.raises(MTDiffError, match=message):
        collect_data(wanted, root=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_several_processes_are_sent_to_collect_first(monkeypatch, tmp_path):
    monkeypatch.setattr("mtdiff.world.join", lambda: SimpleNamespace(num_processes=2))
    wanted = load_recipe({"extends": "baselines/mtbc", "data": {"name": "acted", "recipe": "baselines/mtbc"}})
    with pytest.raises(
        MTDiffError, match="acted trains what acts, which cannot be done among 2 processes. Collect first"
    ):
        collect_data(wanted, root=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_it_cannot_act_before_it_was_trained(tmp_path):
    source = Acted(recipe="baselines/mtbc", **ARGUMENTS)
    with pytest.raises(EnvironmentFault, match="data.recipe: baselines/mtbc should be trained before it acts"):
        collect(suite=MetaWorld(tasks=["reach"]), source=source, folder=tmp_path / "data", workers=1, progress=False)
