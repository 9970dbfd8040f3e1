"""Graphs on devices: batches in, logits out."""
