"""`mtdiff ablate`: what it would do, what it refuses, and a whole study of a toy suite that is killed on its way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mtdiff.errors import DataError, MTDiffError, RecipeError
from mtdiff.recipe import load_recipe, shipped_recipes
from mtdiff.studies.ablate_cells import origin
from mtdiff.studies.ablate_plan import Plan, make_plan
from mtdiff.studies.ablate_study import ablate
from mtdiff.studies.cells import Results

MINE = """
extends: quickstart
vary:
  backbone: {gpt2: {}, mlp: {name: residual_mlp, width: 64}}
  sampling.execute: [1, 4]
  seed: [0, 1]
ablation:
  rows: {blind: {conditioning.task: null}}
  exclude: [{backbone: mlp, sampling.execute: 1}]
"""


def plan(tmp_path: Path, text: str = MINE, *overrides: str) -> Plan:
    (tmp_path / "mine.yaml").write_text(text)
    return make_plan(load_recipe(tmp_path / "mine.yaml", overrides), overrides=overrides)


def test_a_grid_has_rows_that_pool_seeds_and_cells_seed_by_seed(tmp_path: Path) -> None:
    found = plan(tmp_path)
    rows = ["backbone=gpt2, execute=1", "backbone=gpt2, execute=4", "backbone=mlp, execute=4", "blind"]
    assert list(found.planned) == rows and set(found.planned.values()) == {2}
    assert [(one.index, one.variant.row, one.variant.repetition) for one in found.places] == [
        (4 * seed + number, row, f"seed={seed}") for seed in (0, 1) for number, row in enumerate(rows)
    ]
    assert found.reference == rows[0]
    assert found.places[3].variant.recipe.get("conditioning") == {
        "history": load_recipe("quickstart").get("conditioning.history")
    }
    assert not any("ablation" in one.training.values for one in found.places), "or runs would keep it"


def test_cells_that_only_sample_otherwise_share_a_training(tmp_path: Path) -> None:
    found = plan(tmp_path)
    one, other = found.places[:2]
    assert one.training.values == other.training.values and one.cell.hash != other.cell.hash
    assert len({place.training.hash() for place in found.places}) == 6 and len(found.places) == 8
    order = [place.training.hash() for place in found.chosen(index=None, only=None)]
    assert len(set(order[:6])) == 6, "jobs would wait for each other's trainings"


def test_a_cell_is_the_same_whatever_row_it_is_in_and_whoever_evaluates(tmp_path: Path) -> None:
    hashes = {place.cell.hash for place in plan(tmp_path).places}
    again = plan(tmp_path, MINE.replace("gpt2: {}", "mine: {name: gpt2}"), "evaluation.videos=false", "vary.seed=[1]")
    assert {place.cell.hash for place in again.places} <= hashes
    other = plan(tmp_path, MINE, "evaluation.episodes_per_task=3")
    assert not {place.cell.hash for place in other.places} & hashes


def test_rows_alone_make_a_grid(tmp_path: Path) -> None:
    text = "extends: quickstart\nvary: {seed: [3, 4]}\nablation: {rows: {small: {backbone.width: 64}, same: {}}}\n"
    found = plan(tmp_path, text)
    assert found.planned == {"small": 2, "same": 2}
    assert [one.variant.recipe.get("seed") for one in found.places] == [3, 3, 4, 4]
    goals = "extends: quickstart\nvary: {evaluation.seed: [3, 4]}\nablation: {pool: [evaluation.seed]}\n"
    assert plan(tmp_path, goals).planned == {"mine": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("rows: {blind:", "rows: {backbone=mlp, execute=4:"), None),
        (("execute: 1}]", "execute: 2}]"), "ablation.exclude.0.sampling.execute: unknown value '2'. Allowed: 1, 4."),
        (("exclude: [{backbone:", "exclude: [{bakbone:"),
         "ablation.exclude.0: unknown axis 'bakbone'. Allowed: backbone, sampling.execute, seed. "
         "Did you mean 'backbone'?"),
        (("exclude: [{backbone: mlp, sampling.execute: 1}]", "exclude: [{seed: [0, 1]}]"),
         "ablation.exclude: leaves nothing of the grid."),
        (("conditioning.task: null", "seed: 7"),
         "ablation.rows.blind.seed: every row has all values of this axis; leave it out."),
        (("ablation:", "ablation:\n  pool: [sed]"),
         "ablation.pool.0: unknown axis 'sed'. Allowed: backbone, sampling.execute, seed. Did you mean 'seed'?"),
        (("ablation:", "ablation:\n  reference: blnd"),
         "ablation.reference: unknown row 'blnd'. Allowed: backbone=gpt2, execute=1, backbone=gpt2, execute=4, "
         "backbone=mlp, execute=4, blind. Did you mean 'blind'?"),
        (("ablation:", "ablation:\n  poll: [seed]"), "ablation.poll: ablation takes no 'poll'."),
    ],
)  # fmt: skip
def test_what_cannot_be_a_grid_is_refused_with_its_line(
    change: tuple[str, str], message: str | None, tmp_path: Path
) -> None:
    text = MINE.replace(*change)
    assert text != MINE
    if message is None:
        text = MINE.replace("{blind: {", '{"backbone=mlp, execute=4": {')
        message = (
            "ablation.rows.backbone=mlp, execute=4: a row of the grid is called so too; give this one another name."
        )
    with pytest.raises(RecipeError) as refused:
        plan(tmp_path, text)
    assert message in str(refused.value) and "mine.yaml:" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: quickstart\n",
         "mine: has neither 'vary:' nor 'ablation.rows', which say what `mtdiff ablate` compares."),
        ("extends: quickstart\nvary: {seed: [0], backbone.width: [64, 31]}\n",
         "mine: vary, seed=0, backbone.width=31: command line: backbone.width: "),
        ("extends: quickstart\nvary: {seed: [0], backbone.num_layers: []}\n",
         "mine: vary.backbone.num_layers: should be a list of values, or values by name, got []."),
        ("extends: quickstart\nvary: {backbone: {one: gpt2, two: {name: gpt2}}}\n",
         "mine: vary, backbone=two: is the same as backbone=one; leave one out."),
        ("extends: quickstart\nvary: {sampling.prompts_per_task: [5, 10]}\n",
         "mine: vary, prompts_per_task=10: sampling.prompts_per_task: is 10, and 5 in prompts_per_task=5, which is the "
         "same training; a trained planner keeps its prompts."),
        ("extends: metaworld/synthesizer_mt10\nvary: {seed: [0]}\n",
         "mine: vary, seed=0: pipeline: should be planner or policy, which can act, got synthesizer."),
    ],
)  # fmt: skip
def test_a_grid_of_what_cannot_be_compared_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        plan(tmp_path, text)
    assert str(refused.value).startswith(message)


def test_there_are_only_the_cells_that_there_are(tmp_path: Path) -> None:
    found = plan(tmp_path)
    with pytest.raises(MTDiffError, match=r"^index: should be from 0 to 7, got 8\.$"):
        found.chosen(index=8, only=None)
    with pytest.raises(MTDiffError, match=r"^only: unknown row 'blid'\. Allowed: .* Did you mean 'blind'\?$"):
        found.chosen(index=None, only=["blid"])
    assert [one.index for one in found.chosen(index=None, only=["blind"])] == [3, 7]


def finished(found: Plan, folder: Path, **made: str) -> Results:
    """Results of all cells of a plan, of this code and of one dataset, but for what `made` says of the first."""
    store = Results(folder)
    training = {"run": "r", "updates": 9, "seconds": 9.0, "parameters": 9}
    for place in found.places:
        origins = {**origin(), "data": "d" * 16, "hardware": "h", **(made if place.index == 0 else {})}
        episodes = {"reach-v3": {"goals": [1, 2], "success": [0, place.index % 2], "return": [0.0, 1.0]}}
        result = {"measure": "success", "episodes": episodes, "training": training, "plan_seconds": 0.01}
        store.save(place.cell, {**result, "loss": [[3, 0.5], [9, 0.4]], "val_loss": [], "made": origins}, 1.0)
    return store


def test_results_of_other_code_or_data_are_refused(tmp_path: Path) -> None:
    found, here = plan(tmp_path), origin()
    for made, told in (
        (
            {"code": "0"},
            f"code of a planner: mtdiff {here['mtdiff']}, 0 (FIRST); mtdiff {here['mtdiff']}, {here['code']} (OTHERS)",
        ),
        (
            {"mtdiff": "9.9"},
            f"code of a planner: mtdiff 9.9, {here['code']} (FIRST); mtdiff {here['mtdiff']}, {here['code']} (OTHERS)",
        ),
        ({"data": "e" * 16}, "data: eeeeeeeeeeee (FIRST); dddddddddddd (OTHERS)"),
    ):
        store = finished(found, tmp_path / "results", **made)
        first, second, third, *_ = (str(store.path(place.cell)) for place in found.places)
        told = told.replace("FIRST", first).replace("OTHERS", f"{second}, {third} and 5 more")
        with pytest.raises(DataError) as refused:
            ablate(found, root=tmp_path, results=store.folder, report=True)
        assert str(refused.value) == (
            f"{store.folder}: results that differ in more than the recipe would be in one table:\n  {told}\n"
            "Keep them apart with --results DIR, remove those that should be measured again, or take them together "
            "with --mix, which the page then says."
        )
        study, page = ablate(found, root=tmp_path, results=store.folder, report=True, mix=True)
        assert study.mixed == [told] and "(--mix)" in page.read_text()
    store = finished(found, tmp_path / "results")
    study, page = ablate(found, root=tmp_path, results=store.folder, report=True)
    assert not study.mixed and [row.runs for row in study.rows] == [2, 2, 2, 2]
    states = [cell["state"] for cell in found.document(store, tmp_path)["cells"]]
    assert states == ["done"] * 8
    store.path(found.places[3].cell).unlink()
    cell = found.document(store, tmp_path)["cells"][3]
    assert (cell["state"], cell["row"], cell["index"]) == ("to train", "blind", 3)
    assert cell["command"].endswith(f"mine.yaml --index 3 --results {store.folder} --output {tmp_path}")


READY = [name for name in shipped_recipes() if name.startswith("ablations/")]


@pytest.mark.slow
@pytest.mark.parametrize("name", READY)
def test_a_ready_grid_can_be_run(name: str, tmp_path: Path) -> None:
    found = make_plan(load_recipe(name, ["vary.seed=[0]"]), root=tmp_path)
    assert len(found.planned) > 1 and set(found.planned.values()) == {1}
    base = load_recipe("metaworld/planner_mt10")
    for place in found.places:
        mine, size = place.training, len(place.training.build("suite").tasks)
        assert mine.get("training.updates") == base.get("training.updates")
        assert size * mine.get("training.batch_per_task") == 10 * base.get("training.batch_per_task")


def test_there_are_twelve_ready_grids() -> None:
    assert len(READY) == 12


TOY = """
extends: presets/default
imports: [toy_suite]
suite: {name: toy, tasks: [towards, mirrored]}
data: {name: collected, quality: expert, trajectories_per_task: 6, prompts_per_task: 2, prompt_min_steps: 4}
representation: {name: actions, horizon: 4}
conditioning:
  task: {name: trajectory_prompt, length: 3, hidden: [8]}
  history: {name: history, length: 1, hidden: [8]}
  return: null
backbone: {name: residual_mlp, width: 16, num_layers: 1}
scheduler: {name: ddpm, num_train_timesteps: 20, prediction_type: sample}
sampling: {num_inference_steps: 2, guidance_scale: 1.0, prompts_per_task: 2, execute: 2}
training: {updates: 60, batch_per_task: 4, log_every: 20, validate_every: 20, checkpoint_every: 20, log_with: [],
  validation: 0.2}
evaluation: {episodes_per_task: 3, workers: 1, max_steps: 10}
vary:
  conditioning.task: {prompt: {}, none: null}
  sampling.num_inference_steps: [1, 2]
  seed: [0, 1]
ablation: {exclude: [{conditioning.task: none, sampling.num_inference_steps: 1}]}
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mtdiff", "ablate", "toy.yaml", *arguments, "--json"]


def surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}


def run(folder: Path, *arguments: str) -> tuple[Any, str]:
    done = subprocess.run(
        command(*arguments), cwd=folder, env=surroundings(), capture_output=True, text=True, timeout=600
    )
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_whole_study(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(TOY)
    # Killed without warning once the first cell is finished: nothing of it is lost, and nothing half done is kept.
    with subprocess.Popen(
        command(), cwd=tmp_path, env=surroundings(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as killed:
        end = time.monotonic() + 600
        while not list((tmp_path / "results").glob("*.json")) and time.monotonic() < end:
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*.json")}
    assert len(before) >= 1
    alone, said = run(tmp_path, "--index", "2")
    assert alone["index"] == 2 and (tmp_path / alone["result"]).is_file(), said
    assert not list((tmp_path / "outputs" / "studies").glob("*/report.html")), "one job of many writes no page"
    study, said = run(tmp_path)
    assert study["cells"] == {"finished": 6, "all": 6} and not study["failed"], said
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished cells were measured again"
    runs = [path.name for path in (tmp_path / "outputs" / "runs").iterdir() if path.is_dir()]
    assert len(runs) == 4, "cells that sample otherwise share a training"
    rows = {row["label"]: row for row in study["rows"]}
    assert list(rows) == ["task=prompt, num_inference_steps=1", "task=prompt, num_inference_steps=2",
                          "task=none, num_inference_steps=2"]  # fmt: skip
    assert all(row["runs"] == 2 and row["updates"] == 60 and row["plan"] > 0 for row in rows.values())
    reference = rows[study["reference"]]
    blind = rows["task=none, num_inference_steps=2"]
    assert reference["difference"] is None and blind["parameters"] < reference["parameters"]
    assert blind["difference"] == pytest.approx(blind["score"] - reference["score"])
    page = Path(tmp_path / study["report"])
    assert "what makes a difference?" in page.read_text() and page.read_text().count("<svg") == 2
    assert all((page.parent / name).is_file() for name in ("table.md", "table.csv", "table.tex", "study.json"))

    # A training that cannot go on stops no other cell, and its log says all; what was mixed is told on the page.
    path = tmp_path / alone["result"]
    kept = json.loads(path.read_text())
    kept["result"]["made"]["code"] = "another"
    path.write_text(json.dumps(kept))
    wild = "ablation={rows: {wild: {training.learning_rate: 1e30}}}"
    study, said = run(tmp_path, wild, "vary.seed=[0]", "--only", "wild", "--mix")
    assert study["cells"] == {"finished": 3, "all": 4} and list(study["failed"]) == ["wild, seed=0"], said
    why, _, log = study["failed"]["wild, seed=0"].rpartition("\nlog: ")
    assert "not finite" in why and "Traceback" in (tmp_path / log).read_text()
    page = Path(tmp_path / study["report"])
    assert "wild, seed=0" in page.read_text() and "--mix" in page.read_text() and len(study["mixed"]) == 1
