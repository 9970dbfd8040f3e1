"""crossrank.export: from a published checkpoint to an artifact that is proven equal to it."""

from ._api import ensure_artifact, export_model

__all__ = ["ensure_artifact", "export_model"]
