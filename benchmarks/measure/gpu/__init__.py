"""Measurements on a GPU: contenders and the parts of a run."""
