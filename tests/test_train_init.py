"""Training from Python: data handed over, recipes as mappings, and the weights of another run to begin with."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import mtdiff
from mtdiff.cli import app
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError, MTDiffError
from mtdiff.recipe import load_recipe
from mtdiff.runs import Run
from mtdiff.training.warm_start import warm_start

RECIPE = {
    "suite": {"name": "offline", "tasks": ["reach-v3", "push-v3"], "state_dim": 5, "action_dim": 2},
    "representation": {"name": "actions", "horizon": 4},
    "conditioning": {
        "task": {"name": "trajectory_prompt", "length": 4, "hidden": [16]},
        "history": {"name": "history", "length": 2, "hidden": [16]},
    },
    "backbone": {"name": "residual_mlp", "width": 16, "num_layers": 1},
    "scheduler": {"name": "ddpm", "num_train_timesteps": 20},
    "sampling": {"num_inference_steps": 3, "prompts_per_task": 2, "guidance_scale": 1.0, "execute": 2},
    "training": {
        "updates": 4, "batch_per_task": 2, "log_every": 2, "checkpoint_every": 2, "validation": 0.0, "log_with": [],
    },
}  # fmt: skip


def recipe(**changes):
    changed = copy.deepcopy(RECIPE)
    for place, value in changes.items():
        section, _, key = place.partition("__")
        if key:
            changed[section][key] = value
        else:
            changed[section] = value
    return changed


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def run(root, dataset, prompts):
    return mtdiff.train(recipe(), dataset=dataset, prompts=prompts, root=root)


def tensors(pipeline):
    parts = {"backbone": pipeline.backbone, "conditioning": pipeline.conditioning}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def test_a_program_hands_its_data_over(run, root, dataset, prompts):
    assert run.complete and not run.reused
    assert not (root / "data").exists(), "nothing is copied"
    fingerprint = dataset.fingerprint + prompts.fingerprint
    assert run.info["data"] == {
        "folder": None, "fingerprint": fingerprint, "tasks": ["reach-v3", "push-v3"], "episodes": 8,
        "steps": dataset.num_steps,
    }  # fmt: skip
    assert run.recipe.values["data"] == {"name": "given"}
    assert run.info["hash"] == run.recipe.hash(fingerprint)
    pipe = mtdiff.load(run.folder)
    assert pipe(prompt="push-v3", history=np.zeros((1, 5)), generator=torch.Generator()).actions.shape == (1, 4, 2)


def test_data_that_were_handed_over_before_are_recognised(run, root, dataset, prompts):
    before = (run.folder / "run.json").stat().st_mtime_ns
    again = mtdiff.train(recipe(), dataset=dataset.subset(np.arange(8)), prompts=prompts, root=root)
    assert again == run and again.reused
    same = mtdiff.train(load_recipe(recipe()), dataset=dataset, prompts=prompts, root=root)
    assert same == run and same.reused
    assert (run.folder / "run.json").stat().st_mtime_ns == before
    other = mtdiff.train(recipe(training__updates=1), dataset=dataset.subset([0, 1, 2]), prompts=prompts, root=root)
    assert other != run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite__state_dim": 39}, "dataset: states and actions should have 39 and 2 numbers, as those of suite "
         "'offline' have, got 5 and 2. These are the data of another suite."),
        ({"suite__tasks": ["push-v3", "rich-v3"]}, "dataset: unknown task 'reach-v3'. Allowed: push-v3, rich-v3. "
         "Did you mean 'rich-v3'?"),
    ],
)  # fmt: skip
def test_data_of_another_suite(root, dataset, prompts, change, message):
    with pytest.raises(DataError) as caught:
        mtdiff.train(recipe(**change), dataset=dataset, prompts=prompts, root=root)
    assert str(caught.value) == message


def test_what_only_a_program_can_train(run, root, prompts):
    with pytest.raises(DataError, match=r"^data: 'given' means trajectories that a program hands over: mtdiff.train\("):
        mtdiff.train(run.folder / "recipe.yaml", root=root)
    with pytest.raises(MTDiffError) as caught:
        mtdiff.train(recipe(), prompts=prompts, root=root)
    assert str(caught.value) == "train: prompts were handed over without a dataset that they go with"


def test_a_saved_folder_holds_the_data_that_were_handed_over(run, root, dataset, prompts, tmp_path):
    dataset.save(tmp_path / "d", prompts=prompts)
    other = mtdiff.train(recipe(data={"name": "folder", "path": str(tmp_path / "d")}), root=root)
    assert other.info["data"] == run.info["data"] | {
        "folder": str(tmp_path / "d"),
        "fingerprint": dataset.fingerprint + TrajectoryDataset.load(tmp_path / "d", split="prompts").fingerprint,
    }
    assert other.complete


def start(root, dataset, prompts, source, **changes):
    return mtdiff.train(recipe(**changes), dataset=dataset, prompts=prompts, root=root, init=source)


def test_a_run_that_begins_with_the_weights_of_another(run, root, dataset, prompts, capfd):
    begun = start(root, dataset, prompts, run.folder, training__learning_rate=1e-12, training__ema_decay=0.0)
    assert begun != run, "it is another run"
    said = begun.info["init"]
    assert (said["source"], said["normalizer"], said["left"], said["unused"]) == (str(run.folder), True, [], [])
    old, new = tensors(mtdiff.load(run.folder)), tensors(mtdiff.load(begun.folder))
    assert said["taken"] == len(old)
    assert all(torch.allclose(old[name], new[name], atol=1e-6) for name in old)
    assert f"init: {len(old)} tensors of {run.folder} taken over\n" in capfd.readouterr().err
    same = start(root, dataset, prompts, run.pipeline, training__learning_rate=1e-12, training__ema_decay=0.0)
    assert same == begun and same.reused, "the content counts, not the path"
    plain = mtdiff.train(
        recipe(training__learning_rate=1e-12, training__ema_decay=0.0), dataset=dataset, prompts=prompts, root=root
    )
    assert plain != begun


def test_what_has_no_place_in_the_source_begins_at_random(run, root, dataset, prompts, capfd):
    conditioning = copy.deepcopy(RECIPE["conditioning"])
    del conditioning["history"]
    conditioning["task"]["hidden"] = [8]
    begun = start(root, dataset, prompts, run.folder, conditioning=conditioning, training__updates=1)
    said = begun.info["init"]
    old, new = tensors(mtdiff.load(run.folder)), tensors(mtdiff.load(begun.folder))
    assert {name.partition(" (")[0] for name in said["left"]} == {
        name for name in new if name not in old or old[name].shape != new[name].shape
    }
    assert said["unused"] == [name for name in old if name not in new]
    assert any("there, " in name for name in said["left"])
    assert f"init: {len(said['left'])} begin at random: " in capfd.readouterr().err


def test_weights_that_do_not_fit_are_refused(run, root, dataset, prompts):
    with pytest.raises(MTDiffError) as caught:
        start(
            root, dataset, prompts, run.folder, backbone={"name": "gpt2", "width": 16, "num_layers": 1, "num_heads": 2}
        )
    assert str(caught.value) == (
        f"init: {run.folder} has the backbone ResidualMLPBackbone, and the recipe has GPT2Backbone. Take its backbone."
    )
    old = tensors(mtdiff.load(run.folder))
    with pytest.raises(MTDiffError) as caught:
        start(root, dataset, prompts, run.folder, backbone={"name": "residual_mlp", "width": 24, "num_layers": 1})
    said = str(caught.value)
    assert said.startswith(f"init: the backbone of {run.folder} does not fit this recipe's: ")
    first = said.partition("The first that has none: ")[2].partition(" ")[0]
    assert f"The first that has none: {first} ({tuple(old[first].shape)} there, (" in said
    with pytest.raises(MTDiffError, match=r"^nowhere: no such run or pipeline folder, and not a repository id"):
        start(root, dataset, prompts, "nowhere")


def test_the_normaliser_comes_with_the_weights(run, dataset, prompts):
    from mtdiff.compose import compose

    spread = TrajectoryDataset.from_trajectories([
        mtdiff.Trajectory(**{**vars(dataset[e]), "states": 3 * dataset[e].states + 1}) for e in range(len(dataset))
    ])  # fmt: skip
    made = load_recipe(recipe(), ["data=given"]).values
    new, _ = compose(made, spread, prompts)
    assert not torch.allclose(new.normalizer.state_scale, mtdiff.load(run.folder).normalizer.state_scale)
    warm_start(new, run.folder, spread)
    old = mtdiff.load(run.folder)
    assert torch.equal(new.normalizer.state_scale, old.normalizer.state_scale)
    history, generators = np.ones((1, 5)), [torch.Generator().manual_seed(1) for _ in range(2)]
    plans = [
        pipe(prompt=old.prompts["push-v3"][0], history=history, generator=g).actions
        for pipe, g in zip((old, new), generators, strict=True)
    ]
    assert torch.equal(*plans), "before any update it plans as its source does"


def test_an_interrupted_run_with_other_weights_goes_on_equal(run, root, dataset, prompts):
    whole = start(root, dataset, prompts, run.folder, seed=1)
    folder, trained = whole.folder, tensors(mtdiff.load(whole.folder))
    for later in (folder / "checkpoints").iterdir():
        if later.name != "checkpoint-2":
            shutil.rmtree(later)
    (folder / "run.json").write_text(json.dumps(whole.info | {"complete": False}))
    with pytest.raises(MTDiffError, match=r"holds an interrupted training of this recipe"):
        start(root, dataset, prompts, run.folder, seed=1)
    resumed = mtdiff.train(recipe(seed=1), dataset=dataset, prompts=prompts, root=root, init=run.folder, resume=True)
    assert resumed == Run(folder) and not resumed.reused
    again = tensors(mtdiff.load(folder))
    assert all(torch.equal(trained[name], again[name]) for name in trained)


def test_train_init_on_the_command_line(run, root, dataset, prompts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset.save(tmp_path / "d", prompts=prompts)
    (tmp_path / "r.yaml").write_text(json.dumps(recipe(data={"name": "folder", "path": "d"}, training__updates=1)))
    done = CliRunner().invoke(app, ["train", "r.yaml", "--init", str(run.folder), "--json"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["init"]["taken"] > 0 and document["data"]["folder"] == "d"
    done = CliRunner().invoke(app, ["train", "r.yaml", "backbone.width=24", "--init", str(run.folder)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "does not fit this recipe's" in done.stderr
