"""The forward passes of the files beside it, by transformers' model type."""

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from .base import Bert


@cache
def passes() -> dict[str, type[Bert]]:
    """Classes by model type: those in ``PASSES`` of each module of this folder."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    found = [getattr(import_module(f"{__package__}.{name}"), "PASSES", {}) for name in names]
    return {kind: passed for held in found for kind, passed in held.items()}
