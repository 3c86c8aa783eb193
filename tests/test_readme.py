"""What the README promises, run as written: the demonstration, the Python blocks, the recipe, the error messages."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtdiff import TrajectoryDataset
from mtdiff.errors import RecipeError
from mtdiff.recipe import load_recipe, shipped_recipes

README = Path(__file__).parents[1].joinpath("README.md").read_text()
# Everything real, only small: a second's training and a handful of short episodes.
SMALL = (
    "data.trajectories_per_task=3 data.prompts_per_task=2 training.updates=20 training.validate_every=10 "
    "training.log_every=10 evaluation.episodes_per_task=1 evaluation.max_steps=60 sampling.prompts_per_task=2"
).split()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the demonstration ran, and what it printed."""
    folder = tmp_path_factory.mktemp("readme")
    return folder, run(folder, "-m", "mtdiff", "demo", "quickstart", *SMALL).stdout


@pytest.mark.slow
def test_the_demonstration_ends_with_its_line_and_a_report(demonstrated: tuple[Path, str]) -> None:
    folder, printed = demonstrated
    form = r"demo: mean success \d\.\d\d over 4 tasks in \d+\.\d min, report at (\S+)"
    last = re.fullmatch(form, printed.strip().splitlines()[-1])
    assert last, printed
    page = (folder / last[1]).read_text()
    for task in ("reach-v3", "push-v3", "pick-place-v3", "door-open-v3"):
        assert task in page and task in printed
    for promise in ("swapped", "held-out", "p50", "p95"):
        assert promise in page.lower(), promise
    assert "next:" in printed and "evaluate outputs/demo" in printed


@pytest.mark.slow
def test_a_second_demonstration_repeats_only_what_changed(demonstrated: tuple[Path, str]) -> None:
    folder, _ = demonstrated
    weights = next((folder / "outputs" / "runs").glob("quickstart-*/pipeline/backbone/*.safetensors"))
    trained = weights.stat().st_mtime_ns
    findings = set((folder / "outputs/demo/evaluation").iterdir())

    same = run(folder, "-m", "mtdiff", "demo", "quickstart", *SMALL, "--json")
    assert weights.stat().st_mtime_ns == trained, "trained again"
    assert set((folder / "outputs/demo/evaluation").iterdir()) == findings, "evaluated again"
    assert "train:" not in same.stderr and "evaluate:" not in same.stderr

    other = run(folder, "-m", "mtdiff", "demo", "quickstart", *SMALL, "sampling.num_inference_steps=2", "--json")
    assert "train:" not in other.stderr and "evaluate:" in other.stderr
    assert len(set((folder / "outputs/demo/evaluation").iterdir()) - findings) == 1
    assert json.loads(other.stdout)["run"] == json.loads(same.stdout)["run"]


@pytest.mark.slow
def test_the_python_blocks_run(demonstrated: tuple[Path, str]) -> None:
    folder, _ = demonstrated
    code = blocks("python")
    assert len(code) >= 2
    check = "assert plan.shape == (1, 8, 4) and plan.abs().max() <= 1\nassert 0 <= result.mean_success <= 1\n"
    (folder / "readme.py").write_text("\n".join(code) + check)
    run(folder, "readme.py")


def test_the_error_messages_are_those_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = next(block for block in blocks("text") if "gtp2" in block).strip().splitlines()
    monkeypatch.chdir(tmp_path)
    for line in shown:
        number, key = re.match(r"my\.yaml:(\d+): (\S+):", line).groups()  # type: ignore[union-attr]
        value = {"backbone.name": "gtp2", "training.updates": "0"}[key]
        section, argument = key.split(".")
        Path("my.yaml").write_text(
            "extends: quickstart\n" + "\n" * (int(number) - 2) + f"{section}: {{{argument}: {value}}}\n"
        )
        with pytest.raises(RecipeError) as caught:
            load_recipe("my.yaml")
        assert str(caught.value) == line


def test_the_recipes_shown_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tasks, two = ["earth", "moon"], (np.ones((31, 3)), np.zeros((30, 1)), np.zeros(30))
    states, actions, rewards = ([array] * 2 for array in two)
    shown = TrajectoryDataset.from_arrays(states=states, actions=actions, rewards=rewards, tasks=tasks)
    shown.save("pendulum", prompts=shown)
    for name in ("my.yaml", "pendulum.yaml"):
        Path(name).write_text(next(block for block in blocks("yaml") if block.startswith(f"# {name}\n")))
    mine, pendulum = load_recipe("my.yaml"), load_recipe("pendulum.yaml")
    assert mine.get("backbone.name") == "residual_mlp" and "num_heads" not in mine.get("backbone")
    assert mine.get("sampling.scheduler.solver_order") == 3
    assert pendulum.build("suite").state_dim == 3 and pendulum.get("conditioning.task.input_norm") is False


def test_every_shipped_recipe_resolves_and_says_how_to_run_it() -> None:
    shipped = shipped_recipes()
    assert len(shipped) >= 3
    for name, path in shipped.items():
        recipe = load_recipe(name)
        assert load_recipe({**recipe.values}).hash() == recipe.hash()
        assert re.match(r"#.*\n(#.*\n)*#   mtdiff ", path.read_text()), f"{path}: its header shows no command"
