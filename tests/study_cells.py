"""Measurements for tests of studies, called by name in this process or in workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from mtdiff.errors import DataError


def square(content: dict[str, Any], where: dict[str, Any]) -> dict[str, Any]:
    """The square of a number; leaves a mark in a folder, so that tests can count calls."""
    number = content["number"]
    if number == "wrong":
        raise DataError("this number is wrong")
    if number == "unforeseen":
        raise RuntimeError("nobody thought of this")
    if number == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(str(where["marks"])) / f"{number}-{os.getpid()}").touch()
    return {"square": number**2}
