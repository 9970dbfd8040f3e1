"""One call: options checked, texts read, answers made."""
