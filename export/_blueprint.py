"""A checkpoint that was read and how to make graphs of it: what both exporters give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossrank._manifest import Head, Inputs
from crossrank._model_folder import ModelFolder
from crossrank._tokenize import PairTokenizer

from ._targets import Target


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What an artifact says of its model, and the way to its graphs.

    Attributes:
        exporter: Of the manifest's `EXPORTERS`.
        source: The folder and its settings, with what its config.json left out.
        tokenizer: The tokenizer.
        head: What the logits mean.
        inputs: What the graphs expect.
        build: Writes the graph of a target to a path, large weights beside it.
        build_twin: Writes what stands for the graph in the proof where a CPU cannot run it; False if it can.
        reference: Gives the name and the logits of what the graphs are held against, float32 [pairs, labels], of
            pairs of texts and the artifact's tokenizer.json.
    """

    exporter: str
    source: ModelFolder
    tokenizer: PairTokenizer
    head: Head
    inputs: Inputs
    build: Callable[[Target, Path], None]
    build_twin: Callable[[Target, Path], bool]
    reference: Callable[[Sequence[tuple[str, str]], Path], tuple[str, NDArray[np.float32]]]
