"""Condition encoders by name: what a model is told beside x, one file per encoder."""

from mtdiff.conditioning.encoder import Condition, Encoder
from mtdiff.conditioning.history import History
from mtdiff.conditioning.map import Map
from mtdiff.conditioning.mapping import Conditioning
from mtdiff.conditioning.one_hot import OneHot
from mtdiff.conditioning.path_prompt import PathPrompt
from mtdiff.conditioning.relative_history import RelativeHistory
from mtdiff.conditioning.surroundings import Surroundings
from mtdiff.conditioning.target_return import TargetReturn
from mtdiff.conditioning.tcn_prompt import TCNPrompt
from mtdiff.conditioning.trajectory_prompt import TrajectoryPrompt

__all__ = [
    "Condition", "Conditioning", "Encoder", "History", "Map", "OneHot", "PathPrompt", "RelativeHistory", "Surroundings",
    "TCNPrompt", "TargetReturn", "TrajectoryPrompt",
]  # fmt: skip
