"""What x is: which arrays of a window are diffused together, and how they become physical again."""

from mtdiff.representations.actions import ActionsRepresentation
from mtdiff.representations.representation import Representation
from mtdiff.representations.transitions import TransitionsRepresentation

__all__ = ["ActionsRepresentation", "Representation", "TransitionsRepresentation"]
