"""The verbs of `mtdiff prompt`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mtdiff.verbs import JsonOption, verb_of

app = typer.Typer(
    name="prompt",
    help="Make prompts, which tell a task, of demonstrations.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
verb = verb_of(app)


@verb
def make(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A dataset folder, an .npz episode or a .npy prompt file.")
    ],
    task: Annotated[str, typer.Option(metavar="NAME", help="The task whose demonstration is taken.")],
    length: Annotated[int, typer.Option(metavar="J", help="Steps, as many as the planner reads.", min=1)] = 20,
    episode: Annotated[
        int | None, typer.Option(metavar="N", help="Which demonstration, from 0; default: the best.", min=0)
    ] = None,
    start: Annotated[
        int | None, typer.Option(metavar="T", help="Its first step, from 0; default: around the middle.", min=0)
    ] = None,
    even: Annotated[bool, typer.Option("--even", help="Steps spread over the whole episode.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it; default: TASK.safetensors here.")
    ] = None,
    as_json: JsonOption = False,
) -> Any:
    """Cut a prompt out of a demonstration and write it to a file.

    Show it to a planner with `mtdiff evaluate RUN --prompt NAME=FILE`, or in Python with Prompt.load(FILE).
    """
    from mtdiff.prompting import make_prompt

    spacing: Literal["contiguous", "even"] = "even" if even else "contiguous"
    prompt, about = make_prompt(source, task=task, length=length, episode=episode, start=start, spacing=spacing)
    path = out or Path(f"{task}.safetensors")
    prompt.save(path, task=task)
    if not as_json:
        outcome = "successful" if about["success"] else "not marked as successful"
        sys.stdout.write(
            f"{path}: {length} steps of demonstration {about['episode']} of {about['episodes']} of {task}, from step "
            f"{about['start']} of {about['steps']}; {outcome}, return {about['return']:.1f}\n"
        )
    return {"path": str(path), **about}
