"""Suites of environments. Importing this package registers them; it never imports torch or a simulator."""

from mtdiff.environments.metaworld import MetaWorld

__all__ = ["MetaWorld"]
