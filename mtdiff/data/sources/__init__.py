"""Where trajectories come from. Importing this package registers the sources; it never imports torch."""

from mtdiff.data.sources import collected

__all__ = ["collected"]
