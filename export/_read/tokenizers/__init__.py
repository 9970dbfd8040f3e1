"""Tokenizers of checkpoints older than tokenizer.json."""
