"""Trajectories on disk and in memory, windows of them, and the settings that make them comparable."""
