"""Real processes that run `mtdiff` under a fault: no room on the disk, or SIGKILL at the n-th change of a file.

Run as a script, this imports everything once and then forks a child for every request, which takes 0.1 s where a new
process takes seconds. The child is a process like any other and can be killed like one.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

RECIPE = """
imports: [toy_suite]
suite: {name: toy, tasks: [towards, mirrored]}
data: {name: collected, trajectories_per_task: 27, prompts_per_task: 1, prompt_min_steps: 4}
representation: {name: actions, horizon: 4}
conditioning:
  task: {name: trajectory_prompt, length: 4, hidden: [8]}
  history: {name: history, length: 2, hidden: [8]}
backbone: {name: residual_mlp, width: 16, num_layers: 1, dropout: 0.1}
scheduler: {name: ddpm, num_train_timesteps: 20}
sampling: {num_inference_steps: 2, prompts_per_task: 1, execute: 2}
training:
  {updates: 6, batch_per_task: 2, log_every: 2, checkpoint_every: 2, keep_checkpoints: 1, validation: 0.0, log_with: []}
evaluation: {episodes_per_task: 2, max_steps: 10, videos: false, workers: 1}
"""


@dataclass
class Done:
    """How a command ended: `status` is negative for a signal; `changes` counts what it changed on the disk."""

    status: int
    out: str
    err: str
    changes: int

    @property
    def said(self) -> str:
        """What it said on stderr, without progress."""
        return "\n".join(line for line in self.err.split("\n") if line and "\r" not in line)


class Server:
    """Runs commands in a folder.

    Args:
        folder: their working directory. What they change below it is counted.
        more: environment variables, besides or in the place of those that every command has.
    """

    def __init__(self, folder: Path, **more: str):
        here = str(Path(__file__).parent)
        environment = os.environ | {
            "COLUMNS": "120", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])), **more,
        }  # fmt: skip
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            cwd=folder,
        )  # fmt: skip

    def __call__(self, *arguments: object, kill: int = 0, limit: int = 0, torn: bool = False) -> Done:
        """Run `mtdiff <arguments>` to its end.

        Args:
            arguments: of the command line.
            kill: SIGKILL itself instead of the n-th change of a file, from 1.
            limit: no file may have more bytes, as if the disk were full.
            torn: be killed for writing more instead of getting an error.
        """
        request = {"arguments": [str(a) for a in arguments], "kill": kill, "limit": limit, "torn": torn}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return Done(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.communicate(timeout=60)


def contents(folder, name="*"):
    """Every file of a folder, by its path in it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob(name)) if p.is_file()}


def only(folder):
    """What a folder holds, besides what is hidden, which must be one thing."""
    (one,) = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return one


def said(error, work, *arguments):
    """The message of the error that some work raises."""
    with pytest.raises(error) as caught:
        work(*arguments)
    return str(caught.value)


def _serve() -> None:
    import datasets  # noqa: F401
    import transformers  # noqa: F401

    import mtdiff.demo
    import mtdiff.pipelines
    import mtdiff.reporting
    import mtdiff.runs
    import mtdiff.training  # noqa: F401
    from mtdiff.data import card, shards  # noqa: F401
    from mtdiff.provenance import code

    code()  # of what was imported now, and is run by every child, whatever is edited meanwhile
    for line in sys.stdin:
        pipes = [os.pipe() for _ in range(3)]  # which a limit on files does not reach
        child = os.fork()
        if not child:
            _run(json.loads(line), [write for _, write in pipes])
        texts = {read: b"" for read, _ in pipes}
        for _, write in pipes:
            os.close(write)
        waiting = list(texts)
        while waiting:
            for read in select.select(waiting, [], [])[0]:
                some = os.read(read, 1 << 16)
                texts[read] += some
                if not some:
                    waiting.remove(read)
                    os.close(read)
        out, err, changes = texts.values()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        done = {"status": status, "out": out.decode(), "err": err.decode(), "changes": len(changes)}
        print(json.dumps(done), flush=True)


def _run(request: dict, handles: list[int]) -> None:
    """Be the child: never returns."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(handles[0], 1)
    os.dup2(handles[1], 2)
    below, seen = os.getcwd(), 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        opened = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
        if not (opened or event in _CHANGES) or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        relative = not opened and not os.path.isabs(path)  # to a folder that is being removed
        if relative or os.path.abspath(path).startswith(below):
            seen += 1
            os.write(handles[2], b".")
            if seen == request["kill"]:
                os.kill(os.getpid(), signal.SIGKILL)

    status = 1
    try:
        if request["limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], resource.RLIM_INFINITY))
        if request["torn"]:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.addaudithook(watch)
        sys.argv = ["mtdiff", *request["arguments"]]
        from mtdiff.cli import main

        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def bring_data(folder):
    """Four episodes of "towards" as others have them, in files; the section `data` that reads them."""
    (folder / "towards").mkdir(parents=True)
    for number in range(4):
        states = np.full((6, 2), number, np.float32)
        arrays = {"observations": states, "next_observations": states, "actions": np.zeros((6, 1))}
        path = folder / "towards" / f"{number}.npz"
        np.savez(path, **arrays, rewards=np.ones(6), terminals=np.zeros(6))
    return f"data={{name: npz, path: {folder}, prompts_per_task: 1, prompt_min_steps: 4}}"


if __name__ == "__main__":
    _serve()
