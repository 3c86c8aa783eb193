"""What the command line shows people: help of every verb, tables that stay legible in a narrow terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from mtdiff.cli import app
from mtdiff.recipe import SECTIONS, SettingsSection, load_recipe

VERBS = ("parts", "check", "schema", "collect", "train", "finetune", "evaluate", "synthesize", "ablate", "push", "demo")


def shown(*arguments: str, columns: int = 80) -> str:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns), "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_verb_is_listed_with_a_whole_sentence() -> None:
    text = shown("--help")
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\S.*[^.]\.$", text, re.MULTILINE), f"{verb}: its first line is cut off"


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb: str, columns: int) -> None:
    text = shown(verb, "--help", columns=columns)
    assert f"{verb} [OPTIONS]" in text and "--json" in text
    assert max(map(len, text.splitlines())) <= columns
    assert "[[" not in text, "brackets within brackets"
    for parameter in get_command(app).commands[verb].params:  # type: ignore[attr-defined]
        if parameter.name != "help" and not getattr(parameter, "hidden", False):
            assert parameter.help, f"{verb}: {parameter.name} is not explained"


@pytest.mark.parametrize("verb", ["check", "evaluate"])
def test_changes_that_help_shows_are_valid(verb: str) -> None:
    examples = re.findall(r"[a-z_.]+=\w+", shown(verb, "--help"))
    assert len(examples) >= 2
    load_recipe("quickstart", examples)


def test_a_checked_recipe_is_legible_in_a_narrow_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # far from the shipped recipes, whose paths are long from here
    text = shown("check", "quickstart", "seed=3")
    recipe = load_recipe("quickstart", ["seed=3"])
    head, table = text.split("─", 1)
    assert f"quickstart is valid, hash {recipe.hash()}\n" in head
    for file in recipe.files:
        assert re.search(rf"^(extends )?{file}$", head, re.MULTILINE), "a path in one piece"
    assert re.search(r"^ seed +3 +command line *$", table, re.MULTILINE)
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:] if line.strip()}
    for key in ("batch_per_task", "warmup", "quality", "num_train_timesteps"):
        section = {"quality": "data", "num_train_timesteps": "scheduler"}.get(key, "training")
        value, origin = recipe.get(f"{section}.{key}"), recipe.origin(f"{section}.{key}")
        assert rows[key] == [str(value), origin.rpartition("/")[2]]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table


@pytest.mark.parametrize("name", [key for key, section in SECTIONS.items() if isinstance(section, SettingsSection)])
def test_settings_are_explained_as_parts_are(name: str) -> None:
    section = SECTIONS[name]
    assert isinstance(section, SettingsSection)
    text = shown("parts", name)
    assert text.startswith(f"{name}  settings\n")
    for argument in section.part(name).arguments:
        assert re.search(rf"^ {argument} ", text, re.MULTILINE), argument
    assert f"{name}" in shown("parts", "schedulers").splitlines()[-1]
