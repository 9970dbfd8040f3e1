"""Measurements: turns, rankings, cascades, load, and a GPU."""
