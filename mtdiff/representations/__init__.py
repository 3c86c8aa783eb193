"""What x is: which arrays of a window are diffused together, and how they become physical again."""

from mtdiff.representations.actions import ActionsRepresentation
from mtdiff.representations.representation import Representation

__all__ = ["ActionsRepresentation", "Representation"]
