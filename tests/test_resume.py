"""No interruption, fault or restart changes what a training gives."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from small_training import Crash, assert_equal, crash, interrupt, on_update, result, rows

from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import TrainingFault


@pytest.mark.parametrize(("accumulation", "dropout"), [(1, 0.0), (1, 0.3), (2, 0.0), (2, 0.3)])
@pytest.mark.parametrize(("update", "end"), [(4, interrupt), (5, interrupt), (8, crash)])
def test_a_resumed_training_equals_an_uninterrupted_one(make, values, accumulation, dropout, update, end):
    values["backbone"]["dropout"] = dropout
    options = {"gradient_accumulation": accumulation}
    straight = make("straight", **options)
    straight.run()
    torch.manual_seed(99)
    broken = make("broken", **options)
    on_update(broken, update, end)
    with pytest.raises((KeyboardInterrupt, Crash)):
        broken.run()
    torch.manual_seed(99)
    resumed = make("broken", **options)
    assert resumed.checkpoints.newest().name == f"checkpoint-{5 if end is crash else update}"
    outcome = resumed.run(resume=True)
    assert_equal(straight, resumed)
    assert outcome["updates"] == 12


def test_dropout_is_in_effect(make, values):
    plain = make("plain")
    plain.run()
    values["backbone"]["dropout"] = 0.3
    dropped = make("dropped")
    dropped.run()
    assert rows(plain)[-1]["loss"] != rows(dropped)[-1]["loss"]


def test_ctrl_c_ends_after_the_update_with_a_checkpoint(make):
    before = signal.getsignal(signal.SIGINT)
    trainer = make()
    on_update(trainer, 7, interrupt)
    with pytest.raises(KeyboardInterrupt) as error:
        trainer.run()
    assert str(error.value) == "stopped after update 7; a checkpoint is saved"
    assert [path.name for path in trainer.checkpoints.all()] == ["checkpoint-5", "checkpoint-7"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_at_once(make):
    def twice():
        interrupt()
        interrupt()

    trainer = make()
    on_update(trainer, 7, twice)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert [path.name for path in trainer.checkpoints.all()] == ["checkpoint-5"]


def test_resuming_what_is_finished_gives_the_same_again(make):
    trainer = make()
    outcome = trainer.run()
    again = make()
    assert again.run(resume=True) == outcome
    assert_equal(trainer, again)


def test_beginning_anew_cuts_the_metrics(make):
    make().run()
    again = make(updates=6)
    again.run()
    assert [row["update"] for row in rows(again)] == [3, 6]


# faults


def poisoned(dataset, task):
    states = dataset.states.copy()
    for e in np.flatnonzero(dataset.task_index == dataset.tasks.index(task)):
        states[dataset.offsets[e] : dataset.offsets[e + 1]] = np.nan
    parts = ("actions", "rewards", "success", "offsets", "task_index", "tasks", "terminated", "truncated")
    return TrajectoryDataset(states=states, **{name: getattr(dataset, name) for name in parts})


def test_a_loss_that_is_not_finite_ends_training_before_it_is_saved(make, dataset):
    good = make(updates=5)
    good.run()
    bad = make(data=poisoned(dataset, "push-v3"), log_every=4, validate_every=100, checkpoint_every=1000)
    with pytest.raises(TrainingFault) as error:
        bad.run(resume=True)
    assert str(error.value) == (  # of update 6, though it is looked for at update 8 only
        "the loss was not finite at update 6, in the windows of push-v3. "
        f"Last good checkpoint: {bad.checkpoints.folder / 'checkpoint-5'}. "
        "Lower training.learning_rate or training.max_grad_norm, or look for bad numbers in those tasks' data"
    )
    assert [path.name for path in bad.checkpoints.all()] == ["checkpoint-5"]
    assert [row["update"] for row in rows(bad)] == [3, 5]
    make().run(resume=True)  # and from there it goes on with good data


def test_a_checkpoint_is_never_of_a_loss_that_was_not_finite(make, dataset):
    bad = make(data=poisoned(dataset, "reach-v3"), log_every=1000, validate_every=1000, checkpoint_every=2)
    with pytest.raises(TrainingFault, match="update 1, in the windows of reach-v3") as error:
        bad.run()
    assert "Last good checkpoint: none yet." in str(error.value)
    assert bad.checkpoints.all() == []
    assert not bad.metrics.path.exists()


def test_weights_that_are_not_finite_are_not_saved(make):
    trainer = make(learning_rate=float("inf"), checkpoint_every=1, log_every=1000, validate_every=1000)
    with pytest.raises(TrainingFault, match="the weights were not finite after update 1"):
        trainer.run()
    assert trainer.checkpoints.all() == []


def test_half_a_checkpoint_is_none(make):
    straight = make("straight")
    straight.run()
    first = make(updates=5)
    first.run()
    folder = first.checkpoints.folder
    shutil.copytree(folder / "checkpoint-5", folder / "checkpoint-9.partial")
    (folder / "checkpoint-9.partial" / "model.safetensors").unlink()
    resumed = make()
    assert resumed.checkpoints.newest() == folder / "checkpoint-5"
    resumed.run(resume=True)
    a, b = result(straight), result(resumed)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_newest_is_by_number_and_old_ones_go(make):
    trainer = make(updates=11, checkpoint_every=1, keep_checkpoints=3)
    trainer.run()
    names = [path.name for path in trainer.checkpoints.all()]
    assert names == ["checkpoint-9", "checkpoint-10", "checkpoint-11"]
    os.utime(trainer.checkpoints.folder / "checkpoint-9")
    assert trainer.checkpoints.newest().name == "checkpoint-11"
    assert sorted(path.name for path in trainer.checkpoints.folder.iterdir()) == sorted([*names, "best.safetensors"])


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(make, damage):
    straight = make("straight")
    straight.run()
    broken = make()
    on_update(broken, 11, crash)
    with pytest.raises(Crash):
        broken.run()
    newest = broken.checkpoints.newest()
    assert newest.name == "checkpoint-10"
    weights = newest / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    with pytest.raises(TrainingFault) as error:
        make().run(resume=True)
    assert str(error.value).startswith(f"{newest}: cannot be loaded (")
    assert str(error.value).endswith("). Delete this folder to go on from the one before")
    shutil.rmtree(newest)
    resumed = make()
    resumed.run(resume=True)
    assert_equal(straight, resumed)


def test_a_checkpoint_of_another_model_is_refused(make, values):
    make().run()
    values["backbone"]["width"] = 32
    with pytest.raises(TrainingFault, match="cannot be loaded"):
        make().run(resume=True)


def test_a_torn_last_row_is_dropped(make):
    straight = make("straight")
    straight.run()
    trainer = make(updates=5)
    trainer.run()
    with trainer.metrics.path.open("a") as file:
        file.write('{"update": 6, "lo')
    resumed = make()
    resumed.run(resume=True)
    assert [row["update"] for row in rows(resumed)] == [3, 5, 6, 9, 12]
    assert all(json.loads(line) for line in resumed.metrics.path.read_text().splitlines())
