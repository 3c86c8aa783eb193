"""What tests of training share: ways to interrupt one, and what two equal ones have in common."""

import os
import signal

import torch
from safetensors.torch import load_file

from mtdiff.training.checkpoints import MetricsFile


def on_update(trainer, update, action):
    """Call `action` in the middle of an update of this sitting, counted from 1."""
    seen = []

    def hook(module, inputs):
        if module.training:
            seen.append(None)
            if len(seen) == (update - 1) * trainer.settings.gradient_accumulation + 1:
                action()

    trainer.pipeline.backbone.register_forward_pre_hook(hook)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


class Crash(Exception):
    pass


def crash():
    raise Crash


def rows(trainer):
    return MetricsFile.read(trainer.metrics.path)


def result(trainer):
    """Everything that two equal trainings must share."""
    pipe = trainer.pipeline
    last = trainer.checkpoints.newest()
    return {
        **{f"ema.{name}": value for name, value in pipe.backbone.state_dict().items()},
        **{f"ema.{name}": value for name, value in pipe.conditioning.state_dict().items()},
        **{f"raw.{name}": value for name, value in load_file(last / "model.safetensors").items()},
    }


def assert_equal(one, other):
    a, b = result(one), result(other)
    assert a.keys() == b.keys()
    assert any(name.startswith("raw.backbone") for name in a)
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert different == []
    without_time = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows(t)] for t in (one, other)]
    assert without_time[0] == without_time[1]
