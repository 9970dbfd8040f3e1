"""One graph on one device: batches in, logits out."""
