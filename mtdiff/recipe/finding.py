"""Where is a recipe? A path, or the name of one that comes with mtdiff."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from mtdiff.errors import RecipeError, closest

SUFFIXES = (".yaml", ".yml")


def recipes_folder() -> Path | None:
    """Return the folder of the recipes that come with mtdiff: in the wheel, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    if (package / "recipes").is_dir():
        return package / "recipes"
    # Beside the package only in a checkout: in site-packages such a folder would be somebody else's.
    checkout = package.parent / "recipes"
    return checkout if checkout.is_dir() and (package.parent / "pyproject.toml").is_file() else None


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with mtdiff by name: "quickstart", "metaworld/planner_mt10"."""
    folder = recipes_folder()
    files = sorted(folder.rglob("*.yaml")) if folder else []
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files if folder}


def find_recipe(source: str | os.PathLike[str], *, beside: Path | None = None) -> Path:
    """Return the file of a recipe.

    Args:
        source: A path, or the name of a shipped recipe.
        beside: The folder that a relative path starts from (default: the working directory).

    Raises:
        RecipeError: There is none; says which was probably meant.
    """
    text = os.fspath(source)
    if not text.strip():
        raise RecipeError(f"a recipe needs a name or a path, got '{text}'. Shipped: {', '.join(shipped_recipes())}.")
    path = (beside or Path()) / text
    if path.is_file():
        return path.resolve()
    shipped = shipped_recipes()
    name = Path(text).as_posix()
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    for candidate in (name, name.removeprefix("recipes/")):
        if candidate in shipped:
            return shipped[candidate].resolve()
    if path.is_dir():
        raise RecipeError(f"{text} is a folder, not a recipe. Name the .yaml file in it.")
    if path.suffix in SUFFIXES or path.is_absolute():
        folder = path.parent
        siblings = [p for p in sorted(folder.iterdir()) if p.suffix in SUFFIXES] if folder.is_dir() else []
        shown = {p.name: str(Path(text).with_name(p.name)) for p in siblings}
        hint = closest(path.name, shown)
        for file, full in shown.items():
            hint = hint.replace(f"'{file}'", f"'{full}'")
        raise RecipeError(f"no recipe at {text}.{hint or closest(name, shipped)}")
    hint = closest(name, shipped)
    if not hint:  # "planner_mt1" is more like "planner_mt10" than like "metaworld/planner_mt10"
        last_words = {shipped_name.rpartition("/")[2]: shipped_name for shipped_name in shipped}
        near = difflib.get_close_matches(name.rpartition("/")[2], last_words, n=1)
        hint = f" Did you mean '{last_words[near[0]]}'?" if near else ""
    known = f" Shipped: {', '.join(shipped)}." if shipped else ""
    raise RecipeError(f"no recipe '{text}': neither a file nor shipped with mtdiff.{known}{hint}")


def show_path(path: Path) -> str:
    """Return a path as messages have it: relative where it lies below the working directory."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
