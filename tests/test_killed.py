"""SIGKILL anywhere: nothing half-written is taken for whole, and the same command ends as if nothing had happened.

A process of `mtdiff` kills itself in the place of its n-th change of a file: an open for writing, a rename, a removal.
That is more than a kill at random times would reach. In the midst of a write it is killed by a limit on the size of
files, whose signal, SIGXFSZ, ends a process just as abruptly.
"""

import json
import random
import shutil
from itertools import pairwise

import pytest
from fault_server import bring_data, contents, only

from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import MTDiffError
from mtdiff.hub import load
from mtdiff.runs import Run
from mtdiff.training.checkpoints import MetricsFile

pytestmark = pytest.mark.slow
KILLED, TOO_LARGE = -9, -25  # by SIGKILL, by SIGXFSZ


def places(count, of, seed):
    """Some of the numbers from 1 to `of`, one out of every stretch of equal length, the last one among them."""
    rng = random.Random(seed)
    edges = [round(i * of / count) for i in range(count + 1)]
    return [*(rng.randint(low + 1, high) for low, high in pairwise(edges[:-1])), of]


def dataset_or_error(folder):
    try:
        return TrajectoryDataset.load(folder).fingerprint
    except MTDiffError as error:
        return str(error)


def pipeline_or_error(folder):
    try:
        load(folder)
    except MTDiffError as error:
        return str(error)
    return contents(folder / "pipeline")


def rows(run):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in MetricsFile.read(run / "metrics.jsonl")]


def assert_same_run(run, expected):
    assert contents(run / "pipeline") == contents(expected / "pipeline")
    raw = [(folder / "checkpoints" / "checkpoint-6" / "model.safetensors").read_bytes() for folder in (run, expected)]
    assert raw[0] == raw[1]
    assert rows(run) == rows(expected)
    infos = [json.loads((folder / "run.json").read_text()) for folder in (run, expected)]
    for info in infos:
        info.pop("seconds"), info["data"].pop("folder")
    assert infos[0] == infos[1]
    assert (run / "recipe.yaml").read_bytes() == (expected / "recipe.yaml").read_bytes()


def with_data(faulty, whole, name):
    """A new output folder in which the data are there already."""
    out = faulty.folder / name
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(whole[0] / "data", out / "data")
    return out


def test_a_killed_collection_goes_on_to_the_same_dataset(faulty, whole):
    reference = only(whole[0] / "data")
    fingerprint = TrajectoryDataset.load(reference).fingerprint
    kills = [{"kill": n} for n in places(6, whole[1]["collect"], seed=0)]
    for fault in (*kills, {"limit": 900, "torn": True}, {"limit": 4000, "torn": True}):
        out = faulty.folder / "collected"
        shutil.rmtree(out, ignore_errors=True)
        command = "collect", "toy.yaml", "--workers", 1, "--output", out
        assert faulty(*command, **fault).status == (TOO_LARGE if "torn" in fault else KILLED), fault
        for folder in (out / "data").glob("toy-*"):
            said = dataset_or_error(folder)
            assert said == fingerprint or "Collect it, or collect it to its end" in said, fault
        done = faulty(*command)
        assert done.status == 0, (fault, done.err)
        mine = {k: v for k, v in contents(only(out / "data")).items() if not k.rpartition("/")[2].startswith(".")}
        assert mine == contents(reference), fault


def test_a_collection_that_is_killed_again_and_again_ends(faulty, whole):
    out, count, status = faulty.folder / "chained", 0, KILLED
    while status == KILLED:
        count += 1
        assert count < 20, "each sitting should keep what it finished"
        status = faulty("collect", "toy.yaml", "--workers", 1, "--output", out, kill=5 + count).status
    assert count > 2
    assert status == 0
    assert contents(only(out / "data"), "*.parquet") == contents(only(whole[0] / "data"), "*.parquet")


def test_damage_is_still_known_after_a_kill_in_the_midst_of_mending(faulty, whole):
    """A file whose numbers were changed can be read; only the manifest tells, and mending begins by removing it."""
    reference = only(whole[0] / "data")
    for kill in (1, 2, 4):
        out = with_data(faulty, whole, "mended")
        shard, other = (only(out / "data") / f"data/{task}-00000.parquet" for task in ("mirrored", "towards"))
        shutil.copy(other, shard)  # a file of ours with as many episodes, but not this one
        assert faulty("collect", "toy.yaml", "--workers", 1, "--output", out, kill=kill).status == KILLED
        assert faulty("collect", "toy.yaml", "--workers", 1, "--output", out).status == 0
        assert contents(only(out / "data"), "*.parquet") == contents(reference, "*.parquet"), kill


def test_an_import_that_is_killed_while_it_mends_is_done_again(faulty):
    """What was read before is replaced only when all is read anew."""
    command = "collect", "toy.yaml", bring_data(faulty.folder / "others"), "suite.tasks=[towards]", "--output"
    assert faulty(*command, "read").status == 0
    reference = only(faulty.folder / "read" / "data")

    def damaged():
        out = faulty.folder / "reread"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(faulty.folder / "read", out)
        (only(out / "data") / "data" / "towards-00000.parquet").write_bytes(b"PAR1")
        return out

    for kill in places(6, faulty(*command, damaged()).changes, seed=4):
        out = damaged()
        assert faulty(*command, out, kill=kill).status == KILLED
        done = faulty(*command, out)
        assert done.status == 0, (kill, done.err)
        assert contents(only(out / "data")) == contents(reference), kill


def test_a_killed_training_goes_on_to_the_same_run(faulty, whole):
    expected = only(whole[0] / "runs")
    pipeline = contents(expected / "pipeline")
    kills = [{"kill": n} for n in places(8, whole[1]["train"], seed=1)]
    for fault in (*kills, {"limit": 1500, "torn": True}, {"limit": 6000, "torn": True}):
        out = with_data(faulty, whole, "trained")
        assert faulty("train", "toy.yaml", "--output", out, **fault).status in (KILLED, TOO_LARGE), fault
        if (out / "runs").exists() and list((out / "runs").iterdir()):
            run = only(out / "runs")
            loaded = pipeline_or_error(run)
            assert loaded == pipeline or "model_index.json" in loaded or "has not finished training" in loaded, fault
            assert loaded == pipeline or not Run(run).complete, fault
        done = faulty("train", "toy.yaml", "--output", out, "--resume")
        assert done.status == 0, (fault, done.err)
        assert_same_run(only(out / "runs"), expected)


def test_a_training_that_is_killed_again_and_again_ends(faulty, whole):
    out, count, status = with_data(faulty, whole, "often"), 0, KILLED
    while status == KILLED:
        count += 1
        assert count < 20, "each sitting should keep its checkpoints"
        status = faulty("train", "toy.yaml", "--output", out, "--resume", kill=30 + 4 * count).status
    assert count > 2
    assert status == 0
    assert_same_run(only(out / "runs"), only(whole[0] / "runs"))


@pytest.mark.parametrize(("changed", "more"), [("sampling.execute=1", ()), ("seed=0", ("--restart",))])
def test_a_finished_run_that_is_replaced_is_never_half_of_two(faulty, whole, changed, more):
    """New sampling defaults replace a saved pipeline, and a restart replaces all of a run."""
    after = with_data(faulty, whole, "after")
    shutil.copytree(whole[0] / "runs", after / "runs")
    command = "train", "toy.yaml", changed, "--output"
    count = faulty(*command, after, *more).changes
    allowed = [contents(only(folder / "runs") / "pipeline") for folder in (whole[0], after)]
    for kill in places(6, count if not more else 20, seed=2):
        out = with_data(faulty, whole, "replaced")
        shutil.copytree(whole[0] / "runs", out / "runs")
        assert faulty(*command, out, *more, kill=kill).status == KILLED
        if any((out / "runs").glob("toy-*")):
            loaded = pipeline_or_error(only(out / "runs"))
            assert loaded in allowed or isinstance(loaded, str), kill
            assert loaded in allowed or not Run(only(out / "runs")).complete, kill
        done = faulty(*command, out, "--resume")
        assert done.status == 0, (kill, done.err)
        assert_same_run(only(out / "runs"), only(after / "runs"))


def test_a_killed_evaluation_leaves_the_findings_of_before_or_none(faulty, whole):
    run = faulty.folder / "evaluated"
    shutil.copytree(only(whole[0] / "runs"), run)
    settings = ["evaluation.swapped_prompt=false", "evaluation.demonstrator=false"]
    assert faulty("evaluate", run, *settings).status == 0
    count = faulty("evaluate", run, *settings, "--again").changes
    first = json.loads(only(run / "evaluation").joinpath("findings.json").read_text())["result"]["tasks"]
    for fault in (*({"kill": n} for n in places(3, count, seed=3)), {"limit": 700, "torn": True}):
        assert faulty("evaluate", run, *settings, "--again", **fault).status in (KILLED, TOO_LARGE)
        done = faulty("evaluate", run, *settings, "--json")
        assert done.status == 0, (fault, done.err)
        assert json.loads(done.out)["tasks"] == first
