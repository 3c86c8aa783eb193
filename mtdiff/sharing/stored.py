"""The recipe that a repository holds, to be trained again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mtdiff.errors import MTDiffError
from mtdiff.recipe import Recipe, load_recipe
from mtdiff.sharing.pull import pull
from mtdiff.sharing.repository import PREFIX, Repository


def any_recipe(
    source: str, overrides: Iterable[str] = (), *, revision: str | None = None, trust_remote_code: bool = False
) -> Recipe:
    """Return the recipe that a command line names: a file, a shipped one, or "hub:user/name".

    Raises:
        RecipeError: see `load_recipe`.
        MTDiffError: see `stored_recipe`.
    """
    if source.startswith(PREFIX):
        return stored_recipe(source, overrides, revision=revision, trust_remote_code=trust_remote_code)
    return load_recipe(source, overrides)


def stored_recipe(
    source: str, overrides: Iterable[str] = (), *, revision: str | None = None, trust_remote_code: bool = False
) -> Recipe:
    """Return the resolved recipe that a repository holds.

    Args:
        source: "hub:user/name", or "hub:user/name@revision".
        overrides: `key.path=value` as on the command line.
        revision: a branch, tag or commit.
        trust_remote_code: import the modules that it lists.

    Raises:
        MTDiffError: it cannot be pulled, holds no recipe, or would run code and is not trusted to.
        RecipeError: this mtdiff does not know what is in it.
    """
    repository = Repository.named(source, revision=revision, trust_remote_code=trust_remote_code)
    path = pull(repository) / "recipe.yaml"
    if not path.is_file():
        raise MTDiffError(f"{repository}: holds no recipe, so it cannot be trained again")
    # What it imports was refused by `pull`, or is trusted. A cached file is a link, and its name would be lost.
    return replace(load_recipe(path, overrides), path=path, name=path.stem)
