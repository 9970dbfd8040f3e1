"""A packed graph on a device, as one thread sees it: what is bound, what runs, what is captured.

``device`` decides names alone. On the CPU provider with the CPU-runnable twin of a graph, everything but the capture
runs as on a GPU: a rehearsal without one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.held import ModelFile
from crossrank._artifact.manifest import Inputs
from crossrank._device.gpu_options import NO_CAPTURE, run_entries
from crossrank._device.inputs import choose_layout, choose_logits
from crossrank._device.session import open_graph, run_error
from crossrank._errors import ArtifactError
from crossrank._interrupts import raised_by
from crossrank._machine.device import Device
from crossrank._machine.onnxruntime import ort
from crossrank._text.pairs import PackedPairs

from .batches import PackedShape, sample_of, shape_of
from .buffers import PACKED_INPUTS, BufferPool, Rows, Section, Slab, lay_out, pack

Floats = NDArray[np.float32]
OpenGraph = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A shape with buffers of its own, at addresses that never change, as a captured graph needs them.

    Attributes:
        shape: What batches are brought to.
        sections: Where each input lies.
        size: Entries of the inputs.
        slab: The inputs.
        rows: The logits.
        binding: onnxruntime's IOBinding of both.
        options: onnxruntime's RunOptions with the captured graph's id, None on a CPU.
    """

    shape: PackedShape
    sections: list[Section]
    size: int
    slab: Slab
    rows: Rows
    binding: Any
    options: Any


class DeviceGraph:
    """A packed graph, opened. For one thread.

    Args:
        graph: The ONNX file.
        inputs: The manifest's facts about the graph's inputs.
        device: Where to run: a GPU, or the CPU for a graph's twin.
        threads: Intra-op threads on a CPU.
        pool: The device's buffers.
        open_graph: Opens onnxruntime's session; called as the function of this name.
        capture: Whether shapes will be captured.

    Raises:
        DeviceError: If the device cannot run here.
        ArtifactError: If onnxruntime cannot load the file, or it is no packed graph.
    """

    def __init__(
        self,
        graph: ModelFile,
        inputs: Inputs,
        device: Device,
        threads: int,
        pool: BufferPool,
        *,
        open_graph: OpenGraph = open_graph,
        capture: bool = False,
    ) -> None:
        path = graph.path
        self.path, self.device, self._inputs, self._pool = path, device, inputs, pool
        with graph.opened() as place:
            self._session = open_graph(place, device, threads, packed=device.kind != "cpu", capture=capture)
        self.provider: str = self._session.get_providers()[0]
        declared = self._session.get_inputs()
        self.input_names: list[str] = [node.name for node in declared]
        try:
            choose_layout(declared, inputs)
            self._logits, labels = choose_logits(self._session.get_outputs())
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from error
        names = frozenset(self.input_names)
        packed = PACKED_INPUTS - {"token_type_ids"} <= names <= PACKED_INPUTS
        if not packed or labels is None or {node.type for node in declared} != {"tensor(int32)"}:
            raise ArtifactError(
                f"{path}: no packed graph, its inputs are {', '.join(self.input_names)}; export the model again"
            )
        self.labels: int = labels
        self._plain = self._run_options(NO_CAPTURE)

    def run_packed(self, slab: Slab, sections: Sequence[Section], rows: Rows, start: int, pairs: int) -> None:
        """Run a batch that lies on the device; its logits go to ``rows`` from ``start`` on.

        Raises:
            DeviceError: If the device fails, for want of memory too.
            ArtifactError: If onnxruntime fails in the graph.
        """
        self._run(self._bind(slab, sections, rows, start, pairs), self._plain)

    def run_bucket(self, bucket: Bucket, values: NDArray[np.int32]) -> Floats:
        """Run a bucket: inputs int32 [size] in, the logits of all its pairs out. Raises as `run_packed`."""
        bucket.slab.upload(values)
        self._run(bucket.binding, bucket.options)
        return bucket.rows.fetch()

    def run_alone(self, batch: PackedPairs) -> Floats:
        """Run a batch from start to end. Raises as `run_packed`."""
        shape = shape_of(batch.lengths)
        sections, size = lay_out(self.input_names, shape)
        slab, rows = self._pool.take(size), self._pool.rows(shape.pairs, self.labels)
        try:
            pack(batch, shape.longest, self._inputs, sections, slab.host)
            self._pool.upload(slab)
            self.run_packed(slab, sections, rows, 0, shape.pairs)
            return rows.fetch()
        finally:
            self._pool.give_back(slab)

    def capture(self, shape: PackedShape, number: int) -> Bucket:
        """Make a bucket, on a GPU with a CUDA graph of this number. No other thread may use the GPU meanwhile."""
        sections, size = lay_out(self.input_names, shape)
        kind, index = self.device.kind, self.device.index
        slab, rows = Slab(size, kind, index), Rows(shape.pairs, self.labels, kind, index)
        binding, options = self._bind(slab, sections, rows, 0, shape.pairs), self._run_options(number)
        pack(sample_of(shape), shape.longest, self._inputs, sections, slab.host)
        # The first run captures, after runs of its own that allocate; the second one shows that it replays.
        for _ in range(2):
            slab.upload(slab.host)
            self._run(binding, options)
        return Bucket(shape, sections, size, slab, rows, binding, options)

    def _bind(self, slab: Slab, sections: Sequence[Section], rows: Rows, start: int, pairs: int) -> Any:
        binding, kind, index = self._session.io_binding(), self.device.kind, self.device.index
        for section in sections:
            binding.bind_input(section.name, kind, index, np.int32, section.shape, slab.address(section.start))
        binding.bind_output(self._logits, kind, index, np.float32, (pairs, self.labels), rows.address(start))
        return binding

    def _run(self, binding: Any, options: Any) -> None:
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:  # the binding's exceptions share no base of their own
            if not raised_by("onnxruntime", error):
                raise
            raise run_error(self.path, self.device, error) from error

    def _run_options(self, graph_id: int) -> Any:
        if self.device.kind == "cpu":
            return None
        options = ort.RunOptions()
        options.log_severity_level = 4  # a failure is an exception, and no line on standard error beside it
        for key, value in run_entries(graph_id).items():
            options.add_run_config_entry(key, value)
        return options
