"""The moving average of the weights, replayed by hand from the weights after every update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_training import assert_equal, interrupt, on_update
from torch import Tensor

from mtdiff.errors import RecipeError, TrainingFault
from mtdiff.training import Training

UPDATES = 12


def weights(trainer: Any) -> dict[str, Tensor]:
    parts = {"backbone": trainer.pipeline.backbone, "conditioning": trainer.pipeline.conditioning}
    return {f"{part}.{name}": p.clone() for part, m in parts.items() for name, p in m.named_parameters()}


def replay(begin: dict[str, Tensor], trainer: Any, decay: float, every: int, start: int) -> dict[str, Tensor]:
    average = {name: value.double() for name, value in begin.items()}
    for update in range(every, UPDATES + 1, every):
        now = load_file(trainer.checkpoints.folder / f"checkpoint-{update}" / "model.safetensors")
        step = update // every - 1
        kept = decay if start else min(decay, (1 + step) / (10 + step)) if step else 0.0
        kept = 0.0 if update <= start else kept
        average = {name: kept * value + (1 - kept) * now[name].double() for name, value in average.items()}
    return average


@pytest.mark.parametrize(
    ("decay", "every", "start"),
    [(0.9, 1, 0), (0.9, 1, 5), (0.9, 3, 6), (0.9, 3, 7), (0.9, 5, 2), (0.5, 4, 0), (0.9, 2, 50)],
)
def test_the_average_equals_one_by_hand(make: Any, decay: float, every: int, start: int) -> None:
    trainer = make(
        updates=UPDATES, ema_decay=decay, ema_every=every, ema_start=start, checkpoint_every=1, keep_checkpoints=UPDATES
    )
    begin = weights(trainer)
    trainer.run()
    expected = replay(begin, trainer, decay, every, start)
    for name, value in weights(trainer).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("update", [4, 9])
def test_a_late_and_rare_average_resumes_exactly(make: Any, update: int) -> None:
    options = {"ema_decay": 0.9, "ema_every": 3, "ema_start": 6}
    straight = make("straight", **options)
    straight.run()
    broken = make("broken", **options)
    on_update(broken, update, interrupt)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = make("broken", **options)
    resumed.run(resume=True)
    assert_equal(straight, resumed)


def test_bad_weights_are_found_before_the_average_takes_them(make: Any) -> None:
    trainer = make(learning_rate=float("inf"), ema_every=5, checkpoint_every=1, log_every=1000, validate_every=1000)
    with pytest.raises(TrainingFault, match="the weights were not finite after update 1"):
        trainer.run()
    assert trainer.checkpoints.all() == []


def test_numbers_out_of_range() -> None:
    with pytest.raises(RecipeError, match=r"^ema_every: should be at least 1, got 0\.$"):
        Training(ema_every=0)
    with pytest.raises(RecipeError, match=r"^ema_start: should be at least 0, got -1\.$"):
        Training(ema_start=-1)
