"""The registry of architectures: the families of the files beside it, by transformers' model_type."""

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from .base import Family


@cache
def architectures() -> dict[str, Family]:
    """Families by model type: those in ``FAMILIES`` of each module of this folder."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    found = [getattr(import_module(f"{__package__}.{name}"), "FAMILIES", ()) for name in names]
    return {kind: family for families in found for family in families for kind in family.types}
