"""Where trajectories come from. Importing this package registers the sources; it never imports torch.

What a source has to offer is in `mtdiff.data.sources.source`.
"""

from mtdiff.data.sources import acted, collected, folder, given, hub, lerobot, minari, npz

__all__ = ["acted", "collected", "folder", "given", "hub", "lerobot", "minari", "npz"]
