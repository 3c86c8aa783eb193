"""Damaged files and misplaced arguments: one message that names the file, and no traceback."""

import json
import random
import shutil

import numpy as np
import pytest
from fault_server import only, said
from safetensors.torch import load_file, save_file
from small_training import crash, on_update

import mtdiff
from mtdiff.data.episode_files import read_npz
from mtdiff.data.shards import read_shard, write_shard
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError, RecipeError, TrainingFault
from mtdiff.findings import Findings
from mtdiff.pipelines import Prompt
from mtdiff.recipe import load_recipe
from mtdiff.runs import Run
from mtdiff.training.checkpoints import MetricsFile

WEIGHTS = "backbone/diffusion_pytorch_model.safetensors"


def fault_of(read, path):
    try:
        read(path)
    except DataError as error:
        return str(error)
    return None


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 16
    path.write_bytes(content)


def cut(path, length=30):
    path.write_bytes(path.read_bytes()[:length])


# ---- what is left over, and what is out of range


def test_arguments_left_over_after_a_swap(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("extends: quickstart\nbackbone:\n  name: temporal_unet\n  num_layers: 3\n")
    allowed = "width, base, multipliers, kernel_size, groups"
    message = said(RecipeError, load_recipe, file)
    assert message.startswith(f"{file}:4: backbone.num_layers: temporal_unet takes no 'num_layers'. Allowed: {allowed}")
    message = said(RecipeError, load_recipe, "quickstart", ["scheduler=ddim", "scheduler.solver_order=2"])
    assert message.startswith("command line: scheduler.solver_order: ddim takes no 'solver_order'. Allowed: ")


def test_prompts_hold_actions_that_can_be_carried_out():
    wrong = {"states": np.zeros((2, 3)), "actions": np.array([[0.5], [-1.25]])}
    assert said(DataError, lambda: Prompt(**wrong)) == "prompt actions: must be in [-1, 1], got 1.25"


# ---- a saved pipeline


@pytest.fixture
def saved(planner, tmp_path):
    planner.save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_damaged_pipeline_is_refused_by_file(saved):
    for name in (WEIGHTS, "normalizer/diffusion_pytorch_model.safetensors", "prompts/config.json", "model_index.json"):
        kind = "JSON" if name.endswith("json") else "safetensors"
        whole = (saved / name).read_bytes()
        cut(saved / name)
        message = said(DataError, mtdiff.load, saved)
        assert message.startswith(f"{saved}: is damaged: {name} cannot be read as {kind} (")
        (saved / name).write_bytes(whole)
    (saved / "scheduler" / "scheduler_config.json").write_text("[]")
    assert said(DataError, mtdiff.load, saved) == (
        f"{saved}: is damaged: scheduler/scheduler_config.json cannot be read as JSON (should be a mapping)"
    )


def test_what_is_not_in_the_weights_is_not_left_random(saved):
    tensors = load_file(saved / WEIGHTS)
    name = sorted(tensors)[0]
    tensors.pop(name)
    save_file(tensors, saved / WEIGHTS, metadata={"format": "pt"})
    assert said(DataError, mtdiff.load, saved) == (
        f"{saved}: is damaged: {WEIGHTS} and config.json do not agree about {name}"
    )


def test_a_part_that_cannot_be_built_names_the_pipeline(saved):
    path = saved / "conditioning" / "config.json"
    path.write_text(path.read_text().replace('"hidden"', '"hiden"'))
    message = said(DataError, mtdiff.load, saved).removeprefix(f"{saved}: cannot be loaded as a pipeline (")
    assert message.startswith("conditioning.hiden: history takes no 'hiden'. ")


# ---- checkpoints and metrics


def test_one_wrong_bit_in_a_checkpoint_is_found(make):
    broken = make()
    on_update(broken, 11, crash)
    with pytest.raises(Exception, match="^$"):
        broken.run()
    newest = broken.checkpoints.newest()
    flip(newest / "optimizer.bin", -2000)
    assert said(TrainingFault, lambda: make().run(resume=True)) == (
        f"{newest}: cannot be loaded (optimizer.bin has changed since it was written (remove checksums.json if the "
        "change is yours)). Delete this folder to go on from the one before"
    )


def test_a_damaged_row_of_metrics_is_named_and_a_torn_last_one_is_not(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"update": 3}\n{"update": 6}\n{"upd')
    assert MetricsFile.read(path) == [{"update": 3}, {"update": 6}]
    path.write_bytes(b'{"update": 3}\n{"update\xff: 6}\n{"update": 9}\n')
    assert said(DataError, MetricsFile.read, path).startswith(f"{path}:2: is damaged ('utf-8' codec can't decode ")


# ---- datasets


def test_a_wrong_manifest_is_damage_and_no_traceback(dataset, tmp_path):
    dataset.save(tmp_path / "d")
    path = tmp_path / "d" / "dataset.json"
    whole = json.loads(path.read_text())

    def message(**changes):
        path.write_text(json.dumps(whole | changes))
        return said(DataError, TrajectoryDataset.load, tmp_path / "d")

    assert message(splits={}) == f"{path}: is damaged (KeyError: 'trajectories')."
    assert message(splits={"trajectories": {"shards": [{"path": 3}]}}) == f"{path}: is damaged (KeyError: 'sha256')."
    assert message(tasks=["reach-v3", "pash-v3"]) == (
        f"{path}: is damaged (it does not name task push-v3, which the files have)."
    )
    path.write_text("[1]")
    assert said(DataError, TrajectoryDataset.load, tmp_path / "d").startswith(f"{path}: is damaged (TypeError: ")


def test_no_damage_of_a_file_leads_to_anything_but_its_error(dataset, planner, tmp_path):
    """Bits flipped and ends cut, in every kind of file that others may hand on: read, or refused by name."""
    states, rest = np.ones((6, 5), np.float32), {"rewards": np.ones(6), "terminals": np.zeros(6)}
    arrays = {"observations": states, "next_observations": states, "actions": np.zeros((6, 2)), **rest}
    readers = {
        "a.npz": lambda path: read_npz(path, task="a"),
        "b.npz": lambda path: read_npz(path, task="a"),
        "c.safetensors": Prompt.load,
        "d.parquet": read_shard,
    }
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    planner.prompts["reach-v3"][0].save(tmp_path / "c.safetensors")
    write_shard(tmp_path / "d.parquet", [dataset[0], dataset[1]])
    rng, refused = random.Random(0), dict.fromkeys(readers, 0)
    for name, read in readers.items():
        path = tmp_path / name
        whole = path.read_bytes()
        for number in range(120):
            path.write_bytes(whole)
            cut(path, rng.randrange(len(whole))) if number < 20 else flip(path, rng.randrange(len(whole)))
            message = fault_of(read, path)
            assert message is None or message.startswith(f"{path}: "), (name, number)
            refused[name] += message is not None
        assert refused[name] >= 60, name


def test_wrong_numbers_in_a_shard_are_found_without_a_manifest(dataset, tmp_path):
    path = tmp_path / "a.parquet"
    write_shard(path, [dataset[1]])
    whole = read_shard(path).fingerprint
    for at in range(40, 700, 60):
        copy = tmp_path / "b.parquet"
        shutil.copy(path, copy)
        flip(copy, at)
        message = fault_of(read_shard, copy)
        if message is None:
            assert read_shard(copy).fingerprint == whole, at
        else:
            assert message.startswith(f"{copy}: cannot be read as Parquet ("), at


# ---- a run


@pytest.fixture
def run(faulty, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    return only(tmp_path / "out" / "runs")


@pytest.mark.slow
def test_a_damaged_run_says_which_file_on_the_command_line(faulty, run):
    def told(path, damage, *command):
        kept = path.read_bytes()
        damage(path)
        done = faulty(*command)
        path.write_bytes(kept)
        assert (done.status, done.out) == (2, "")
        return done.said

    home, train = run.parents[1], ("train", "toy.yaml", "--output", run.parents[1])
    assert told(run / "pipeline" / WEIGHTS, lambda path: flip(path, -5), "evaluate", run).endswith(
        f"{run}/pipeline: is damaged: {WEIGHTS} has changed since it was written (remove checksums.json if the change "
        "is yours)"
    )
    pipeline, size = run / "pipeline" / "recipe.yaml", (run / "pipeline" / "recipe.yaml").stat().st_size
    assert told(pipeline, cut, "evaluate", run).endswith(f"recipe.yaml has 30 bytes, should have {size}")
    info = run / "run.json"
    without = json.loads(info.read_text())
    without.pop("versions")
    expected = f"{info}: is damaged (KeyError: 'versions'). Train again with --restart."
    assert told(info, lambda path: path.write_text(json.dumps(without)), *train) == expected
    assert told(info, cut, "evaluate", run).startswith(f"{info}: is damaged (JSONDecodeError: ")
    data = only(home / "data")
    shard = data / "data" / "towards-00000.parquet"
    collection = data / "collection.json"
    assert told(collection, lambda path: path.write_text('{"suite": 3}'), *train) == (
        f"{collection}: is damaged ('int' object is not iterable); remove the folder and collect again."
    )
    folder = f"data={{name: folder, path: {data}}}"
    assert told(shard, cut, "train", "toy.yaml", folder, "--output", home) == (
        f"{shard}: has 30 bytes, should have {shard.stat().st_size}. Collect again into this folder to mend it."
    )
    info.write_text(json.dumps({**json.loads(info.read_text()), "written by": "the future"}))
    done = faulty(*train)
    assert (done.status, Run(run).complete) == (0, True), done.err


def test_damaged_findings_can_be_measured_again(tmp_path):
    path = tmp_path / "findings.json"
    for text, what in (('{"videos": ', "JSONDecodeError: "), ('{"videos": {}}', "KeyError: 'result'")):
        path.write_text(text)
        message = said(DataError, Findings.load, tmp_path)
        assert message.startswith(f"{path}: is damaged ({what}") and message.endswith("). Measure again with --again.")
