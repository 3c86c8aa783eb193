"""No room on the disk: one line that names the file, no traceback, nothing lost, and the same command goes on.

A limit on the size of files, RLIMIT_FSIZE, stands for the disk: a write beyond it fails in the same places.
"""

import json
import shutil

import pytest
from fault_server import bring_data, contents, only, said
from typer.testing import CliRunner

from mtdiff.cli import app
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import StorageFault
from mtdiff.whole import beside

FULL = "cannot be written: File too large. Make room and repeat the command: what was finished before is kept."


@pytest.fixture
def run(faulty, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    return only(tmp_path / "out" / "runs")


@pytest.mark.slow
def test_a_full_disk_stops_a_collection_with_one_line_and_it_goes_on(faulty, whole):
    reference = only(whole[0] / "data")
    first, second = "data/towards-00000.parquet", "data/mirrored-00000.parquet"
    size = (reference / first).stat().st_size
    assert size < (reference / second).stat().st_size
    for limit, file in ((90, "collection.json"), (size - 1, first), (size, second)):
        out = faulty.folder / f"full-{limit}"
        command = "collect", "toy.yaml", "--workers", 1, "--output", out
        done = faulty(*command, limit=limit)
        folder = only(out / "data")
        assert (done.status, done.said) == (2, f"{folder / file}: {FULL}"), limit
        assert not (folder / "dataset.json").exists() and not list(folder.rglob("*.partial"))
        kept = {path: path.stat().st_ino for path in folder.rglob("*.parquet")}
        assert bool(kept) == (file == second)
        assert faulty(*command).status == 0
        assert contents(folder) == contents(reference)
        assert all(path.stat().st_ino == number for path, number in kept.items())


@pytest.mark.slow
def test_a_full_disk_stops_an_import_and_leaves_nothing(faulty):
    command = (
        "collect",
        "toy.yaml",
        bring_data(faulty.folder / "theirs"),
        "suite.tasks=[towards]",
        "--output",
        "imported",
    )
    done = faulty(*command, limit=900)
    assert done.status == 2
    assert done.said.endswith(f".partial/data/towards-00000.parquet: {FULL}") and done.said.count("\n") == 0
    assert list((faulty.folder / "imported" / "data").iterdir()) == []
    assert faulty(*command).status == 0
    assert len(TrajectoryDataset.load(only(faulty.folder / "imported" / "data"))) == 3


@pytest.mark.slow
def test_a_full_disk_stops_training_with_the_last_good_checkpoint(faulty, whole):
    expected = only(whole[0] / "runs")
    out = faulty.folder / "trained on a full disk"
    shutil.copytree(whole[0] / "data", out / "data")
    command = "train", "toy.yaml", "--output", out
    done = faulty(*command, limit=100)
    run = only(out / "runs")
    assert (done.status, done.said) == (2, f"{run}/recipe.yaml: {FULL}")
    for limit, file in ((9000, "model"), (16000, "optimizer")):
        done = faulty(*command, limit=limit)
        assert done.status == 2
        assert f"{run}/checkpoints/checkpoint-2: cannot be written: " in done.said, file
        assert done.said.endswith("Last good checkpoint: none yet. Go on from it with --resume")
        assert "Traceback" not in done.err
        assert list((run / "checkpoints").iterdir()) == []
    assert faulty(*command).status == 0
    assert contents(run / "pipeline") == contents(expected / "pipeline")

    done = faulty(*command, "sampling.execute=1", limit=6000)  # there is a good one already: it stays
    assert done.status == 2
    assert done.said.startswith(f"{run}/pipeline: {FULL[:18]}") and "Traceback" not in done.err
    assert contents(run / "pipeline") == contents(expected / "pipeline")
    assert faulty(*command, "sampling.execute=1").status == 0


@pytest.mark.slow
def test_a_full_disk_stops_an_evaluation_and_what_was_found_is_kept(faulty, run):
    command = "evaluate", run, "evaluation.swapped_prompt=false", "evaluation.demonstrator=false"
    done = faulty(*command, limit=700)
    place = only(run / "evaluation")
    assert (done.status, done.said.split("\n")[-1]) == (2, f"{place}/findings.json: {FULL}")
    assert list(place.iterdir()) == []
    done = faulty(*command, limit=6000)
    assert (done.status, done.said.split("\n")[-1]) == (2, f"{run}/report.html: {FULL}")
    found = contents(place)
    assert faulty(*command).status == 0
    assert contents(place) == found and (run / "report.html").is_file()


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("before")

    def write(path, more=""):
        with beside(path) as partial:
            partial.write_text("after")
            int(more or 0)

    with pytest.raises(ValueError, match="invalid literal"):
        write(path, "x")
    assert contents(tmp_path) == {"kept.txt": b"before"}
    missing = tmp_path / "no" / "folder.txt"
    assert said(StorageFault, write, missing) == f"{missing}: cannot be written: No such file or directory."


@pytest.mark.slow
def test_an_output_folder_that_is_a_file(faulty):
    done = faulty("collect", "toy.yaml", "--output", "toy.yaml", "--json")
    assert done.status == 2
    assert json.loads(done.out)["error"]["message"] == done.said
    assert done.said.endswith("/collection.json: cannot be written: Not a directory.")


def test_a_name_that_the_system_refuses():
    done = CliRunner().invoke(app, ["evaluate", "x" * 300])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"{'x' * 300}/model_index.json: File name too long.\n"
