"""The verb `mtdiff push`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mtdiff.verbs import JsonOption


def push(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A run, a saved pipeline's folder, or a dataset's.")],
    repository: Annotated[str, typer.Argument(metavar="user/name", help="The repository; made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made now, make it private.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Push to this branch; made if need be.")
    ] = None,
    message: Annotated[str | None, typer.Option(metavar="TEXT", help="What the commit says.")] = None,
    pr: Annotated[bool, typer.Option("--pr", help="Propose it as a pull request.")] = False,
    license: Annotated[str | None, typer.Option(metavar="ID", help="Of what is pushed, such as mit.")] = None,
    as_json: JsonOption = False,
) -> Any:
    """Push a run, a pipeline or a dataset to the Hugging Face Hub.

    In one commit, with a card that is written from what was measured, and without checkpoints. Only what has changed
    is sent. Log in with `hf auth login`, or set HF_TOKEN.
    """
    from mtdiff.sharing.push import push as send

    done = send(
        source,
        repository,
        private=private or None,
        revision=revision,
        message=message,
        create_pr=pr,
        license=license,
    )
    if not as_json:
        sys.stdout.write(f"{say(done)}\n")
    return done


def say(done: dict[str, Any]) -> str:
    """Return what a push did, for people."""
    if not done["sent"] and not done["removed"]:
        return f"{done['url']} has all {done['unchanged']} files as they are here; nothing was pushed"
    what = f"{len(done['sent'])} files sent ({done['bytes'] / 1e6:.1f} MB), {done['unchanged']} unchanged"
    removed = f", {len(done['removed'])} removed" if done["removed"] else ""
    where = done["pull_request"] or f"{done['url']} ({done['revision']}, {done['commit'][:12]})"
    return f"{what}{removed}\n{where}"
