"""A model's folder: what it holds and says."""
