"""`mtdiff synthesize` in real processes: two that share the work, SIGKILL at every change of a file, a full disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import contents
from test_scale import launch
from test_synthesizer import build

from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError

pytestmark = pytest.mark.slow
KILLED, TOO_LARGE = -9, -25  # by SIGKILL, by SIGXFSZ
FULL = "cannot be written: File too large. Make room and repeat the command: what was finished before is kept."


@pytest.fixture(scope="module")
def undisturbed(faulty: Any) -> tuple[list[Any], Path, int]:
    """The command without its folder, a folder that it filled, and how many changes of files that took."""
    build({"name": "residual_mlp"}).save_pretrained(faulty.folder / "synthesizer")
    command = ["synthesize", faulty.folder / "synthesizer", "--task", "left", "--task", "right", "--transitions", 600]
    folder = faulty.folder / "undisturbed"
    done = faulty(*command, "--out", folder)
    assert done.status == 0, done.err
    assert "synthesize: 100%" in done.err and "transitions/s" in done.err
    assert "1200 transitions in " in done.out
    return command, folder, done.changes


def test_two_processes_write_what_one_does(undisturbed: Any, faulty: Any, tmp_path: Path) -> None:
    command, folder, _ = undisturbed
    done = launch("-m", "mtdiff", *command, "--out", tmp_path / "two", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)  # one document, of the first process
    assert (document["processes"], document["synthesized"], document["transitions"]) == (2, 1200, 1200)
    one, two = TrajectoryDataset.load(folder), TrajectoryDataset.load(tmp_path / "two")
    for name in ("states", "actions", "rewards"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-4, atol=1e-4)
    again = faulty(*command, "--out", tmp_path / "two", "--json")  # finished, whoever asks
    assert json.loads(again.out)["synthesized"] == 0


def test_killed_at_any_change_of_a_file_it_ends_as_if_nothing_had_happened(undisturbed: Any, faulty: Any) -> None:
    command, folder, changes = undisturbed
    expected = contents(folder)
    assert changes >= 8  # the claim, two shards, card and manifest: each opened and put in its place
    for number in range(1, changes + 1):
        out = faulty.folder / f"killed-{number}"
        assert faulty(*command, "--out", out, kill=number).status == KILLED
        try:
            found = TrajectoryDataset.load(out).fingerprint
        except DataError:
            found = None
        assert found in (None, TrajectoryDataset.load(folder).fingerprint)
        assert faulty(*command, "--out", out).status == 0, number
        assert {k: v for k, v in contents(out).items() if "partial" not in k} == expected, number


def test_a_full_disk_loses_nothing_and_counts_nothing_twice(undisturbed: Any, faulty: Any) -> None:
    command, folder, _ = undisturbed
    expected = contents(folder)
    sizes = [len(expected[f"data/{task}-00000.parquet"]) for task in ("left", "right")]
    cases = [(90, "synthesis.json", False), (min(sizes) - 1, "data/left-00000.parquet", False)]
    for limit, file, torn in [*cases, (min(sizes) - 1, "data/left-00000.parquet", True)]:
        out = faulty.folder / f"full-synthesis-{limit}-{torn}"
        done = faulty(*command, "--out", out, limit=limit, torn=torn)
        if torn:
            assert done.status == TOO_LARGE
        else:
            assert (done.status, done.said.split("\n")[-1]) == (2, f"{out / file}: {FULL}")
            assert not list(out.rglob("*.partial"))
        assert not (out / "dataset.json").exists()
        document = json.loads(faulty(*command, "--out", out, "--json").out)
        assert document["transitions"] == document["synthesized"] == 1200
        assert contents(out) == expected
