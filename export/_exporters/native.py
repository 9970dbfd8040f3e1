"""The native exporter: graphs written directly from config and weights, without torch."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.manifest import Inputs
from crossrank._artifact.settings import ModelFolder
from crossrank._device.batches import plan_batches
from crossrank._device.session import Session
from crossrank._machine.cpu import available_threads
from crossrank._machine.device import Device
from crossrank._text.pairs import PairSource
from crossrank.export._architectures.checkpoint import Checkpoint, read_checkpoint
from crossrank.export._blueprint import Blueprint, Pairs
from crossrank.export._graphs.encoder import Head
from crossrank.export._graphs.fused import fuse
from crossrank.export._graphs.graph import Model, save_model
from crossrank.export._graphs.half import keep_in_float32
from crossrank.export._graphs.int8 import Extremes, build_int8, calibrate, layer_errors
from crossrank.export._graphs.layouts.cpu import build_cpu
from crossrank.export._graphs.layouts.cuda import build_cuda
from crossrank.export._graphs.layouts.portable import build_portable
from crossrank.export._prove.reference import reference_logits
from crossrank.export._read.texts import load_pairs
from crossrank.export._targets import Target
from crossrank.models import RegisteredModel

logger = logging.getLogger(__name__)

# Ranges settle within a few thousand tokens: on a real MiniLM the whole pairs give no smaller error than their starts.
_CALIBRATION_LENGTH = 32
# Shares of the layers that an int8 graph leaves in float, the worst first, where its bound needs it. With more of them
# it is hardly faster than a graph in float.
_SPARED = (0.125, 0.25, 0.4)


def read_native(folder: Path, registered: RegisteredModel | None, *, max_length: int | None) -> Blueprint:
    """Read a checkpoint of an architecture that the builder knows.

    Args:
        folder: The checkpoint.
        registered: What the registry knows of it.
        max_length: Most tokens of a pair, or None for all that model and tokenizer allow.

    Raises:
        ModelError: As `read_checkpoint`.
    """
    shop = _Shop(
        partial(
            read_checkpoint,
            folder,
            max_length=max_length,
            relevant_label=registered.relevant_label if registered else None,
            bare_projection=bool(registered and registered.bare_projection),
        )
    )
    checkpoint = shop.checkpoint()
    return Blueprint(
        "native",
        checkpoint.source,
        checkpoint.tokenizer,
        checkpoint.head,
        checkpoint.inputs,
        build=shop.build,
        reference=partial(
            _reference,
            checkpoint.source,
            checkpoint.inputs,
            isinstance(checkpoint.weights.head, Head) and checkpoint.weights.head.dense is None,
        ),
        release=shop.release,
        gentler={("cpu", "int8"): sorted({int(share * checkpoint.config.layers) for share in _SPARED} - {0})},
        spared=shop.spared,
    )


class _Shop:
    """Where graphs are built: it holds the checkpoint until `release`, and reads it again for a build."""

    def __init__(self, read: Callable[[], Checkpoint]) -> None:
        self._read = read
        self._held: Checkpoint | None = None
        self._extremes: Mapping[str, Extremes] | None = None
        self._errors: Mapping[int, float] = {}

    def checkpoint(self) -> Checkpoint:
        if self._held is None:
            self._held = self._read()
        return self._held

    def build(self, target: Target, path: Path, spared: int = 0) -> Path | None:
        if target == ("cpu", "int8"):
            save_model(self._quantized(path.parent, spared), path)
            return None
        return _build(self.checkpoint(), target, path)

    def _quantized(self, work: Path, spared: int) -> Model:
        """The graph in int8, ``spared`` of its layers in float."""
        checkpoint = self.checkpoint()
        weights, config, inputs = checkpoint.weights, checkpoint.config, checkpoint.inputs
        pairs = _join(checkpoint, "calibration", min(_CALIBRATION_LENGTH, inputs.max_length))
        if self._extremes is None:
            self._extremes = calibrate(weights, config, inputs, pairs, work)
        if spared and not self._errors:
            self._errors = layer_errors(weights, config, inputs, self._extremes, pairs, work)
        floats = self.spared(spared)
        if floats:
            names = ", ".join(map(str, floats))
            logger.warning(
                "cpu int8: of %d layers these err most and are left in float: %s", len(weights.layers), names
            )
        return build_int8(weights, config, self._extremes, token_types=inputs.token_types, spared=floats)

    def spared(self, count: int) -> tuple[int, ...]:
        """The layers that err most, so many of them, in their order."""
        worst = sorted(self._errors, key=self._errors.__getitem__, reverse=True)
        return tuple(sorted(worst[:count]))

    def release(self) -> None:
        self._held = None


def _reference(
    source: ModelFolder, inputs: Inputs, bare_projection: bool, pairs: Pairs, tokenizer: Path
) -> tuple[str, NDArray[np.float32]]:
    return reference_logits(
        source,
        tokenizer,
        pairs,
        max_length=inputs.max_length,
        token_types=inputs.token_types,
        bare_projection=bare_projection,
    )


def _build(checkpoint: Checkpoint, target: Target, path: Path) -> Path | None:
    if target[0] == "cuda":
        return _build_packed(checkpoint, path)
    save_model(_graph(checkpoint, target), path)
    return None


def _build_packed(checkpoint: Checkpoint, path: Path) -> Path:
    """Write the graph of a GPU and its twin, with what overflows float16 on the proof's texts in float32."""
    types = checkpoint.inputs.token_types
    build = partial(build_cuda, checkpoint.weights, checkpoint.config, token_types=types, fused=False)
    graph, twin, exact = build(), build(twin=True), build(twin=True, dtype=np.float32)
    measure = partial(_peaks, checkpoint, _join(checkpoint, "proof", checkpoint.inputs.max_length))
    kept = keep_in_float32(graph, twin, exact, path.with_name(f"watched_{path.name}"), measure)
    if kept:
        logger.warning("%s: %d nodes stay in float32, float16 would overflow", "cuda fp16", len(kept))
    fuse(graph)
    save_model(graph, path)
    del graph, exact  # the weights that are joined are copies, of one graph at a time
    fuse(twin)
    beside = path.with_name(f"twin_{path.name}")
    save_model(twin, beside, limit_bytes=0)  # which is mapped, and not for long
    return beside


def _peaks(checkpoint: Checkpoint, pairs: PairSource, path: Path, names: list[str]) -> dict[str, float]:
    """The largest value of each output of a graph over pairs of texts."""
    session = Session(path, checkpoint.inputs, Device("cpu"), available_threads().count)
    runs = [session.outputs(pairs.batch(index), names) for index in plan_batches(pairs.lengths)]
    return {name: float(np.max(values)) for name, values in zip(names, zip(*runs, strict=True), strict=True)}


def _graph(checkpoint: Checkpoint, target: Target) -> Model:
    weights, config, types = checkpoint.weights, checkpoint.config, checkpoint.inputs.token_types
    match target:
        case ("portable", precision):
            dtype = np.float16 if precision == "fp16" else np.float32
            return build_portable(weights, config, token_types=types, dtype=dtype)
        case ("cpu", "fp32"):
            return build_cpu(weights, config, token_types=types)
        case _:
            raise AssertionError(f"no builder for {' '.join(target)}")


def _join(checkpoint: Checkpoint, name: str, max_length: int) -> PairSource:
    """The pairs of `load_pairs` as the model takes them."""
    tokenizer = checkpoint.tokenizer
    pairs = load_pairs(name, tokenizer)
    queries, documents = zip(*pairs, strict=True)
    tokens = tokenizer.encode(queries, "query"), tokenizer.encode(documents, "document")
    return PairSource(tokenizer.template, *tokens, np.arange(len(pairs)), max_length)
