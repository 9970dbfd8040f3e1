"""Texts to token ids to joined pairs."""
