"""`mtdiff augment`: what it would do, what it refuses, and a whole study of a toy suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mtdiff.errors import RecipeError
from mtdiff.recipe import load_recipe
from mtdiff.studies.augment_plan import Plan, make_plan

MINE = """
extends: metaworld/synthesizer_mt10
suite: {tasks: [reach, push, door-open]}
data: {trajectories_per_task: 30, prompts_per_task: 2, seed: 5}
augment: {targets: [door-lock-v3, push-v3], episodes: 4, reference_episodes: 6}
augmentations:
  RAD: rad
  MTDiff-S: synthesizer
  SynthER: {name: synthesizer, recipe: metaworld/synther, trained_on: target}
"""


def plan(tmp_path: Path, *overrides: str, text: str = MINE) -> Plan:
    (tmp_path / "mine.yaml").write_text(text)
    return make_plan(load_recipe(tmp_path / "mine.yaml", overrides))


def test_targets_are_poor_and_the_other_tasks_are_rich(tmp_path: Path) -> None:
    found = plan(tmp_path)
    assert [(target.task, target.seen) for target in found.targets] == [("push-v3", True), ("door-lock-v3", False)]
    assert list(found.augmentations) == ["original", "MTDiff-S", "RAD", "SynthER"]
    for target in found.targets:
        assert target.data.get("suite.tasks") == [target.task] == target.reference.get("suite.tasks")
        assert (target.data.get("data.trajectories_per_task"), target.data.get("data.seed")) == (4, 5)
        assert (target.reference.get("data.trajectories_per_task"), target.reference.get("data.seed")) == (6, 6)
    everyone = found.synthesizers["MTDiff-S"]
    assert everyone["push-v3"].hash() == everyone["door-lock-v3"].hash(), "one synthesizer serves all targets"
    assert everyone["push-v3"].get("data.fewer") == {"push-v3": 4}
    assert everyone["push-v3"].get("data.trajectories_per_task") == 30
    assert everyone["push-v3"].get("suite.tasks") == ["reach", "push", "door-open"]
    alone = found.synthesizers["SynthER"]
    assert alone["push-v3"].get("backbone.name") == "residual_mlp" and alone["push-v3"].get("conditioning") == {}
    for target in found.targets:
        assert alone[target.task].get("suite.tasks") == [target.task]
        assert alone[target.task].values["data"] == target.data.values["data"]
    assert len(found.trainings()) == 3
    assert not {"augment", "augmentations"} & set(everyone["push-v3"].values), "or its hash would change with them"


def test_what_is_said_before_it_is_done(tmp_path: Path) -> None:
    document = plan(tmp_path).document(tmp_path)
    assert document["targets"] == {"push-v3": "seen", "door-lock-v3": "unseen"}
    assert [one["what"] for one in document["collect"]] == [
        "push-v3, data", "push-v3, reference", "door-lock-v3, data", "door-lock-v3, reference",
    ]  # fmt: skip
    assert document["train"][0]["for"] == ["MTDiff-S for push-v3", "MTDiff-S for door-lock-v3"]
    assert document["measure"]["learners"] == 2 * 4 * 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["augment.targets=[psuh-v3]"], "augment.targets: unknown task 'psuh-v3'"),
        (["augment.targets=[]"], "augment.targets: should be at least one task, got none."),
        (["augment.targets=[reach-v3,reach-v3]"], "augment.targets: reach-v3 is there twice."),
        (["augment.seeds=1"], "augment.seeds: should be at least 2, got 1."),
        (["augment.synthetic_per_real=0"], "augment.synthetic_per_real: should be above 0, got 0.0."),
        (["augment.learner=td3"], "augment.learner.name: unknown learner 'td3'. Allowed: iql, td3_bc."),
        (["augmentations.RAD=rd"], "augmentations.RAD.name: unknown augmentation 'rd'."),
        (["augmentations.SynthER.recipe=metaworld/sinther"],
         "augmentations.SynthER.recipe: no recipe at metaworld/sinther. Did you mean"),
        (["augmentations.SynthER.recipe=quickstart"],
         "augmentations.SynthER.recipe: should be a synthesizer's, got a planner's."),
        (["data={name: folder, path: there}"], "data: should be collected, got folder: some tasks get less."),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        plan(tmp_path, *overrides)
    assert message in str(refused.value)


def test_a_recipe_without_a_comparison_is_refused() -> None:
    with pytest.raises(RecipeError) as refused:
        make_plan(load_recipe("metaworld/synthesizer_mt10"))
    assert str(refused.value) == (
        "synthesizer_mt10: has no section 'augment:', which says what `mtdiff augment` compares."
    )


TOY = """
extends: presets/synthesizer
imports: [toy_suite]
suite: {name: toy, tasks: [towards, mirrored]}
data: {name: collected, quality: near_optimal, trajectories_per_task: 8, prompts_per_task: 2, prompt_min_steps: 4}
representation: {name: transitions, horizon: 4}
conditioning: {task: {name: trajectory_prompt, length: 3, hidden: [8]}}
backbone: {name: residual_mlp, width: 16, num_layers: 1}
scheduler: {name: ddpm, num_train_timesteps: 20, prediction_type: sample}
sampling: {num_inference_steps: 4}
training: {updates: 30, validation: 0}
augment: {targets: [mirrored], episodes: 3, updates: 60, seeds: 2, episodes_per_seed: 4, reference_episodes: 4,
  learner: {name: td3_bc, hidden: [16]}, fidelity_samples: 60}
augmentations: {duplicate: duplicate, RAD: rad, MTDiff-S: synthesizer}
"""


def run(tmp_path: Path, *arguments: str) -> tuple[Any, str]:
    command = [sys.executable, "-m", "mtdiff", "augment", *arguments, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_whole_study(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(TOY)
    first, said = run(tmp_path, "toy.yaml", "--only", "original", "--only", "RAD")
    (study,) = first["studies"]
    assert study["cells"] == {"finished": 2 + 4, "all": 3 + 6}, said  # MTDiff-S is not trained yet: it has no cells
    assert not study["failed"], study["failed"]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    assert len(files) == 6
    second, said = run(tmp_path, "toy.yaml", "--jobs", "2")
    (study,) = second["studies"]
    assert study["cells"] == {"finished": 12, "all": 12} and not study["failed"], said
    assert {path: path.stat().st_mtime_ns for path in files} == files, "finished cells were measured again"
    labels = {row["label"] for row in study["success"]["all targets"]}
    assert labels == {"original", "duplicate", "RAD", "MTDiff-S"}
    truths = {row["label"]: row for row in study["fidelity"]["mirrored"]}
    assert set(truths) == labels
    assert truths["MTDiff-S"]["dynamics"] is None, "this suite's simulator cannot be set to a state"
    assert truths["RAD"]["distance"] > truths["duplicate"]["distance"]
    page = Path(tmp_path / second["report"]).read_text()
    assert "does synthetic data help?" in page and page.count("<svg") == 3, "two groups, one picture"
    for name in ("table.md", "learners.csv", "study.json"):
        assert (Path(tmp_path / second["report"]).parent / name).is_file()
    cell = next(json.loads(p.read_text()) for p in files if "learn" in json.loads(p.read_text())["measure"])
    assert len(cell["result"]["success"]) == 4 and cell["result"]["written"] == 0

    (tmp_path / "grid.yaml").write_text("extends: toy.yaml\nvary: {augment.episodes: {few: 3, more: 5}}\n")
    third, said = run(tmp_path, "grid.yaml", "--only", "original", "--only", "duplicate")
    assert [study["variant"] for study in third["studies"]] == [
        {"augment.episodes": "few"}, {"augment.episodes": "more"},
    ], said  # fmt: skip
    new = set((tmp_path / "results").iterdir()) - set(files)
    assert len(new) == 6 + 6, "what both studies share was measured once"
    page = Path(tmp_path / third["report"]).read_text()
    assert "episodes=few/report.html" in page and "episodes=more/report.html" in page
    assert (Path(tmp_path / third["report"]).parent / "episodes=more" / "report.html").is_file()
