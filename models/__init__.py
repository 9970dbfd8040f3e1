"""The published cross-encoders that crossrank knows by name.

Which models there are, under which names people ask for them, and what is known of each before a
byte is downloaded. The facts stand in `registry.toml`; `README.md` beside it explains every key.
Downloading and converting are left to `crossrank.export`, running to `crossrank`.
"""

from ._registry import RegisteredModel, find_model, load_registry, nearest_names

__all__ = ["RegisteredModel", "find_model", "load_registry", "nearest_names"]
