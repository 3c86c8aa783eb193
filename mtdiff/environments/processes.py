"""Worker processes that hold simulators: each serves calls to one object, and none ever imports torch.

They are started from scratch and not with `multiprocessing`, which would import the user's main script again
(and torch with it) and needs an `if __name__ == "__main__"` in every script.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from mtdiff import errors
from mtdiff.errors import EnvironmentFault, MTDiffError

_START = """
import sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:] = connection.recv()
from mtdiff.environments.processes import serve
serve(connection)
"""


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """A process with one object in it, whose methods are called by `send` and answered by `receive`, in
    order.

    The process ends when this object is closed or its owner dies, and leaves Ctrl-C to its owner.

    Args:
        name: what error messages call it, e.g. "simulator worker 1".
        server: "module:class" of the object.
        arguments: keyword arguments of its class; anything that can be pickled.
        rendering: whether the simulator will draw. Chooses EGL unless MUJOCO_GL is set.
    """

    def __init__(self, *, name: str, server: str, arguments: dict[str, Any], rendering: bool = False) -> None:
        self.name = name
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        if rendering:
            environment.setdefault("MUJOCO_GL", "egl")
        else:
            environment["MUJOCO_GL"] = "disabled"  # no search for a display that nobody needs
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # stdout belongs to the command's result
                env=environment,
                start_new_session=True,  # a Ctrl-C in the terminal is the owner's to handle
            )
        self.connection = Connection(ours.detach())
        self._send([entry or os.getcwd() for entry in sys.path])
        self._send((server, arguments))
        self._greeted = False

    def send(self, method: str, *arguments: Any) -> None:
        """Ask for `method(*arguments)`; several requests may be under way."""
        self._send((method, arguments))

    def receive(self) -> Any:
        """Wait for the answer to the oldest request.

        Raises:
            EnvironmentFault: the process has died.
            MTDiffError: what the method raised; anything else comes as an EnvironmentFault with its
                traceback.
        """
        if not self._greeted:
            self._answer()  # the object was made
            self._greeted = True
        return self._answer()

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self.connection.close()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None

    def _answer(self) -> Any:
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._died() from None
        if kind == "value":
            return value
        raise getattr(errors, kind, MTDiffError)(value)

    def _died(self) -> EnvironmentFault:
        try:
            code = self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            code = None
        how = "closed its connection"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += " (out of memory?)"
        elif code is not None:
            how = f"ended with exit status {code}"
        return EnvironmentFault(f"{self.name} (process {self.process.pid}) {how}.")


def serve(connection: Connection) -> None:
    """Answer requests until the owner hangs up. The first message names the object to make."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    served: Any = None
    try:
        while True:
            method, arguments = connection.recv()
            try:
                if served is None:
                    module, _, name = method.partition(":")
                    served, value = getattr(importlib.import_module(module), name)(**arguments), None
                else:
                    value = getattr(served, method)(*arguments)
                answer = ("value", value)
            except MTDiffError as error:
                answer = (type(error).__name__, str(error))
            except Exception as error:  # whatever it is, the owner raises it
                text = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
                answer = (EnvironmentFault.__name__, f"in a worker process: {text}")
            connection.send(answer)
            if served is None:
                return
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the owner has closed the worker or is gone
    finally:
        if hasattr(served, "close"):
            served.close()
