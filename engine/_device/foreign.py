"""Foreign graphs as they are opened: read from a folder that is held, and described as a manifest would."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from crossrank._artifact.foreign import ForeignModel, read_foreign
from crossrank._artifact.held import HeldFolder
from crossrank._artifact.links import read_snapshot
from crossrank._artifact.manifest import Manifest, Source
from crossrank._artifact.settings import describe_head
from crossrank._errors import ArtifactError
from crossrank._text.pairs import PackedPairs

from .session import Session


def read_held_foreign(held: HeldFolder, name: Path | None) -> ForeignModel:
    """Graphs of a folder, or the one file of that name; their settings are said to lie where the folder lies."""
    model = read_foreign(held.path, None if name is None else held.path / name)
    source = model.source
    inner = held.place / source.folder.relative_to(held.path)
    return replace(model, source=replace(source, root=held.place, folder=inner))


def foreign_manifest(model: ForeignModel, session: Session) -> Manifest:
    """What an artifact's manifest would say, in memory.

    Args:
        model: What its folder says.
        session: The graph that was chosen.

    Raises:
        ArtifactError: If the graph does not run, or gives another number of labels than config.json says.
    """
    labels = _count_logits(model, session)
    if model.labels not in (None, labels):
        raise ArtifactError(
            f"{session.path} gives {labels} labels, {model.source.folder / 'config.json'} says {model.labels}: "
            "they are not of one model"
        )
    name, revision = read_snapshot(model.source.root) or (model.source.root.name, None)
    return Manifest(
        source=Source(name, revision, str(model.source.config.get("model_type", "unknown")), ""),
        head=describe_head(model.source, labels, None),
        inputs=replace(model.inputs, token_types=model.inputs.token_types and "token_type_ids" in session.input_names),
        variants=model.variants,
        files={},
        crossrank="",
        exporter="foreign",
    )


def _count_logits(model: ForeignModel, session: Session) -> int:
    """Logits per pair in a batch of three, of different lengths if it may: a graph that fails is refused now."""
    template = model.tokenizer.template
    ids, types = (np.concatenate(parts, dtype=np.int32) for parts in (template.special_ids, template.special_types))
    lengths = np.minimum(len(ids) + np.arange(3, dtype=np.int32), model.inputs.max_length)
    if session.even:
        lengths[:] = lengths[0]
    which = np.concatenate([np.arange(length) % len(ids) for length in lengths])
    shape = session.run(PackedPairs(ids[which], types[which], lengths)).shape
    if shape[0] != len(lengths):
        raise ArtifactError(f"{session.path} gives logits of shape {shape} for 3 pairs; [3, labels] expected")
    return int(shape[1])
