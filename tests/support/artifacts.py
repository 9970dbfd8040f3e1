"""Artifacts of tiny checkpoints, for tests of the engine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossrank.export import export_model
from tests.support.tiny_models import make_checkpoint


def make_artifact(folder: Path, architecture: str = "bert", *, labels: int = 1, **overrides: Any) -> Path:
    """Export a tiny checkpoint as cpu fp32.

    Args:
        folder: Made if it is absent; gets "checkpoint" and "artifact".
        architecture: Of `tests.support.tiny_models.ARCHITECTURES`.
        labels: Outputs of the head.
        overrides: Fields of the architecture's transformers config.

    Returns:
        The artifact folder.
    """
    checkpoint = make_checkpoint(folder / "checkpoint", architecture, labels=labels, **overrides)
    return export_model(checkpoint, folder / "artifact", variants=["cpu"], precisions=["fp32"])


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Let ``change`` work on an artifact's crossrank.json in place."""
    path = folder / "crossrank.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
