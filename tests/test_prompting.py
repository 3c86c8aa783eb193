"""Prompts of one's own: cut out of a demonstration, kept in a file, shown to a planner."""

import json

import numpy as np
import pytest
import torch
from authors_files import ACTION_DIM, STATE_DIM, episode, write_npy
from typer.testing import CliRunner

import mtdiff
from mtdiff.cli import app
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.errors import DataError
from mtdiff.pipelines.prompts import Prompt, PromptLibrary
from mtdiff.prompting import make_prompt, prompt_files, show_prompts


def test_a_prompt_is_cut_out_of_the_best_demonstration(tmp_path, dataset):
    dataset.save(tmp_path / "d")
    task = TrajectoryDataset.load(tmp_path / "d").of_task("reach-v3")
    best = int(np.argmax(task.returns))
    prompt, about = make_prompt(tmp_path / "d", task="reach-v3", length=4)
    first = (len(task[best]) - 4) // 2
    np.testing.assert_array_equal(prompt.states, task[best].states[first : first + 4])
    np.testing.assert_array_equal(prompt.actions, task[best].actions[first : first + 4])
    assert (about["episode"], about["start"], about["episodes"]) == (best, first, 5)
    chosen, _ = make_prompt(tmp_path / "d", task="reach-v3", length=4, episode=0, start=5)
    np.testing.assert_array_equal(chosen.states, task[0].states[5:9])
    even, _ = make_prompt(tmp_path / "d", task="reach-v3", length=3, episode=0, spacing="even")
    np.testing.assert_array_equal(even.states, task[0].states[[0, 4, 8]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 30}, "{}: no demonstration of reach-v3 has 30 steps, the longest has 20."),
        ({"length": 4, "episode": 1}, "{}: episode 1 of reach-v3 has 1 steps, and 4 are asked for."),
        ({"length": 4, "episode": 5}, "{}: episode must be between 0 and 4 for reach-v3, got 5."),
        ({"length": 4, "episode": 0, "start": 6}, "start: must be between 0 and 5, so that 4 of 9 steps fit, got 6."),
        ({"length": 4, "spacing": "even", "start": 1}, "start: evenly spaced steps begin with the episode, so it "
         "cannot be chosen."),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_cut(tmp_path, dataset, arguments, message):
    dataset.save(tmp_path / "d")
    with pytest.raises(DataError) as caught:
        make_prompt(tmp_path / "d", task="reach-v3", **arguments)
    assert str(caught.value) == message.format(tmp_path / "d")


def test_a_prompt_comes_back_from_its_file(tmp_path):
    prompt = Prompt(states=torch.randn(4, 5), actions=torch.rand(4, 2))
    prompt.save(tmp_path / "new" / "p.safetensors", task="x")
    again = Prompt.load(tmp_path / "new" / "p.safetensors")
    assert torch.equal(again.states, prompt.states) and torch.equal(again.actions, prompt.actions)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.safetensors"]
    with pytest.raises(DataError, match=r"q.safetensors: there is no such prompt file$"):
        Prompt.load(tmp_path / "q.safetensors")
    (tmp_path / "q.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match=r"q.safetensors: cannot be read as safetensors \("):
        Prompt.load(tmp_path / "q.safetensors")


def test_a_planner_is_shown_prompts_of_ones_own(tmp_path, planner):
    prompt = Prompt(states=torch.randn(4, STATE_DIM), actions=torch.rand(4, ACTION_DIM))
    prompt.save(tmp_path / "p.safetensors")
    before = planner.prompts
    digest = show_prompts(planner, {"new-v3": [tmp_path / "p.safetensors"]})
    assert list(planner.prompts) == ["new-v3", "push-v3", "reach-v3"]
    assert list(before) == ["push-v3", "reach-v3"]
    assert torch.equal(planner.prompts["reach-v3"][2].states, before["reach-v3"][2].states)
    planner.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(0) for _ in range(3)]
    history = np.zeros((1, STATE_DIM))
    direct, named, other = (
        planner(prompt=p, history=history, generator=g).actions
        for p, g in zip((prompt, "new-v3", "reach-v3"), noise, strict=True)
    )
    assert torch.equal(direct, named) and not torch.equal(direct, other)
    assert digest and show_prompts(planner, {}) == ""
    planner.save_pretrained(tmp_path / "saved")
    assert torch.equal(mtdiff.load(tmp_path / "saved").prompts["new-v3"][0].actions, prompt.actions)


def test_prompts_that_do_not_fit_a_planner(tmp_path, planner):
    short, wide = tmp_path / "short", tmp_path / "wide"
    Prompt(states=torch.randn(3, STATE_DIM), actions=torch.rand(3, ACTION_DIM)).save(short)
    Prompt(states=torch.randn(4, 39), actions=torch.rand(4, 4)).save(wide)
    with pytest.raises(DataError) as caught:
        show_prompts(planner, {"push-v3": [short]})
    assert str(caught.value) == f"{short}: has 3 steps, and this planner reads prompts of 4. Make it with --length 4."
    with pytest.raises(DataError) as caught:
        show_prompts(planner, {"push-v3": [wide]})
    assert str(caught.value) == (
        f"{wide}: states and actions should have 5 and 2 numbers, as those that this planner was trained on, "
        "got 39 and 4."
    )


def test_prompts_on_the_command_line():
    assert prompt_files(["a=b", "a=c=d"]) == {"a": ["b", "c=d"]}
    with pytest.raises(DataError) as caught:
        prompt_files(["push-v3"])
    assert str(caught.value) == (
        "command line: --prompt push-v3: should be TASK=FILE, such as push-v3=push.safetensors."
    )


def test_prompt_make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_npy(tmp_path / "reach-v2_prompt.npy", [episode(0), episode(1)])
    run = CliRunner().invoke
    done = run(app, ["prompt", "make", "reach-v2_prompt.npy", "--task", "reach-v3", "--length", "5", "--json"])
    assert done.exit_code == 0, done.output
    about = json.loads(done.stdout)
    assert (about["path"], about["length"], about["steps"]) == ("reach-v3.safetensors", 5, 12)
    assert Prompt.load(about["path"]).states.shape == (5, STATE_DIM)
    done = run(app, ["prompt", "make", "reach-v2_prompt.npy", "--task", "reach-v3", "--episode", "1", "--start", "2",
                     "--length", "5", "--out", "x/p.safetensors"])  # fmt: skip
    assert done.stdout == (
        "x/p.safetensors: 5 steps of demonstration 1 of 2 of reach-v3, from step 2 of 12; not marked as successful, "
        f"return {episode(1)['rewards'].sum():.1f}\n"
    )
    done = run(app, ["prompt", "make", "nowhere", "--task", "reach-v3"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        "nowhere: there is nothing here. It should be a dataset folder, an .npz episode, a .npy prompt file or a "
        "folder of those.\n"
    )
    text = run(app, ["prompt", "make", "--help"], env={"COLUMNS": "80", "TERM": "dumb"}).stdout
    assert "prompt make [OPTIONS]" in text and "--json" in text and max(map(len, text.splitlines())) <= 80


def test_a_library_takes_more_prompts():
    one = Prompt(states=torch.randn(4, 5), actions=torch.rand(4, 2))
    two = Prompt(states=torch.randn(4, 5), actions=torch.rand(4, 2))
    library = PromptLibrary.from_prompts({"a": [one]})
    assert torch.equal(library.with_prompts({"a": [two, one]})["a"][0].states, two.states)
    assert torch.equal(PromptLibrary().with_prompts({"b": [one]})["b"][0].states, one.states)
    assert torch.equal(library["a"][0].states, one.states)


@pytest.mark.slow
def test_a_planner_is_evaluated_on_a_task_it_has_no_prompt_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    data = TrajectoryDataset.from_arrays(
        states=[rng.normal(size=(13, 3)) for _ in range(4)],
        actions=[rng.uniform(-1, 1, (12, 1)) for _ in range(4)],
        rewards=[rng.random(12) for _ in range(4)],
        tasks="earth",
    )
    recipe = {
        "suite": {"name": "gymnasium", "id": "Pendulum-v1", "tasks": {"earth": {}}},
        "representation": {"name": "actions", "horizon": 4},
        "conditioning": {"task": {"name": "trajectory_prompt", "length": 4, "hidden": [8]}},
        "backbone": {"name": "residual_mlp", "width": 8, "num_layers": 1},
        "scheduler": {"name": "ddpm", "num_train_timesteps": 10},
        "sampling": {"num_inference_steps": 2, "prompts_per_task": 1, "guidance_scale": 1.0, "execute": 4},
        "training": {"updates": 1, "batch_per_task": 2, "validation": 0.0, "log_with": []},
        "evaluation": {"episodes_per_task": 1, "max_steps": 8, "videos": False, "workers": 1},
    }
    folder = mtdiff.train(recipe, dataset=data, prompts=data, root=tmp_path).folder
    data.save("d")
    for arguments in (["d", "--task", "earth"], ["d", "--task", "earth", "--episode", "2"]):
        file = f"{len(arguments)}.safetensors"
        assert CliRunner().invoke(app, ["prompt", "make", *arguments, "--length", "4", "--out", file]).exit_code == 0

    def evaluated(*arguments):
        return CliRunner().invoke(app, ["evaluate", str(folder), *arguments, "--json"])

    both = "suite.tasks={earth: {}, moon: {g: 1.62}}"
    done = evaluated(both)
    assert done.exit_code == 2 and "this planner has no prompt for moon; it has earth" in done.stderr
    done = evaluated("--prompt", "moon=3.safetensors")
    assert done.stderr.endswith("prompt: unknown task 'moon'. Allowed: earth. Add it to suite.tasks=[...]\n")
    done = evaluated(both, "--prompt", "moon=3.safetensors")
    assert done.exit_code == 0, done.stderr
    assert set(json.loads(done.stdout)["tasks"]) == {"earth", "moon"}
    again = evaluated(both, "--prompt", "moon=3.safetensors")
    assert json.loads(again.stdout)["findings"] == json.loads(done.stdout)["findings"]
    other = evaluated(both, "--prompt", "moon=5.safetensors")
    assert json.loads(other.stdout)["findings"] != json.loads(done.stdout)["findings"], "another prompt, another result"
