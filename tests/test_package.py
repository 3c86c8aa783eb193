"""The package: light to import, complete as a wheel, and at home where no checkout is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import mtdiff

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = "heavy = {'torch', 'diffusers', 'transformers', 'datasets', 'mujoco', 'matplotlib'} & set(sys.modules)"


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_importing_it_loads_nothing_heavy() -> None:
    run(sys.executable, "-c", f"import sys, mtdiff; {HEAVY}; assert not heavy, heavy")


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
from mtdiff.cli import main
sys.argv = ["mtdiff", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
{HEAVY}
assert not heavy, heavy
"""
    shown = run(sys.executable, "-c", code).stdout
    for verb in ("parts", "check", "schema", "collect", "train", "evaluate", "demo"):
        assert verb in shown


def test_one_version() -> None:
    assert mtdiff.__version__ == PROJECT["version"]


@pytest.mark.parametrize("name", mtdiff.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(mtdiff, name) is not None
    assert name in dir(mtdiff)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match=r"^module 'mtdiff' has no attribute 'PlanerPipeline'$"):
        _ = mtdiff.PlanerPipeline


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds nothing but what the wheel installs."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    run(*pip, "--target", str(target), str(wheel))
    return target


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    files = set(zipfile.ZipFile(wheel).namelist())
    inside = f"mtdiff-{PROJECT['version']}.dist-info"
    assert {file.partition("/")[0] for file in files} == {"mtdiff", inside}
    assert {"mtdiff/py.typed", "mtdiff/evaluation/report.html.j2", f"{inside}/licenses/LICENSE"} <= files
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mtdiff").rglob("*.py")}
    assert {file for file in files if file.endswith(".py")} == modules
    recipes = {f"mtdiff/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "recipes").rglob("*.yaml")}
    assert "mtdiff/recipes/quickstart.yaml" in recipes
    assert recipes <= files


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def python(*arguments: str) -> str:
        return run(sys.executable, *arguments, cwd=tmp_path, env=environment).stdout

    where = python("-c", "import mtdiff; print(mtdiff.__file__)")
    assert Path(where.strip()) == installed / "mtdiff" / "__init__.py", "the checkout shadows the installed package"
    checked = json.loads(python("-m", "mtdiff", "check", "quickstart", "--json"))
    assert Path(checked["path"]) == (installed / "mtdiff" / "recipes" / "quickstart.yaml").resolve()
    assert checked["values"]["backbone"]["name"] == "gpt2"
    parts = json.loads(python("-m", "mtdiff", "parts", "--json"))
    assert "trajectory_prompt" in parts["conditioning"]
    assert "usage" in python(str(installed / "bin" / "mtdiff"), "--help").lower()
