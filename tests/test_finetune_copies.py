"""One planner with a copy of its weights per task: saved, loaded and acting as one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from finetune_toy import planner

import mtdiff
from mtdiff.errors import DataError
from mtdiff.pipelines import PlannerPipeline, TaskCopies
from mtdiff.pipelines.copies import weights_of

STATES = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)


def changed(pipe: Any, by: float) -> dict[str, torch.Tensor]:
    return {name: value + by if value.ndim else value for name, value in weights_of(pipe).items()}


@pytest.fixture
def pipe() -> Any:
    made = planner()
    made.register_modules(copies=TaskCopies.of({"straight": changed(made, 0.05), "turned": changed(made, -0.05)}))
    return made


def acted(pipe: Any, *tasks: str) -> np.ndarray:
    agent = mtdiff.PlannerAgent(pipe, execute=2)
    agent.reset(tasks, range(len(tasks)))
    slots = np.arange(len(tasks))
    return np.stack([agent.act(STATES[: len(tasks)], slots) for _ in range(4)])


def test_an_agent_acts_with_the_weights_of_each_slots_task(pipe: Any) -> None:
    alone = planner()
    mixed = acted(pipe, "straight", "other", "turned", "straight")
    singles = {}
    for task, by in (("straight", 0.05), ("turned", -0.05), ("other", 0.0)):
        own = planner()
        for part in ("backbone", "conditioning"):
            getattr(own, part).load_state_dict(
                {k.removeprefix(f"{part}."): v for k, v in changed(alone, by).items() if k.startswith(part)}
            )
        singles[task] = acted(own, "straight", "other", "turned", "straight")
    for slot, task in enumerate(("straight", "other", "turned", "straight")):
        np.testing.assert_allclose(mixed[:, slot], singles[task][:, slot], atol=1e-5)
    assert not np.allclose(singles["straight"], singles["turned"], atol=1e-2)


def test_slots_that_begin_and_end_apart_keep_their_weights(pipe: Any) -> None:
    agent = mtdiff.PlannerAgent(pipe, execute=1)
    agent.reset(["straight", "turned", "straight"], range(3))
    together = agent.act(STATES[:3], np.arange(3))
    agent.reset(["straight", "turned", "straight"], range(3))
    apart = [agent.act(STATES[slot : slot + 1], np.array([slot])) for slot in (2, 0, 1)]
    np.testing.assert_allclose(together[[2, 0, 1]], np.concatenate(apart), atol=1e-6)


@pytest.mark.parametrize("load", [mtdiff.load, PlannerPipeline.from_pretrained])
def test_it_is_saved_and_loaded_as_one(pipe: Any, tmp_path: Any, load: Any) -> None:
    pipe.save_pretrained(tmp_path)
    assert [path.name for path in (tmp_path / "copies").iterdir() if path.suffix != ".json"] == [
        "diffusion_pytorch_model.safetensors"
    ]
    again = load(tmp_path)
    assert list(again.copies) == ["straight", "turned"]
    for task in again.copies:
        for name, value in pipe.copies[task].items():
            assert torch.equal(value, again.copies[task][name])
    assert np.array_equal(acted(pipe, "straight", "turned"), acted(again, "straight", "turned"))


def test_a_pipeline_without_copies_is_saved_and_loaded_as_ever(tmp_path: Any) -> None:
    plain = planner()
    plain.save_pretrained(tmp_path)
    assert not (tmp_path / "copies").exists() and mtdiff.load(tmp_path).copies is None
    index = tmp_path / "model_index.json"
    written = json.loads(index.read_text())
    del written["copies"]  # as it was before there were any
    index.write_text(json.dumps(written))
    old = mtdiff.load(tmp_path)
    assert old.copies is None and old.for_task("straight") is old
    assert np.array_equal(acted(plain, "straight"), acted(old, "straight"))


def test_the_planner_of_a_task_is_a_planner(pipe: Any) -> None:
    own = pipe.for_task("turned")
    assert isinstance(own, PlannerPipeline) and own.copies is None
    assert own.config.num_inference_steps == pipe.config.num_inference_steps
    generator = torch.Generator().manual_seed(0)
    assert own(history=STATES[:1], generator=generator).actions.shape == (1, 4, 1)
    assert all(torch.equal(value, pipe.copies["turned"][name]) for name, value in weights_of(own).items())
    assert all(torch.equal(value, weights_of(planner())[name]) for name, value in weights_of(pipe).items())


def test_copies_of_another_network_or_task() -> None:
    small, other = planner(), planner("gpt2")
    with pytest.raises(DataError) as error:
        TaskCopies.of({"straight": weights_of(small), "turned": weights_of(other)})
    assert str(error.value) == "copies: the weights of turned and of straight are not of the same network"
    copies = TaskCopies.of({"straight": weights_of(small)})
    with pytest.raises(DataError) as error:
        copies["strait"]
    assert str(error.value) == ("copies: unknown task 'strait'. Allowed: straight. Did you mean 'straight'?")


def test_half_precision_reaches_the_copies(pipe: Any, tmp_path: Any) -> None:
    pipe.save_pretrained(tmp_path)
    half = mtdiff.load(tmp_path, dtype=torch.bfloat16)
    own = half.for_task("straight")
    assert {value.dtype for value in own.backbone.parameters()} == {torch.bfloat16}
