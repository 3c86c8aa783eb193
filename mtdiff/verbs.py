"""What makes a function a verb of the command line: one JSON document, messages on stderr, exit codes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mtdiff.documents import error_document
from mtdiff.errors import MTDiffError

OutputOption = Annotated[Path, typer.Option(metavar="DIR", envvar="MTDIFF_OUTPUT", help="Folder of data and runs.")]
WorkersOption = Annotated[int | None, typer.Option(help="Simulator processes; default: one for each core.", min=1)]
RevisionOption = Annotated[
    str | None, typer.Option(metavar="REV", help="A branch, tag or commit of the repository on the Hub.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let a repository run code: its imports, classes and pickles.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def verb_of(app: typer.Typer) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Return a decorator that registers a function as a verb of `app`, called like the function.

    It returns a JSON-able document; its `as_json` parameter says whether that is printed. An MTDiffError, or a file
    that the system refuses, becomes a message on stderr (with `--json` also `{"error": ...}` on stdout) and exit
    status 2; Ctrl-C, which keeps what is finished, exit status 130. Of several processes that `accelerate launch`
    started, the first one speaks for all; the others only say what went wrong in them.
    """

    def register(function: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            rank = os.environ.get("RANK", "0")
            as_json = bool(kwargs.get("as_json")) and rank == "0"
            document, status = None, 0
            with contextlib.ExitStack() as stack:
                if rank != "0":
                    stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
                elif as_json:
                    stack.enter_context(_stdout_to_stderr())
                try:
                    document = function(*args, **kwargs)
                except MTDiffError as error:
                    print(error if rank == "0" else f"process {rank}: {error}", file=sys.stderr)
                    document, status = error_document(error), 2
                except BrokenPipeError:
                    raise  # whoever read our output has gone
                except OSError as error:
                    fault = MTDiffError(f"{error.filename}: {error.strerror}." if error.filename else str(error))
                    print(fault if rank == "0" else f"process {rank}: {fault}", file=sys.stderr)
                    document, status = error_document(fault), 2
                except KeyboardInterrupt as interrupt:
                    if rank == "0":
                        print(str(interrupt) or "interrupted; what was finished is kept", file=sys.stderr)
                    document, status = {"error": {"type": "KeyboardInterrupt", "message": str(interrupt)}}, 130
            if as_json:
                print(json.dumps(document, indent=2, ensure_ascii=False))
            if status:
                raise typer.Exit(status)

        app.command()(run)
        return run

    return register


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what is written to stdout to stderr: by Python, by libraries in C, and by worker processes."""
    sys.stdout.flush()
    real = sys.stdout is sys.__stdout__
    saved = os.dup(1) if real else -1
    try:
        if real:
            os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if real:
            sys.stdout.flush()
            os.dup2(saved, 1)
            os.close(saved)
