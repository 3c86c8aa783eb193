"""Both stages on a point that learns within seconds: what is learnt, what is kept, what is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from finetune_toy import recipe, recordings
from safetensors.torch import load_file
from typer.testing import CliRunner

import mtdiff
from mtdiff.cli import app
from mtdiff.environments.vector import VectorEnv
from mtdiff.errors import MTDiffError, TrainingFault
from mtdiff.evaluation import Evaluation, evaluate
from mtdiff.finetuning.stages import finetune
from mtdiff.finetuning.tuner import Tuner
from mtdiff.pipelines.copies import weights_of
from mtdiff.recipe import load_recipe
from mtdiff.sharing.push import push

SMALL = ["finetune.environment_steps=800", "finetune.goals=2", "finetune.checkpoint_every=1", "finetune.epochs=1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def pretrained(root: Path) -> Path:
    """A run of stage one, on data of which nobody can tell which task they are of."""
    return mtdiff.train(recipe(), dataset=recordings(), root=root).folder


@pytest.mark.slow
def test_it_learns_each_task_and_one_pipeline_holds_all(pretrained: Path, root: Path) -> None:
    done = finetune(pretrained, root=root, workers=1, progress=False)
    pipe, before = mtdiff.load(done["run"]), mtdiff.load(pretrained)
    suite, settings = load_recipe(recipe()).build("suite"), Evaluation(episodes_per_task=40, workers=1)
    begun = evaluate(mtdiff.PlannerAgent(before), suite, settings=settings, progress=False).by_task
    found = evaluate(mtdiff.PlannerAgent(pipe), suite, settings=settings, progress=False).by_task
    for task in suite.tasks:
        assert begun[task].success < 0.6 and found[task].success > 0.9
        assert done["tasks"][task]["environment_steps"] <= 9000
    # One network cannot do both: the same state asks for opposite actions. The copies are told apart by their task.
    told = dict(zip(suite.tasks, reversed(suite.tasks), strict=True))
    swapped = evaluate(mtdiff.PlannerAgent(pipe), suite, settings=settings, told=told, progress=False)
    assert swapped.mean_success < 0.5
    # Nothing is done twice.
    times = {path: path.stat().st_mtime_ns for path in (root / "finetuned").rglob("*.safetensors")}
    again = finetune(pretrained, root=root, workers=1, progress=False)
    assert again["run"] == done["run"] and all(one["reused"] for one in again["tasks"].values())
    assert times == {path: path.stat().st_mtime_ns for path in (root / "finetuned").rglob("*.safetensors")}
    one = finetune(pretrained, ["finetune.tasks=[turned]"], root=root, workers=1, progress=False)
    assert one["tasks"]["turned"]["reused"] and one["run"] != done["run"]
    assert list(mtdiff.load(one["run"]).copies) == ["turned"]


@pytest.mark.slow
def test_pushed_and_pulled_it_has_every_copy(pretrained: Path, root: Path, hub: Any) -> None:
    done = finetune(pretrained, ["finetune.environment_steps=1000"], root=root, workers=1, progress=False)
    sent = push(done["run"], "user/tuned")["sent"]
    assert "copies/diffusion_pytorch_model.safetensors" in sent
    pipe, pulled = mtdiff.load(done["run"]), mtdiff.load("user/tuned")
    assert list(pulled.copies) == list(pipe.copies) == list(done["tasks"])
    state = np.array([[0.2, 0.9]], np.float32)
    plans = []
    for one in (pipe, pulled):
        agent = mtdiff.PlannerAgent(one)
        agent.reset(["turned"], [3])
        plans.append(agent.act(state, np.zeros(1, dtype=int)))
    np.testing.assert_array_equal(*plans)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["finetune.advantage=gae"],
        ["finetune.advantage=paper", "finetune.regularizer=none"],
        ["finetune.regularizer=kl", "finetune.timesteps=1", "finetune.ema_decay=0.9"],
        ["finetune.policy_weight=0"],
    ],
)
def test_a_killed_fine_tuning_goes_on_to_the_same_weights(pretrained: Path, root: Path, overrides: list[str]) -> None:
    """The second is stopped in the middle of an iteration; what it had collected since its checkpoint is lost."""
    chosen = [*SMALL, "finetune.tasks=[straight]", "finetune.initial_rollouts=4", *overrides]
    loaded = load_recipe(pretrained / "recipe.yaml", chosen)
    suite, settings = loaded.build("suite"), loaded.build("finetune")
    pipe = mtdiff.load(pretrained)
    kill = {"at": 0}
    tuners = []

    def tuner(name: str, environments: VectorEnv) -> Tuner:
        place = root / "killed" / "-".join(overrides) / name
        return Tuner(pipe, environments, "straight", settings, limit=24, folder=place, progress=False)

    class Killed(Exception):
        pass

    with VectorEnv(suite, ["straight"] * 8, workers=1) as environments:
        tuners.append(tuner("whole", environments))
        whole = tuners[0].run()
        broken = tuner("broken", environments)
        plan = broken.policy.plan

        def dies(*arguments: Any) -> Any:
            kill["at"] += 1
            if kill["at"] == 15:
                raise Killed
            return plan(*arguments)

        broken.policy.plan = dies  # type: ignore[method-assign]
        with pytest.raises(Killed):
            broken.run()
        assert 0 < broken.progress.iterations < whole["iterations"]
        tuners.append(tuner("broken", environments))
        resumed = tuners[1].run(resume=True)
    same = ("iterations", "updates", "episodes", "environment_steps", "success")
    assert {key: whole[key] for key in same} == {key: resumed[key] for key in same}
    mine, theirs = (one.weights() for one in tuners)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in one.metrics.read(one.metrics.path)]
        for one in tuners
    ]
    assert rows[0] == rows[1] and len(rows[0]) == whole["iterations"]
    begun = weights_of(pipe)
    assert any(not torch.equal(mine[name], begun[name]) for name in begun)


@pytest.mark.slow
def test_an_interrupted_one_is_neither_forgotten_nor_taken_for_finished(pretrained: Path, root: Path) -> None:
    overrides = [*SMALL, "finetune.tasks=[turned]", "finetune.seed=5"]
    with pytest.raises(MTDiffError, match="success_key .nothing. was in no info"):
        finetune(pretrained, [*overrides, "suite.success_key=nothing"], root=root, workers=1, progress=False)
    done = finetune(pretrained, overrides, root=root, workers=1, progress=False)
    place = Path(done["tasks"]["turned"]["folder"])
    (place / "finetune.json").unlink()
    (place / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(TrainingFault) as error:
        finetune(pretrained, overrides, root=root, workers=1, progress=False)
    assert str(error.value) == (
        f"{place} holds an interrupted fine-tuning. Go on with --resume, or begin anew with --restart"
    )
    again = finetune(pretrained, overrides, root=root, workers=1, progress=False, restart=True)
    assert not again["tasks"]["turned"]["reused"] and again["run"] == done["run"]


@pytest.mark.slow
def test_pre_training_loss_needs_the_data_of_stage_one(pretrained: Path, root: Path) -> None:
    with pytest.raises(MTDiffError) as error:
        finetune(pretrained, [*SMALL, "finetune.regularizer=pretraining"], root=root, workers=1, progress=False)
    message = "finetune.regularizer: pretraining needs the data of stage one, which are not at None"
    assert str(error.value) == message


@pytest.mark.slow
def test_on_the_command_line(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a recipe: both stages, then an evaluation of the one pipeline, and a second call that does nothing."""
    recordings().save(tmp_path / "data")
    told = recipe(data={"name": "folder", "path": str(tmp_path / "data")})
    told["training"]["updates"] = 50
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(told))
    monkeypatch.chdir(tmp_path)
    command = ["finetune", "toy.yaml", *SMALL, "finetune.regularizer=pretraining", "--task", "turned", "--seed", "3"]
    command += ["--workers", "1", "--json"]

    def run(*arguments: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    document = run(*command)
    assert list(document["tasks"]) == ["turned"] and document["tasks"]["turned"]["content"]["finetune"]["seed"] == 3
    assert not document["tasks"]["turned"]["reused"] and run(*command)["tasks"]["turned"]["reused"]
    weights = load_file(Path(document["tasks"]["turned"]["folder"]) / "weights.safetensors")
    assert all(
        torch.equal(value, weights[name]) for name, value in mtdiff.load(document["run"]).copies["turned"].items()
    )
    found = run("evaluate", document["run"], "evaluation.episodes_per_task=4", "--json")
    assert set(found["tasks"]) == {"straight", "turned"}
    assert np.isfinite(found["mean_success"]) and Path(found["report"]).is_file()
    # What was said of this copy is not what stage one's run says of the next.
    told_of = load_recipe(Path(document["pretrained"]) / "recipe.yaml").get("finetune")
    assert told_of["tasks"] is None and told_of["seed"] == 0 and told_of["environment_steps"] == 9000
    stage_one = run("evaluate", document["pretrained"], "evaluation.episodes_per_task=4", "--json")
    assert stage_one["tasks"]["straight"] == found["tasks"]["straight"]  # which has no copy


@pytest.mark.slow
def test_a_run_whose_recipe_names_tasks_of_another_suite(root: Path) -> None:
    told = recipe(finetune__tasks=["turned"])
    told["training"]["updates"] = 20
    run = mtdiff.train(told, dataset=recordings(), root=root).folder
    done = finetune(run, [*SMALL, "suite.tasks={backward: {turned: true}}"], root=root, workers=1, progress=False)
    assert list(done["tasks"]) == ["straight", "turned", "backward"]


@pytest.mark.slow
def test_what_cannot_be_changed_of_a_run(pretrained: Path, root: Path) -> None:
    with pytest.raises(MTDiffError) as error:
        finetune(pretrained, ["backbone.width=64"], root=root)
    assert str(error.value) == (
        "command line: backbone.width=64: the fine-tuning of a run can change suite, sampling, evaluation, finetune, "
        "got backbone. Anything else needs pre-training"
    )
    done = finetune(pretrained, [*SMALL, "finetune.tasks=[straight]"], root=root, workers=1, progress=False)
    with pytest.raises(MTDiffError) as error:
        finetune(done["run"], root=root)
    assert str(error.value) == (f"{done['run']}: is fine-tuned already. Give the run that it came from, or its recipe")
