"""Planners in mazes: the map and the path as conditions, relative coordinates, unseen maps, copied paths, drawings."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mtdiff.cli import app
from mtdiff.compose import compose, windows
from mtdiff.conditioning import Map, PathPrompt, RelativeHistory
from mtdiff.data.trajectories import TrajectoryDataset
from mtdiff.environments.maze2d import Maze2D
from mtdiff.errors import DataError
from mtdiff.evaluation import Evaluation, ScriptedAgent, evaluate
from mtdiff.evaluation.copy_path import CopyPathAgent
from mtdiff.evaluation.map_plans import Plans, draw_plans, drawing
from mtdiff.evaluation.results import EvaluationResult
from mtdiff.pipelines.agent import PlannerAgent

SUITE = {"name": "maze2d", "tasks": ["maze-1", "maze-2"]}
TINY = {
    "seed": 0,
    "suite": SUITE,
    "normalization": {},
    "representation": {"name": "actions", "horizon": 8},
    "backbone": {"name": "residual_mlp", "width": 16, "num_layers": 1},
    "scheduler": {"name": "ddpm", "num_train_timesteps": 20, "prediction_type": "sample"},
    "sampling": {"scheduler": {"name": "dpm_solver"}, "num_inference_steps": 2, "prompts_per_task": 2},
}
HISTORY = {"name": "history", "length": 3, "hidden": (16,), "input_norm": False}
PATH = {"name": "path_prompt", "length": 10, "spacing": "even", "hidden": (16,)}


@pytest.fixture(scope="module")
def data():
    """Walks of the demonstrator on two maps."""
    suite, episodes = Maze2D(**{k: v for k, v in SUITE.items() if k != "name"}), []
    for task in suite.tasks * 2:
        environment, act = suite.make(task), suite.demonstrator(task)
        states, actions = [environment.reset(len(episodes))], []
        for _ in range(60):
            actions.append(act(environment.full_state))
            states.append(environment.step(actions[-1])[0])
        episodes.append((task, np.stack(states), np.stack(actions)))
    tasks, states, actions = zip(*episodes, strict=True)
    return TrajectoryDataset.from_arrays(
        states=states, actions=actions, rewards=[np.zeros(60, np.float32)] * 4, tasks=list(tasks)
    )


def planner(data, **conditioning):
    pipe, _ = compose({**TINY, "conditioning": conditioning}, data, data)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---- conditions


@pytest.mark.parametrize("tokens", ["whole", "cells"])
def test_a_map_is_shown_cell_by_cell(tokens):
    torch.manual_seed(0)
    part = Map(tokens=tokens, hidden=(16,), map_shape=(5, 6), width=8).eval()
    grid = torch.randint(-1, 2, (3, 5, 6)).float()
    shown = part({"map": grid})
    assert shown.shape == (3, part.num_tokens, 8) and part.num_tokens == (12 if tokens == "cells" else 1)
    other = grid.clone()
    other[:, 0], other[:, :, -1] = 1.0, -1.0  # the edge is the same in every map, and not looked at
    assert torch.equal(part({"map": other}), shown)
    other[1, 2, 3] = -1.0 if grid[1, 2, 3] == 1.0 else 1.0
    changed = (part({"map": other}) != shown).any(-1)
    assert changed.nonzero().tolist() == [[1, 6 if tokens == "cells" else 0]]  # row 1 of 3, column 2 of 4
    if tokens == "cells":  # the same kind of cell is told apart by its place
        assert not torch.equal(*part({"map": torch.ones(1, 5, 6)})[0, [0, 1]])
    with pytest.raises(ValueError, match=r"^map: must have shape \(5, 6\), got \(6, 6\)$"):
        part({"map": torch.ones(1, 6, 6)})
    with pytest.raises(ValueError, match=r"^needs a suite whose tasks have maps, all of one size$"):
        Map(width=8)


@pytest.mark.parametrize("tokens", ["whole", "steps"])
def test_a_relative_path_and_history_do_not_tell_where_they_are(tokens):
    torch.manual_seed(0)
    sizes = {"state_dim": 4, "width": 8, "hidden": (16,)}
    path = PathPrompt(length=5, relative=(0, 1), tokens=tokens, action_dim=2, **sizes).eval()
    history = RelativeHistory(length=3, **sizes).eval()
    fields = {
        "prompt_states": torch.randn(2, 5, 4), "prompt_actions": torch.randn(2, 5, 2), "history": torch.randn(2, 3, 4),
    }  # fmt: skip
    fields["history"][1, 0] = 0.0  # before the episode began
    fields["present"] = fields["history"][:, -1]

    def moved(by, what):
        by = torch.tensor([*by, 0.0, 0.0])
        began = (fields["history"] != 0).any(-1, keepdim=True)
        there = {**fields, "history": torch.where(began, fields["history"] + by, 0.0)}
        there["prompt_states"] = fields["prompt_states"] + (by if what == "both" else 0.0)
        return {**there, "present": there["history"][:, -1]}

    for part in (path, history):
        torch.testing.assert_close(part(moved((3.0, -2.0), "both")), part(fields))
    assert not torch.allclose(path(moved((3.0, -2.0), "agent")), path(fields))
    assert (path.lifetime, path.reads) == ("plan", ("prompt_states", "prompt_actions", "present"))
    still = PathPrompt(length=5, action_dim=2, **sizes)
    assert (still.lifetime, still.reads) == ("episode", ("prompt_states", "prompt_actions"))
    with pytest.raises(ValueError, match="^relative: must be numbers of a state, from 0 to 3, got 4$"):
        RelativeHistory(relative=(0, 4), **sizes)


def test_batches_show_every_sample_the_map_of_its_task(data):
    pipe = planner(data, map={"name": "map", "hidden": (16,)}, task={**PATH, "relative": (0, 1)}, history=HISTORY)
    fields = windows(pipe, data, data).sample(3, torch.Generator().manual_seed(0))
    suite = Maze2D(tasks=["maze-1", "maze-2"])
    for task, grid in zip(fields["task"], fields["map"], strict=True):
        np.testing.assert_array_equal(grid, suite.grid(suite.tasks[task]))
    assert torch.equal(fields["present"], fields["history"][:, -1])
    assert pipe.conditioning.config.map_shape == [8, 8]


# ---- planning


def test_a_planner_is_shown_a_map_by_name_as_a_drawing_or_as_numbers(data, tmp_path):
    import mtdiff

    pipe = planner(data, map={"name": "map", "hidden": (16,)}, history=HISTORY)
    pipe.save_pretrained(tmp_path)
    pipe = mtdiff.load(tmp_path)
    drawn = Maze2D(tasks="maze-1").map("maze-1")
    seed = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    told = {"history": np.zeros((1, 4)), "generator": seed()}
    expected = pipe(map="maze-1", **told).actions
    for other in (drawn.text, drawn.grid(goal=True), torch.from_numpy(drawn.grid(goal=True))):
        assert torch.equal(pipe(map=other, **{**told, "generator": seed()}).actions, expected)
    assert not torch.equal(pipe(map="maze-2", **{**told, "generator": seed()}).actions, expected)
    prefix = pipe.prefix(map="maze-1")
    torch.testing.assert_close(pipe(prefix=prefix, **{**told, "generator": seed()}).actions, expected)
    with pytest.raises(ValueError, match="^map: is part of the prefix"):
        pipe(prefix=prefix, map="maze-1", **told)
    with pytest.raises(DataError) as caught:
        pipe(map="####\n#.G#\n####", **told)
    assert str(caught.value) == (
        "map: must have 8 rows and 8 columns, as those that this planner was trained on, got 3 and 4 (too much or "
        "missing: X).\n" + "\n".join(f"  {row}" for row in ["####XXXX", "#.G#XXXX", "####XXXX", *["XXXXXXXX"] * 5])
    )
    with pytest.raises(DataError, match=r"^map: the drawing is not closed: there is no wall in row 1, column 2"):
        pipe(map="#.##\n#.G#\n####", **told)
    with pytest.raises(DataError, match=r"^map: this planner was trained with it, so a plan needs it; got nothing$"):
        pipe(**told)


@pytest.mark.parametrize("policy", ["episode", "pool", "every_plan"])
def test_an_agent_shows_the_path_from_where_it_is(data, policy):
    pipe = planner(data, task={**PATH, "relative": (0, 1)}, history=HISTORY, map={"name": "map", "hidden": (16,)})
    pipe.register_to_config(prompt_policy=policy)
    agent = PlannerAgent(pipe, execute=2)
    state = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    agent.reset(["maze-1", "maze-2"], [3, 4])
    actions = agent.act(state, np.arange(2))
    for slot, task in enumerate(["maze-1", "maze-2"]):
        generator = torch.Generator().manual_seed(3 + slot)
        told = int(torch.randint(2, (1,), generator=generator))
        if policy != "episode":  # drawn again for every plan
            told = int(torch.randint(2, (1,), generator=generator))
        plan = pipe(
            prompt=pipe.prompts[task][told],
            map=task,
            history=state[slot : slot + 1],
            generator=generator,
            num_actions=2,
        ).actions
        np.testing.assert_allclose(actions[slot], plan[0, 0], atol=1e-5)
    alone = PlannerAgent(pipe, execute=2)
    alone.reset(["maze-1"], [3])
    np.testing.assert_allclose(alone.act(state[:1], np.arange(1)), actions[:1], atol=1e-5)


# ---- evaluation


@pytest.fixture(scope="module")
def walked():
    suite = Maze2D(tasks=["maze-1", "spiral"])
    return evaluate(ScriptedAgent(suite), suite, settings=Evaluation(episodes_per_task=3, workers=1), progress=False)


def test_an_evaluation_says_what_the_suite_says_of_episodes(walked):
    assert walked.mean_success == 1.0
    for task in walked.by_task:
        own = [e for e in walked.episodes if e.task == task]
        expected = {"success in 200 steps": np.mean([e.steps <= 200 for e in own])}
        expected["path / shortest"] = np.mean([e.scores["path / shortest"] for e in own])
        assert walked.scores(task) == pytest.approx(expected) and expected["path / shortest"] >= 1
    ratios = [walked.scores(task)["path / shortest"] for task in walked.by_task]
    assert walked.scores()["path / shortest"] == pytest.approx(np.mean(ratios))
    again = EvaluationResult.from_dict(json.loads(json.dumps(walked.to_dict())))
    assert again.episodes == walked.episodes and walked.to_dict()["tasks"]["spiral"]["scores"] == walked.scores(
        "spiral"
    )


def test_a_failed_episode_has_no_path():
    suite = Maze2D(tasks="maze-1")

    class Still:
        def reset(self, tasks, seeds): ...
        def act(self, states, slots):
            return np.zeros((len(slots), 2))

    settings = Evaluation(episodes_per_task=2, max_steps=5, workers=1)
    result = evaluate(Still(), suite, settings=settings, progress=False)
    assert result.scores() == {"success in 200 steps": 0.0}


def test_copying_the_path_works_where_the_path_leads():
    suite = Maze2D(maps={"hall": "######\n#...G#\n######", "u": "#####\n#...#\n#.#.#\n#.#G#\n#####"})
    right = np.array([[-1.5, 0.0, 0, 0], [1.5, 0.0, 0, 0]], np.float32)
    straight = np.array([[-1.0, -1.0, 0, 0], [1.0, -1.0, 0, 0]], np.float32)  # through the wall
    agent = CopyPathAgent(suite, {"hall": [right], "u": [straight]})
    result = evaluate(agent, suite, settings=Evaluation(episodes_per_task=8, workers=1), progress=False)
    assert result.by_task["hall"].success == 1.0 and result.scores("hall")["path / shortest"] < 1.1
    assert result.by_task["u"].success < 1.0


def test_plans_are_drawn_on_their_maps():
    suite = Maze2D(tasks=["maze-1", "spiral"])
    walker = ScriptedAgent(suite)
    drawings = draw_plans(walker, walker, suite, horizon=12, workers=1)
    assert list(drawings) == ["maze-1", "spiral"]
    for task, svg in drawings.items():
        assert svg.startswith(f'<svg viewBox="0 0 8 8" role="img" aria-label="{task}: 8 of 8 succeeded">')
        assert svg.count('class="plan"') == svg.count('class="walk"') == 8 and svg.count('class="start"') == 2
        assert svg.count("h1v1h-1z") == len(suite.map(task).free) and 'class="lost"' not in svg
    assert drawings == draw_plans(walker, walker, suite, horizon=12, workers=1)
    line = np.array([[0.0, 0.0], [1.0, 0.5]])
    svg = drawing(suite, "maze-1", Plans(plans=[line], walks=[line], success=[False]))
    assert svg.count('points="4.00,4.00 5.00,3.50"') == 2 and 'class="lost"' in svg and "0 of 1 succeeded" in svg


def test_the_code_of_the_tutorial_runs(capsys):
    text = (Path(__file__).parent.parent / "docs/tutorials/maze2d.md").read_text()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "maze2d.md", "exec"), {})
    assert "path / shortest" in capsys.readouterr().out
    drawn = re.search(r"yard: \|\n(.*?)```", text, re.DOTALL)[1].replace(" ", "")
    assert Maze2D(maps={"yard": drawn}).map_shape == (5, 7)


@pytest.mark.slow
def test_a_planner_is_trained_and_shown_maps_it_has_never_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    small = [
        "suite.tasks=[maze-1,maze-2]", "data.trajectories_per_task=3", "data.prompts_per_task=2", "training.updates=5",
        "training.validation=0", "backbone.width=16", "sampling.prompts_per_task=2", "training.warmup=1",
        "evaluation.episodes_per_task=1", "evaluation.max_steps=20", "evaluation.workers=1",
    ]  # fmt: skip
    done = run(app, ["train", "maze2d/planner_maps8", *small, "--json"])
    assert done.exit_code == 0, done.output
    folder = json.loads(done.stdout)["run"]
    done = run(app, ["evaluate", folder, "suite.tasks=[maze-1,held_out]"])
    assert done.exit_code == 2 and "this planner has no prompt for maze-9; it has maze-1, maze-2" in done.stderr
    done = run(app, ["evaluate", folder, "suite.tasks=[maze-1,held_out]", "--demonstrate", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert set(document["tasks"]) == {"maze-1", "maze-9"} and set(document["others"]) == {"copied path"}
    page = Path(document["report"]).read_text(encoding="utf-8")
    assert page.count("never seen in training") == 1 and page.count('<svg viewBox="0 0 8 8"') == 2
    assert "success in 200 steps: scripted expert" in page and page.count("<video") in (0, 2)
    again = run(app, ["evaluate", folder, "suite.tasks=[maze-1,held_out]", "--demonstrate", "--json"])
    assert json.loads(again.stdout)["tasks"] == document["tasks"]
