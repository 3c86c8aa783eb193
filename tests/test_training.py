"""Real training, tiny: it learns, measures itself the same way every time, and says where it stands."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from safetensors.torch import load_file
from small_training import assert_equal, result, rows

from mtdiff.errors import RecipeError, TrainingFault
from mtdiff.pipelines.prompts import Prompt
from mtdiff.training import Training


def test_it_learns(make):
    trainer = make(updates=300, batch_per_task=16, log_every=20, validate_every=20, checkpoint_every=300)
    outcome = trainer.run()
    losses = [row["loss"] for row in rows(trainer)]
    assert losses[-1] < 0.7 * losses[0]
    held_out = [row["val_loss"] for row in rows(trainer) if "val_loss" in row]
    assert len(held_out) == 15
    assert held_out[-1] < 0.7 * held_out[0]
    assert outcome["updates"] == 300
    assert (outcome["loss"], outcome["val_loss"]) == (losses[-1], held_out[-1])
    assert not trainer.pipeline.backbone.training


def test_rows_of_metrics(make):
    trainer = make(validate_every=4)
    outcome = trainer.run()
    found = rows(trainer)
    assert [row["update"] for row in found] == [3, 4, 6, 8, 9, 12]
    assert [row["update"] for row in found if "val_loss" in row] == [4, 8, 12]
    assert all(row["learning_rate"] == 3e-3 for row in found)
    seconds = [row["seconds"] for row in found]
    assert seconds == sorted(seconds)
    assert outcome["seconds"] >= seconds[-1] > 0


def test_the_held_out_loss_is_of_the_same_draws_and_disturbs_nothing(make):
    trainer = make("often", validate_every=1)
    trainer.run()
    assert trainer.held_out_loss() == trainer.held_out_loss()
    rare = make("rare", validate_every=12)
    rare.run()
    a, b = result(trainer), result(rare)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert rows(trainer)[-1]["val_loss"] == rows(rare)[-1]["val_loss"] == rare.held_out_loss()


def test_without_held_out_episodes(make):
    trainer = make()
    trainer.held_out = None
    trainer.run()
    assert trainer.held_out_loss() is None
    assert all("val_loss" not in row for row in rows(trainer))


def test_the_moving_average_is_what_is_saved(make):
    trainer = make(updates=6, checkpoint_every=1, keep_checkpoints=6, ema_decay=0.6)
    start = {name: value.clone() for name, value in trainer.pipeline.backbone.state_dict().items()}
    trainer.run()
    average = {name: value.double() for name, value in start.items()}
    for t in range(6):
        raw = load_file(trainer.checkpoints.folder / f"checkpoint-{t + 1}" / "model.safetensors")
        decay = min(0.6, (1 + t) / (10 + t)) if t else 0.0  # warmed up; the first update replaces the start
        for name in average:
            average[name] = decay * average[name] + (1 - decay) * raw[f"backbone.{name}"].double()
    saved = trainer.pipeline.backbone.state_dict()
    for name, value in average.items():
        torch.testing.assert_close(saved[name].double(), value, atol=1e-6, rtol=1e-5)
    assert max(float((saved[name] - raw[f"backbone.{name}"]).abs().max()) for name in saved) > 1e-4


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_learning_rate_is_per_update(make, schedule):
    options = {"learning_rate_schedule": schedule, "warmup": 4, "log_every": 1, "validate_every": 12}
    whole, parts = make("whole", **options), make("parts", gradient_accumulation=2, **options)
    for trainer in (whole, parts):
        trainer.run()
        rates = np.array([row["learning_rate"] for row in rows(trainer)]) / 3e-3
        np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1])
        after = np.ones(8) if schedule == "constant" else (1 + np.cos(np.pi * np.arange(1, 9) / 8)) / 2
        np.testing.assert_allclose(rates[4:], after, atol=1e-7)


def test_accumulation_changes_nothing_but_rounding(make):
    trainers = [make(f"parts{parts}", gradient_accumulation=parts) for parts in (1, 2, 4)]
    for trainer in trainers:
        trainer.run()
    one, *others = map(result, trainers)
    for other in others:
        # 12 updates; Adam divides gradients near zero by their own size, so rounding counts there
        assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-4
    for a, b in zip(rows(trainers[0]), rows(trainers[1]), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_an_accelerator_of_ones_own(make):
    mine, theirs = (
        make("mine", gradient_accumulation=2),
        make("theirs", gradient_accumulation=2, accelerator=Accelerator()),
    )
    mine.run()
    theirs.run()
    assert_equal(mine, theirs)


# settings and trackers


def test_tensorboard(make, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make(log_with=("tensorboard",))
    trainer.run()
    (events,) = (tmp_path / "run" / "trackers").rglob("events.out.tfevents.*")
    log = EventAccumulator(str(events))
    log.Reload()
    for name in ("loss", "val_loss", "learning_rate"):
        expected = [(row["update"], row[name]) for row in rows(trainer) if name in row]
        found = [(event.step, event.value) for event in log.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        np.testing.assert_allclose([value for _, value in found], [value for _, value in expected], rtol=1e-6)


def test_trackers_that_are_unknown_or_not_installed(make):
    with pytest.raises(TrainingFault) as error:
        make(log_with=("tensorbord",))
    allowed = ", ".join(map(str, LOGGER_TYPE_TO_CLASS))
    assert str(error.value) == (
        f"training.log_with: unknown tracker 'tensorbord'. Allowed: {allowed}. Did you mean 'tensorboard'?"
    )
    absent = sorted(set(map(str, LOGGER_TYPE_TO_CLASS)) - set(map(str, get_available_trackers())))
    if not absent:
        pytest.skip("every tracker is installed")
    with pytest.raises(TrainingFault) as error:
        make(log_with=("tensorboard", absent[0]))
    assert str(error.value).startswith(f"training.log_with: {absent[0]} is not installed; `pip install ")


def test_a_batch_that_cannot_be_shared(make):
    with pytest.raises(TrainingFault) as error:
        make(batch_per_task=5, gradient_accumulation=3)
    assert str(error.value) == (
        "training.batch_per_task: 5 windows of 2 tasks are 10, which 1 processes with gradient_accumulation=3 "
        "cannot share equally; choose a multiple of 3"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": 0}, "updates: should be at least 1, got 0."),
        ({"keep_checkpoints": 0}, "keep_checkpoints: should be at least 1, got 0."),
        ({"learning_rate": -1e-3}, "learning_rate: should be at least 0, got -0.001."),
        ({"ema_decay": 1.0}, "ema_decay: should be at least 0 and below 1, got 1.0."),
        ({"validation": 1.0}, "validation: should be at least 0 and below 1, got 1.0."),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(RecipeError) as error:
        Training(**settings)
    assert str(error.value) == message


# numbers of half the size


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_bfloat16_learns_the_same_but_for_rounding(make, accumulation):
    exact = make("exact", updates=30, batch_per_task=16, log_every=10, validate_every=30)
    exact.run()
    AcceleratorState._reset_state()  # a process keeps the precision it began with
    try:
        rough = make(
            "rough", updates=30, batch_per_task=16, log_every=10, validate_every=30,
            gradient_accumulation=accumulation, accelerator=Accelerator(mixed_precision="bf16"),
        )  # fmt: skip
        seen = []
        rough.pipeline.backbone.head[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        outcome = rough.run()
    finally:
        AcceleratorState._reset_state()
    assert seen.count(torch.bfloat16) >= 30 * accumulation
    for a, b in zip(rows(exact), rows(rough), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.02)
    assert outcome["val_loss"] == pytest.approx(rows(exact)[-1]["val_loss"], rel=0.02)
    assert {value.dtype for value in rough.ema.shadow_params} == {torch.float32}
    trained = result(rough)
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert all(value.isfinite().all() for value in trained.values())
    assert any(not torch.equal(trained[name], value) for name, value in result(exact).items())


def test_a_planner_of_bfloat16_plans_almost_the_same(make, prompts):
    trainer = make(updates=60, batch_per_task=16)
    trainer.run()
    pipe = trainer.pipeline
    prompt = Prompt(states=prompts.states[5:9], actions=prompts.actions[5:9])
    limits = pipe.normalizer.state_loc.clone(), pipe.normalizer.state_scale.clone()
    plans = {}
    for dtype in (torch.float32, torch.bfloat16):
        pipe.to(dtype)
        plans[dtype] = pipe(
            prompt=prompt, history=np.full((1, 5), 0.3, np.float32), generator=torch.Generator().manual_seed(0)
        ).actions.float()  # fmt: skip
    assert plans[torch.bfloat16].isfinite().all()
    assert (plans[torch.bfloat16] - plans[torch.float32]).abs().max() < 0.05
    assert not torch.equal(plans[torch.bfloat16], plans[torch.float32])
    assert {parameter.dtype for parameter in pipe.backbone.parameters()} == {torch.bfloat16}
    assert torch.equal(pipe.normalizer.state_loc, limits[0]) and torch.equal(pipe.normalizer.state_scale, limits[1])
