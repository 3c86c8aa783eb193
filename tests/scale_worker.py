"""What one of two processes does in tests/test_scale.py: python scale_worker.py FOLDER, under `accelerate launch`."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import torch
from conftest import _VALUES, TASKS, _dataset
from small_training import interrupt, on_update

from mtdiff.compose import compose, windows
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError
from mtdiff.training import Trainer, Training
from mtdiff.world import join, on_main, together

REACH, PUSH = TASKS
SMALL = {
    "updates": 12, "batch_per_task": 4, "learning_rate": 3e-3, "learning_rate_schedule": "cosine", "warmup": 3,
    "log_every": 3, "validate_every": 6, "checkpoint_every": 5, "keep_checkpoints": 2, "log_with": (),
}  # fmt: skip


def make(folder, *, network_dropout=0.0, poison=False, **settings):
    """A trainer like conftest's, with the dropout of two conditions so rare that no batch has any."""
    values = copy.deepcopy(_VALUES)
    values["conditioning"]["task"]["dropout"] = values["conditioning"]["return"]["dropout"] = 1e-9
    values["backbone"]["dropout"] = network_dropout
    lengths = [(REACH, 9), (PUSH, 17), (REACH, 1), (REACH, 20), (PUSH, 6), (REACH, 12), (PUSH, 11), (REACH, 8)]
    dataset, prompts = _dataset(lengths, 0), _dataset([(PUSH, 4), (REACH, 9), (PUSH, 7), (REACH, 5)], 1)
    pipe, scheduler = compose(values, dataset, prompts)
    train = windows(pipe, poisoned(dataset, PUSH) if poison else dataset, prompts)
    held_out = windows(pipe, dataset.subset([1, 2]), prompts, returns_of=dataset)
    return Trainer(pipe, scheduler, train, held_out, Training(**SMALL | settings), seed=0, folder=Path(folder))


def poisoned(dataset, task):
    states = dataset.states.copy()
    for e in np.flatnonzero(dataset.task_index == dataset.tasks.index(task)):
        states[dataset.offsets[e] : dataset.offsets[e + 1]] = np.nan
    parts = ("actions", "rewards", "success", "offsets", "task_index", "tasks", "terminated", "truncated")
    return TrajectoryDataset(states=states, **{name: getattr(dataset, name) for name in parts})


def said(work):
    """The error's kind and text, if it raises one."""
    try:
        return work()
    except (Exception, KeyboardInterrupt) as error:
        return [type(error).__name__, str(error)]


def fail():
    raise DataError("no data")


def second_fails():
    if join().process_index:
        raise DataError("no data here")
    return 1


def main(folder):
    me = join().process_index
    found = {
        "on main": said(lambda: on_main(lambda: me)),
        "together": said(lambda: together(lambda: 10 * me)),
        "main fails": said(lambda: on_main(fail)),
        "second fails": said(lambda: together(second_fails)),
    }
    found["poison"] = said(make(folder / "poison", poison=bool(me), log_every=4).run)

    def ctrl_c():
        if me:  # it reaches them at different times; here one does not get it at all
            interrupt()
            interrupt()  # the launcher's echo

    for name, accumulation in (("straight", 1), ("accumulated", 2)):
        make(folder / name, gradient_accumulation=accumulation).run()
    for name in ("broken", "to be resumed by one"):
        broken = make(folder / name)
        on_update(broken, 4, ctrl_c)
        found[name] = said(broken.run)
    make(folder / "broken").run(resume=True)
    found["one's"] = make(folder / "one's").run(resume=True)["updates"]
    found["one's dropout"] = said(lambda: make(folder / "one's dropout", network_dropout=0.1).run(resume=True))
    found["threads"] = torch.get_num_threads()
    (folder / f"process-{me}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
