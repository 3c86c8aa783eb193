"""A planner saved and loaded: the idioms users type, every way of loading, what is in the folder, precision."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler

import mtdiff
from mtdiff.compose import compose
from mtdiff.errors import MTDiffError
from mtdiff.pipelines import PlannerPipeline, PromptLibrary
from mtdiff.whole import seal

HISTORY = torch.linspace(-1, 1, 15).reshape(3, 5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def plan(pipe, **changes):
    arguments = {"prompt": "reach-v3", "history": HISTORY, "generator": seeded()} | changes
    return pipe(**arguments).actions


def test_idioms_as_users_type_them(planner, tmp_path):
    planner.save_pretrained(tmp_path / "in")
    pipe = mtdiff.load(tmp_path / "in")
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.to("cpu")
    g = torch.Generator().manual_seed(0)
    actions = pipe(
        prompt="push-v3", history=HISTORY, target_return=1.0, num_inference_steps=10, guidance_scale=1.2, generator=g
    ).actions
    assert actions.shape == (1, 8, 2)
    assert actions.dtype == torch.float32
    assert actions.abs().max() <= 1
    assert actions.std() > 1e-3
    pipe.save_pretrained(tmp_path / "out")
    again = PlannerPipeline.from_pretrained(tmp_path / "out")
    assert torch.equal(
        actions,
        again("push-v3", HISTORY, 1.0, num_inference_steps=10, guidance_scale=1.2, generator=seeded()).actions,
    )


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
def test_a_swapped_scheduler_samples_and_is_saved(planner, tmp_path, scheduler):
    planner.scheduler = scheduler.from_config(planner.scheduler.config)
    steps = {"num_inference_steps": 5}  # DDIM wants a divisor of the 50 timesteps of training
    before = plan(planner, **steps)
    planner.save_pretrained(tmp_path)
    again = PlannerPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is scheduler
    assert torch.equal(before, plan(again, **steps))


@pytest.mark.parametrize("load", [PlannerPipeline.from_pretrained, DiffusionPipeline.from_pretrained, mtdiff.load])
def test_every_way_of_loading_gives_the_same_samples(planner, tmp_path, load):
    planner.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is PlannerPipeline
    for options in ({}, {"guidance_scale": 1.5, "target_return": 0.3}, {"num_inference_steps": 2, "temperature": 1.0}):
        assert torch.equal(plan(planner, **options), plan(again, **options))
    for name in ("execute", "temperature", "target_return", "prompt_policy", "suite"):
        assert again.config[name] == planner.config[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "load",
    [
        "import mtdiff.pipelines; from diffusers import DiffusionPipeline as P; pipe = P.from_pretrained(folder)",
        "import mtdiff; pipe = mtdiff.load(folder)",
        "from mtdiff import PlannerPipeline; pipe = PlannerPipeline.from_pretrained(folder)",
    ],
)
def test_loading_in_a_fresh_process(planner, tmp_path, load):
    planner.save_pretrained(tmp_path / "pipe")
    torch.save(plan(planner), tmp_path / "here.pt")
    code = f"""
folder, out = {str(tmp_path / "pipe")!r}, {str(tmp_path)!r}
{load}
import torch
torch.set_num_threads({torch.get_num_threads()})
history = torch.linspace(-1, 1, 15).reshape(3, 5)
there = pipe(prompt="reach-v3", history=history, generator=torch.Generator().manual_seed(0)).actions
assert torch.equal(there, torch.load(out + "/here.pt")), (there - torch.load(out + "/here.pt")).abs().max()
print(type(pipe).__module__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "mtdiff.pipelines.planner"


def test_what_is_saved(planner, values, dataset, prompts, tmp_path):
    values["backbone"] = {"name": "residual_mlp", "width": 16}
    for pipe, backbone in ((planner, "GPT2Backbone"), (compose(values, dataset, prompts)[0], "ResidualMLPBackbone")):
        pipe.save_pretrained(tmp_path / backbone)
        index = json.loads((tmp_path / backbone / "model_index.json").read_text())
        components = {name: value for name, value in index.items() if isinstance(value, list)}
        assert components.pop("copies") == [None, None]  # nothing was fine-tuned
        assert components == {
            "backbone": ["mtdiff", backbone],
            "conditioning": ["mtdiff", "Conditioning"],
            "representation": ["mtdiff", "ActionsRepresentation"],
            "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
            "normalizer": ["mtdiff", "Normalizer"],
            "prompts": ["mtdiff", "PromptLibrary"],
        }
        assert index["_class_name"] == "PlannerPipeline"
        weights = [path for path in (tmp_path / backbone).rglob("*") if path.suffix not in (".json", ".safetensors")]
        assert [path for path in weights if path.is_file()] == []
        assert all(hasattr(mtdiff, name) for library, name in components.values() if library == "mtdiff")


def test_a_planner_without_any_condition(values, dataset, tmp_path):
    values["conditioning"] = {}
    pipe = compose(values, dataset, None)[0]
    actions = pipe(generator=seeded()).actions
    pipe.save_pretrained(tmp_path)
    assert torch.equal(actions, mtdiff.load(tmp_path)(generator=seeded()).actions)
    assert pipe(generator=[seeded(1), seeded(2)]).actions.shape == (2, 8, 2)


def test_load_says_what_is_not_there(tmp_path):
    with pytest.raises(MTDiffError) as error:
        mtdiff.load(tmp_path / "a" / "b" / "c")
    assert "no such run or pipeline folder" in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MTDiffError) as error:
        mtdiff.load(tmp_path / "empty")
    assert "neither a run nor a saved pipeline" in str(error.value)


def test_prompts_travel_and_are_cut_from_the_demonstrations(planner, prompts, tmp_path):
    planner.save_pretrained(tmp_path)
    library = PlannerPipeline.from_pretrained(tmp_path).prompts
    assert list(library) == ["push-v3", "reach-v3"]
    assert len(library) == 2
    assert "reach-v3" in library
    for task in library:
        assert len(library[task]) == 3
        used = set()
        for kept, prompt in zip(planner.prompts[task], library[task], strict=True):
            assert torch.equal(kept.states, prompt.states)
            assert torch.equal(kept.actions, prompt.actions)
            places = [
                (e, t)
                for e in range(len(prompts))
                for t in range(prompts.lengths[e] - 3)
                if np.array_equal(prompts[e].states[t : t + 4], prompt.states)
                and np.array_equal(prompts[e].actions[t : t + 4], prompt.actions)
            ]
            assert [prompts[e].task for e, _ in places] == [task]
            used.add(places[0][0])
        assert len(used) == {"push-v3": 2, "reach-v3": 3}[task]  # spread over all there are


def test_defaults_travel_with_the_pipeline(values, dataset, prompts, tmp_path):
    values["sampling"] |= {"num_inference_steps": 3, "guidance_scale": 1.7, "temperature": 0.3, "target_return": 0.6}
    pipe = compose(values, dataset, prompts)[0]
    pipe.save_pretrained(tmp_path)
    options = {"num_inference_steps": 3, "guidance_scale": 1.7, "temperature": 0.3, "target_return": 0.6}
    assert torch.equal(plan(mtdiff.load(tmp_path)), plan(pipe, **options))
    assert not torch.equal(plan(pipe), plan(pipe, temperature=1.0))


def test_a_library_of_no_prompts_is_saved(tmp_path):
    PromptLibrary().save_pretrained(tmp_path)
    assert len(PromptLibrary.from_pretrained(tmp_path)) == 0


@pytest.mark.parametrize("cast", ["to", "from_pretrained"])
def test_half_precision(planner, tmp_path, cast):
    expected = plan(planner)
    kept = planner.prompts["reach-v3"][0]
    if cast == "to":
        pipe = planner.to(torch.bfloat16)
    else:
        planner.save_pretrained(tmp_path)
        pipe = DiffusionPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert pipe.backbone.dtype == torch.bfloat16
    for part in (pipe.normalizer, pipe.prompts):
        assert {value.dtype for value in part.state_dict().values()} == {torch.float32}
    assert torch.equal(pipe.prompts["reach-v3"][0].states, kept.states)
    for options in ({}, {"guidance_scale": 1.5, "num_inference_steps": 8}):
        actions = plan(pipe, **options)
        assert actions.dtype == torch.float32
        assert actions.isfinite().all()
    torch.testing.assert_close(plan(pipe), expected, atol=0.05, rtol=0)  # eight bits of mantissa


def test_checksums_are_void_once_a_user_saves_into_the_same_folder(planner, tmp_path):
    planner.save_pretrained(tmp_path)
    seal(tmp_path)
    with torch.no_grad():
        planner.backbone.positions.add_(1)
    planner.save_pretrained(tmp_path)
    assert torch.equal(mtdiff.load(tmp_path).backbone.positions, planner.backbone.positions)
