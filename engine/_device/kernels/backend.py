"""The backend of a CPU that runs an int8 graph's weights on crossrank-kernels: lanes and flat batches."""

import time
from collections.abc import Sequence
from functools import cache
from math import inf

import crossrank_kernels
import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.held import ModelFile
from crossrank._artifact.manifest import Inputs, Variant
from crossrank._device.batches import EVEN_MAX_TOKENS, plan_flat_batches
from crossrank._device.compiled import NO_INSTRUCTIONS
from crossrank._device.costs import describe_subject
from crossrank._device.lanes import LaneBackend
from crossrank._errors import ArtifactError, DeviceError
from crossrank._machine.device import Device
from crossrank._text.pairs import PackedPairs

from .model import NotCovered, recognize
from .onnx_file import read_onnx

# A batch that is alone and takes longer than this is worth the start of threads.
_WIDE_FROM_S = 0.001
# A batch of several pairs may take so long at least. Nobody measures what Python does around it, and among 16 callers a
# lane waits 0.7 ms after each for Python's lock.
_LEAST_S, _MOST_TOKENS = 0.002, 2048


class KernelBackend(LaneBackend):
    """An int8 graph's weights on a CPU, padding nothing.

    Args:
        graph: The ONNX file.
        inputs: The manifest's facts about the graph's inputs.
        lanes: Threads.

    Attributes:
        path: The ONNX file.
        provider: The library, as people know it.
        labels: Logits per pair.
        input_names: The graph's inputs.

    Raises:
        Unusable: If there is no library that runs here.
        NotCovered: If it does not run this graph.
        MemoryError: If the memory does not suffice for its weights.
        ArtifactError: If another file has taken the graph's place since its folder was read.
    """

    flat = True

    def __init__(self, graph: ModelFile, inputs: Inputs, lanes: int) -> None:
        self.provider = library()  # before a graph is read in vain
        with graph.opened() as path:
            try:
                content = read_onnx(path)
            except ValueError as error:
                raise NotCovered(f"its graph cannot be read: {error}") from error
        found = recognize(content, inputs)
        try:
            self._model = crossrank_kernels.Model(
                found.tensors,
                epsilon=found.epsilon,
                activation=found.activation,
                head_activation=found.head_activation,
                pad_id=found.pad_id,
            )
        except crossrank_kernels.ModelError as error:
            raise NotCovered(f"the library refuses its graph: {error}") from error
        if inputs.max_length + inputs.position_offset > self._model.positions:
            raise NotCovered(f"its graph has {self._model.positions} positions, too few for {inputs.max_length} tokens")
        self._types = found.types
        self.path, self.labels = graph.path, self._model.labels
        self.input_names: Sequence[str] = content.inputs
        super().__init__(lanes, EVEN_MAX_TOKENS, describe_subject(graph, Device("cpu"), lanes, self.provider))
        self._token_s = inf  # of the quickest batch that was alone

    def plan(self, lengths: NDArray[np.int32], max_pairs: int | None) -> list[NDArray[np.intp]]:
        """Batches as `plan_flat_batches` makes them."""
        return plan_flat_batches(lengths, max_tokens=self.max_tokens, max_pairs=max_pairs, lanes=self.lanes)

    def run(self, batch: PackedPairs, *, alone: bool = False) -> NDArray[np.float32]:
        """Logits of joined pairs of any lengths, float32 [pairs, labels].

        Args:
            batch: The pairs.
            alone: Whether no other batch is known to want a lane.

        Raises:
            DeviceError: If memory does not suffice.
            ArtifactError: If a pair is none of this model's.
        """
        if not alone:
            return self._run(batch, 1)
        tokens = len(batch.ids)
        threads = self.lanes if _WIDE_FROM_S < tokens * self._token_s < inf else 1
        start = time.perf_counter()
        logits = self._run(batch, threads)
        # At most: not all threads work to the end. So one slow batch does not decide for ever.
        self._token_s = min(self._token_s, (time.perf_counter() - start) * threads / tokens)
        return logits

    def _take_costs(self) -> None:
        super()._take_costs()
        if self.costs is not None:
            enough = _LEAST_S / max(self.costs.token_s, _LEAST_S / _MOST_TOKENS)
            self.max_tokens = max(self.max_tokens, int(enough))

    def _run(self, batch: PackedPairs, threads: int) -> NDArray[np.float32]:
        try:
            types = batch.types if self._types else None
            logits: NDArray[np.float32] = self._model.run(batch.ids, types, batch.lengths, threads=threads)
        except crossrank_kernels.ModelError as error:
            raise ArtifactError(f"{self.path}: {self.provider} fails in it: {error}") from error
        except MemoryError as error:
            raise DeviceError(f"{self.provider}: {error}") from error
        return logits


class Unusable(Exception):
    """Why the library does not run here."""


@cache
def library() -> str:
    """The library, as people know it: its name, version and the instructions that it uses.

    Raises:
        Unusable: If it cannot be loaded, or not run here.
    """
    try:
        version, instructions = crossrank_kernels.__version__, crossrank_kernels.instructions()
    except (AttributeError, ImportError, OSError) as error:  # the first one of an older package
        raise Unusable(f"they cannot be loaded: {error}") from error
    if not instructions:
        raise Unusable(NO_INSTRUCTIONS)
    return f"crossrank-kernels {version} ({instructions})"


def open_kernels(graph: ModelFile, variant: Variant, inputs: Inputs, lanes: int) -> KernelBackend | str:
    """The backend for a graph, or why there is none.

    Args:
        graph: The ONNX file.
        variant: What it is.
        inputs: The manifest's facts about the graph's inputs.
        lanes: Threads.

    Raises:
        ArtifactError: As `KernelBackend`.
    """
    try:
        if problems := variant.kernels_problems(library()):
            return f"their error leaves the bound: {'; '.join(problems)}"
        return KernelBackend(graph, inputs, lanes)
    except (Unusable, NotCovered) as error:
        return str(error)
    except MemoryError as error:  # the graph takes less
        return f"the memory does not suffice for its weights: {error}"
