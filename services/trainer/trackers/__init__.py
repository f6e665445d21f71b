"""Experiment trackers, in a process of their own that no job waits for."""
