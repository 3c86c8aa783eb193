"""Suites of environments. Importing this package registers them; it never imports torch or a simulator."""

from mtdiff.environments.gymnasium_suite import Gymnasium
from mtdiff.environments.maze2d import Maze2D
from mtdiff.environments.metaworld import MetaWorld
from mtdiff.environments.offline import Offline

__all__ = ["Gymnasium", "Maze2D", "MetaWorld", "Offline"]
