"""Measurements: turns, rankings, systems, load, and a GPU."""
