"""What a user is told when something is wrong: one message, never a traceback.

Every message says where, what was wrong, what was got, what is allowed and, for names, the closest match.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MTDiffError(Exception):
    """A fault the user can mend. The command line prints its text and exits with status 2."""


class RecipeError(MTDiffError):
    """A recipe, or a name in it, is not valid."""


class DataError(MTDiffError):
    """A dataset, prompt or trajectory is missing, damaged or of the wrong shape."""


class StorageFault(MTDiffError):
    """A file could not be written: the disk is full, a limit was reached, or nobody may write there."""


class EnvironmentFault(MTDiffError):
    """A simulator could not be made, or a worker process of it died."""


class TrainingFault(MTDiffError):
    """Training stopped because going on would be pointless: a NaN loss, a checkpoint of another run."""


def at_least(low: float, **values: float) -> None:
    """Refuse the first of the named arguments that is below `low`.

    Raises:
        ValueError: `<argument>: must be at least <low>, got <value>`, which a recipe's checker can place.
    """
    for name, value in values.items():
        if value < low:
            raise ValueError(f"{name}: must be at least {low}, got {value}")


def fraction(**values: float) -> None:
    """Refuse the first of the named arguments that is not at least 0 and below 1.

    Raises:
        ValueError: `<argument>: must be at least 0 and below 1, got <value>`.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}: must be at least 0 and below 1, got {value}")


def closest(name: object, allowed: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the allowed name most like `name`, or an empty string."""
    match = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.6)
    return f" Did you mean '{match[0]}'?" if match else ""


def choices(kind: str, got: object, allowed: Iterable[str]) -> str:
    """Return `unknown <kind> '<got>'. Allowed: a, b. Did you mean 'a'?`."""
    names = list(allowed)
    return f"unknown {kind} '{got}'. Allowed: {', '.join(names) or 'none'}.{closest(got, names)}"
