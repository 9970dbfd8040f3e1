"""A checkpoint that was read and how to make graphs of it: what both exporters give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.manifest import Head, Inputs
from crossrank._artifact.settings import ModelFolder
from crossrank._text.tokenizer import PairTokenizer

from ._targets import Target

Pairs: TypeAlias = Sequence[tuple[str, str]]


class Build(Protocol):
    """Writes graphs."""

    def __call__(self, target: Target, path: Path, spared: int = 0, /) -> Path | None:
        """As `Blueprint.build`."""
        ...


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What an artifact says of its model, and the way to its graphs.

    Attributes:
        exporter: Of the manifest's `EXPORTERS`.
        source: The folder and its settings, with what its config.json left out.
        tokenizer: The tokenizer.
        head: What the logits mean.
        inputs: What the graphs expect.
        build: Writes the graph of a target to a path, large weights beside it; a third argument is one of ``gentler``.
            Gives the path of what stands for it in the proof where a CPU cannot run it, a file beside it, else None.
        reference: Gives the name and the logits of what the graphs are held against, float32 [pairs, labels], of
            pairs of texts and the artifact's tokenizer.json.
        release: Gives up the weights, which the next `build` reads again: a proof needs the memory.
        gentler: Of a target, how many layers `build` can leave in float where its graph leaves the bound, rising.
        spared: Which layers these were, by their numbers from 0, when so many were left in float.
    """

    exporter: str
    source: ModelFolder
    tokenizer: PairTokenizer
    head: Head
    inputs: Inputs
    build: Build
    reference: Callable[[Pairs, Path], tuple[str, NDArray[np.float32]]]
    release: Callable[[], None] = field(default=lambda: None)
    gentler: Mapping[Target, Sequence[int]] = field(default_factory=dict)
    spared: Callable[[int], tuple[int, ...]] = field(default=lambda count: ())
