"""The verbs about recipes and parts, as users run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mtdiff import cli
from mtdiff.cli import app
from mtdiff.registry import REGISTRIES


def run(*arguments: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("parent.yaml").write_text("backbone: {name: gpt2, width: 32, num_heads: 2}\n")
    Path("mine.yaml").write_text("# a comment\nextends: parent.yaml\nseed: 4\n")
    return "mine.yaml"


def test_parts_lists_every_registered_part() -> None:
    text = run("parts").stdout
    document = json.loads(run("parts", "--json").stdout)
    assert list(document) == list(REGISTRIES)
    for kind, registry in REGISTRIES.items():
        assert list(document[kind]) == registry.names()
        for name in registry:
            assert name in text
            assert registry[name].summary == document[kind][name]["summary"]
    assert list(json.loads(run("parts", "schedulers", "--json").stdout)) == ["schedulers"]


def test_parts_shows_the_arguments_of_one() -> None:
    text = run("parts", "gpt2").stdout
    assert "gpt2  backbone" in text
    for argument in REGISTRIES["backbones"]["gpt2"].arguments.values():
        assert argument.name in text
    document = json.loads(run("parts", "gpt2", "--json").stdout)
    assert document[0]["kind"] == "backbone"
    width = document[0]["arguments"]["width"]
    assert (width["type"], width["required"], isinstance(width["default"], int)) == ("int", False, True)


def test_an_unknown_part_has_a_closest_match() -> None:
    result = run("parts", "gtp2", status=2)
    assert result.stdout == ""
    assert result.stderr.startswith("unknown part 'gtp2'. Allowed: ")
    assert result.stderr.endswith("Did you mean 'gpt2'?\n")


def test_parts_of_a_third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cli_third_party.py").write_text(
        "from mtdiff.registry import BACKBONES\n\n\n@BACKBONES.register('cli_mamba')\n"
        "def cli_mamba(*, states: int = 16) -> None:\n    '''A state space model.'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert "A state space model." in run("parts", "cli_mamba", "--import", "cli_third_party").stdout
    finally:
        REGISTRIES["backbones"]._parts.pop("cli_mamba", None)
        sys.modules.pop("cli_third_party", None)
    message = run("parts", "--import", "cli_nobody", status=2).stderr
    assert message == "imports: cannot import 'cli_nobody': it is not installed here.\n"


def test_check_shows_values_and_where_they_come_from(recipe: str) -> None:
    text = run("check", recipe, "backbone.num_layers=2").stdout
    document = json.loads(run("check", recipe, "backbone.num_layers=2", "--json").stdout)
    assert document["hash"] in text
    assert (document["name"], [Path(file).name for file in document["files"]]) == (
        "mine",
        ["mine.yaml", "parent.yaml"],
    )
    assert document["values"]["backbone"]["num_layers"] == 2
    origins = {key: document["origins"][key] for key in ("seed", "backbone.width", "backbone.num_layers", "pipeline")}
    assert list(origins.values()) == ["mine.yaml:3", "parent.yaml:1", "command line", "default"]
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert "mine.yaml:3" in text
    assert lines["num_layers"] == ["num_layers", "2", "command", "line"]


def test_check_reports_everything_that_is_wrong(recipe: str) -> None:
    Path("bad.yaml").write_text("extends: mine.yaml\nbackbone:\n  widht: 3\n  num_layers: four\n")
    allowed = ", ".join(REGISTRIES["backbones"]["gpt2"].arguments)
    lines = [
        f"bad.yaml:3: backbone.widht: gpt2 takes no 'widht'. Allowed: {allowed}. Did you mean 'width'?",
        "bad.yaml:4: backbone.num_layers: should be an integer, got 'four'.",
        "command line: seed: should be an integer, got 'x'.",
    ]
    result = run("check", "bad.yaml", "seed=x", status=2)
    assert result.stdout == ""
    assert sorted(result.stderr.splitlines()) == sorted(lines)
    document = json.loads(run("check", "bad.yaml", "seed=x", "--json", status=2).stdout)
    assert document["error"]["type"] == "InvalidRecipe"
    assert {(p["file"], p["line"], p["key"]) for p in document["error"]["problems"]} == {
        ("bad.yaml", 3, "backbone.widht"), ("bad.yaml", 4, "backbone.num_layers"), ("command line", None, "seed"),
    }  # fmt: skip
    assert run("check", "mien.yaml", status=2).stderr == "no recipe at mien.yaml. Did you mean 'mine.yaml'?\n"


def test_sampling_cannot_change_the_training_schedule(recipe: str) -> None:
    result = run("check", recipe, "sampling.scheduler={name: dpm_solver, num_train_timesteps: 9}", status=2)
    assert result.stderr == (
        "command line: sampling.scheduler.num_train_timesteps: is the training scheduler's: set "
        "scheduler.num_train_timesteps.\n"
    )


def test_schema_is_printed_or_written(tmp_path: Path) -> None:
    printed = json.loads(run("schema").stdout)
    assert "backbone.gpt2" in printed["$defs"]
    assert json.loads(run("schema", "--json").stdout) == printed
    out = tmp_path / "schema.json"
    assert json.loads(run("schema", "--out", str(out), "--json").stdout) == {"path": str(out)}
    assert json.loads(out.read_text()) == printed
    nowhere = tmp_path / "no" / "schema.json"
    assert run("schema", "--out", str(nowhere), status=2).stderr == (
        f"{nowhere}: cannot be written: No such file or directory.\n"
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mtdiff.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'datasets', 'metaworld', 'pydantic', 'yaml', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in ("parts", "check", "schema"):
        assert verb in result.stdout


def test_json_is_alone_on_stdout_whatever_is_printed() -> None:
    code = (
        "import os, sys\nfrom mtdiff import cli\n"
        "def noisy(*, as_json: bool = False):\n"
        "    print('from python')\n    os.system('echo from a process')\n    os.write(1, b'from c\\n')\n"
        "    return {'a': 1}\n"
        "cli.verb(noisy)(as_json=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == {"a": 1}
    assert {"from python", "from a process", "from c"} <= set(result.stderr.splitlines())


def test_python_dash_m_runs_the_same() -> None:
    assert callable(cli.main)
    result = subprocess.run(
        [sys.executable, "-m", "mtdiff", "check", "nowhere.yaml"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("no recipe at nowhere.yaml.")
