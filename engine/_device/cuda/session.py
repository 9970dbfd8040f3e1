"""A packed graph on one device: one copy in per batch, one copy out per call, one thread that runs everything.

The way of a batch: the caller's thread packs it into a slab and copies that to the device; the session's own thread
runs the graph on it. So packing, copying and tokenizing the next batches overlap with computing. Outputs stay on the
device until their call asks for them.

One thread, since the CUDA provider keeps captured graphs for the thread that captured them (PerThreadContext in
onnxruntime/core/providers/cuda/cuda_execution_provider.h), and since two runs side by side gain nothing: each fills
the GPU. While one captures, all that talks to CUDA in the process waits (`_device.capture`).

For who builds on this:

- `PackedSettings` holds all that a benchmark may want to vary; `PackedSession.buckets` says what was captured.
- ``PackedSession(twin, inputs, Device("cpu"))`` is a rehearsal without a GPU, see `graph`.
- ``open_graph`` is how onnxruntime's session comes about, with the options of `_device.gpu_options`: another provider
  needs another one of these.
"""

import gc
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.held import ModelFile
from crossrank._artifact.manifest import Inputs
from crossrank._device.capture import capture_lock
from crossrank._device.out_of_memory import is_out_of_memory, run_halved
from crossrank._device.session import check_process, open_graph
from crossrank._errors import CrossrankError
from crossrank._interrupts import not_thrown_in
from crossrank._machine.device import Device
from crossrank._machine.guard import Guard
from crossrank._machine.pool import Pool
from crossrank._text.pairs import PackedPairs

from .batches import (
    PackedShape,
    choose_bucket,
    fill_up,
    make_buckets,
    most_pairs,
    plan_packed_batches,
    sample_of,
    shape_of,
)
from .buffers import BufferPool, Rows, Section, Slab, aligned, lay_out, pack
from .graph import Bucket, DeviceGraph, OpenGraph

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PackedSettings:
    """How a device is kept busy.

    Attributes:
        max_tokens: Most tokens of a batch of several pairs.
        bucket_tokens: Tokens of the buckets, rising; none for no buckets.
        in_flight: Batches that are packed and copied ahead of the one that runs, that one counted in.
    """

    max_tokens: int
    bucket_tokens: tuple[int, ...]
    in_flight: int = 3


# Not tuned on a GPU yet. A batch should be a few milliseconds of work there, and buckets end where launching kernels
# no longer weighs.
GPU_SETTINGS = PackedSettings(
    max_tokens=32768,
    bucket_tokens=(128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384),
)
# A CPU runs a packed graph's twin, in a proof or a rehearsal, and prefers small batches.
CPU_SETTINGS = PackedSettings(max_tokens=1024, bucket_tokens=(128, 256, 512))


class PackedSession:
    """A packed graph loaded on a device. Threads may share it; a forked child may not use it.

    Args:
        graph: The ONNX file.
        inputs: The manifest's facts about the graph's inputs.
        device: Where to run: a GPU, or the CPU for a graph's twin.
        threads: Intra-op threads on a CPU.
        settings: Or None for the device's own.
        capture: Whether buckets are captured as CUDA graphs, or None for: on a GPU.
        open_graph: Opens onnxruntime's session.

    Raises:
        DeviceError: If the device cannot run here.
        ArtifactError: If onnxruntime cannot load the file, or it is no packed graph.
    """

    lanes = 0  # it keeps its device busy by itself
    flat = False
    costs: None = None
    max_tokens_origin = "fixed"

    def __init__(
        self,
        graph: Path | ModelFile,
        inputs: Inputs,
        device: Device,
        threads: int = 1,
        *,
        settings: PackedSettings | None = None,
        capture: bool | None = None,
        open_graph: OpenGraph = open_graph,
    ) -> None:
        self._file = ModelFile.of(graph)
        self.path, self.device = self._file.path, device
        self.settings = settings or (CPU_SETTINGS if device.kind == "cpu" else GPU_SETTINGS)
        self._inputs, self._process = inputs, os.getpid()
        self._thread, guard = _device_thread(device, self._process)
        self._pool = BufferPool(device.kind, device.index, guard)
        self._open = partial(DeviceGraph, self._file, inputs, device, threads, self._pool, open_graph=open_graph)
        opened = self._open()
        self._graph: DeviceGraph | None = opened
        self._capturing = device.kind == "cuda" if capture is None else capture
        self.provider, self.labels, self.input_names = opened.provider, opened.labels, opened.input_names
        self._buckets: dict[PackedShape, Bucket] = {}
        # Those that are not done are in flight: no count of them that an exception could leave wrong.
        self._submitted: list[Future[Floats | None]] = []

    @property
    def max_tokens(self) -> int:
        """Most tokens of a batch of several pairs; less than at first once memory did not suffice."""
        return self.settings.max_tokens

    @property
    def buckets(self) -> list[PackedShape]:
        """The shapes that small batches are brought to, by rising tokens; none before `warm_up`."""
        return list(self._buckets)

    def plan(self, lengths: NDArray[np.int32], max_pairs: int | None) -> list[NDArray[np.intp]]:
        """Batches of pairs, as `plan_packed_batches` makes them."""
        return plan_packed_batches(lengths, max_tokens=self.max_tokens, max_pairs=max_pairs)

    def run(self, batch: PackedPairs, *, alone: bool = False) -> Floats:
        """Logits of joined pairs, float32 [pairs, labels]. Raises as what `submit` returns."""
        return self.submit([batch], [len(batch.lengths)])()[0]

    def submit(self, batches: Iterable[PackedPairs], pairs: Sequence[int]) -> Callable[[], list[Floats]]:
        """Have batches run. Returns when the last one is on the device, which is before they have run.

        Args:
            batches: Joined pairs, at least one in each; taken one by one, as the device comes to them.
            pairs: How many are in each.

        Returns:
            A function that waits for them and gives the logits of each, float32 [pairs, labels]. It raises
            DeviceError if the device's memory does not suffice even for half of a batch or the device fails, and
            ArtifactError if onnxruntime fails in the graph.

        Raises:
            DeviceError: In a forked child.
        """
        check_process(self.device, self._process)
        starts = np.cumsum([0, *map(aligned, pairs)]).tolist()
        rows: Rows | None = None
        waiting: list[Future[Floats | None]] = []
        for batch, start in zip(batches, starts[:-1], strict=True):
            buckets = self._buckets
            shape = shape_of(batch.lengths)
            chosen = choose_bucket(shape, list(buckets))
            self._wait_for_room()
            if chosen is not None and chosen in buckets:
                future = self._submit_to_bucket(batch, buckets[chosen])
            else:
                rows = rows or self._rows(starts[-1])
                future = self._submit_packed(batch, shape, rows, start)
            self._submitted.append(future)
            waiting.append(future)

        def results() -> list[Floats]:
            found = [future.result() for future in waiting]
            fetched = None if rows is None else self._pool.fetch(rows)
            logits = []
            for count, own, start in zip(pairs, found, starts[:-1], strict=True):
                if own is None:
                    assert fetched is not None, "a batch without a result of its own has it in the call's rows"
                    own = fetched[start : start + count]
                logits.append(own)
            return logits

        return results

    def worked(self, seconds: float) -> None:
        """There is nothing to learn."""

    def _rows(self, count: int) -> Rows | None:
        """Rows for the logits of a call, or None where the device has no memory for them: batches get their own."""
        try:
            return self._pool.rows(count, self.labels)
        except CrossrankError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def warm_up(self) -> None:
        """Pay ahead what first calls would: open the graph for capturing, capture each bucket, run the largest batches.

        Calls that come meanwhile wait. Another time it captures nothing again.

        Raises:
            DeviceError: If the device's memory does not suffice, or it fails.
        """
        check_process(self.device, self._process)
        self._thread.submit(self._make_buckets).result()
        for batch in self._largest():
            self.run(batch)

    def _wait_for_room(self) -> None:
        """Until fewer batches are in flight than may be; threads that come at once may each add one."""
        while submitted := list(self._submitted):
            oldest = submitted[0]  # they end in their order, since one thread does them
            if len(submitted) < self.settings.in_flight and not oldest.done():
                return
            oldest.exception()
            with suppress(ValueError):  # another thread was faster
                self._submitted.remove(oldest)

    def _submit_packed(
        self, batch: PackedPairs, shape: PackedShape, rows: Rows | None, start: int
    ) -> "Future[Floats | None]":
        """Have a batch run; its logits go to the call's rows, or come back where there was no memory for these."""
        sections, size = lay_out(self.input_names, shape)
        try:
            slab = self._packed(batch, shape.longest, sections, size, upload=True)
        except CrossrankError as error:
            return self._on_device(partial(self._run_smaller, batch, error))

        def job() -> Floats | None:
            try:
                if rows is None:
                    return self._here().run_alone(batch)
                self._here().run_packed(slab, sections, rows, start, shape.pairs)
            except CrossrankError as error:
                return self._run_smaller(batch, error)
            finally:
                self._pool.give_back(slab)
            return None

        return self._on_device(job)

    def _submit_to_bucket(self, batch: PackedPairs, bucket: Bucket) -> "Future[Floats | None]":
        # Packed here, so that it overlaps; copied there, since a bucket has one place on the device.
        filled = fill_up(batch, bucket.shape, self._inputs.pad_id)
        slab = self._packed(filled, bucket.shape.longest, bucket.sections, bucket.size, upload=False)

        def job() -> Floats | None:
            try:
                graph = self._here()
                if self._buckets.get(bucket.shape) is not bucket:  # of a graph that is gone
                    return graph.run_alone(batch)
                return graph.run_bucket(bucket, slab.host[: bucket.size])[: len(batch.lengths)]
            except CrossrankError as error:
                return self._run_smaller(batch, error)
            finally:
                self._pool.give_back(slab)

        return self._on_device(job)

    def _packed(
        self, batch: PackedPairs, longest: int, sections: Sequence[Section], size: int, *, upload: bool
    ) -> Slab:
        """A slab with a batch in it, given back by who takes it."""
        slab = self._pool.take(size)
        try:
            pack(batch, longest, self._inputs, sections, slab.host)
            if upload:
                self._pool.upload(slab)
        except BaseException:
            self._pool.give_back(slab)
            raise
        return slab

    def _on_device(self, job: Callable[[], Floats | None]) -> "Future[Floats | None]":
        """Do a job on the session's own thread, when nothing is captured."""
        return self._thread.submit(partial(capture_lock().run, job))

    # What follows runs on the session's own thread.

    def _run_smaller(self, batch: PackedPairs, error: CrossrankError) -> Floats:
        if not is_out_of_memory(error):
            raise error
        # So that the next calls need not fail first. Batches that were planned with this one will: no reason to halve
        # the budget again.
        fewer = max(1, len(batch.ids) // 2)
        if fewer < self.max_tokens:
            self.settings = replace(self.settings, max_tokens=fewer)
        return run_halved(self._here().run_alone, batch, error, str(self.device))

    def _make_buckets(self) -> None:
        shapes = make_buckets(self.settings.bucket_tokens, self._inputs.max_length)
        if self._buckets or not shapes:
            return
        failed = ""
        try:
            if self._capturing:
                self._reopen(capture=True)
                # First what no batch has more tokens or pairs than: onnxruntime up to 1.30 frees a buffer of its own
                # when more rows come (GetConstOnes of its Gemm, which is left for the head's rows, one for each pair,
                # and for activations that are not fused), and graphs captured before would read what was freed.
                for batch in self._largest():
                    self._here().run_alone(batch)
            graph = self._here()

            def capture() -> list[Bucket]:
                with self._pool.still():
                    return [graph.capture(shape, 1 + i) for i, shape in enumerate(shapes)]

            made = capture_lock().capture(capture) if self._capturing else capture()
            self._buckets = dict(zip(shapes, made, strict=True))
        except not_thrown_in(Exception) as error:  # whatever it is, all shapes run without
            failed = str(error)
        if failed:  # behind the handler: its traceback keeps the first graph, and the device may not hold two
            logger.warning("device %s: no CUDA graphs, small batches take longer: %s", self.device, failed)
            self._reopen(capture=False)

    def _reopen(self, *, capture: bool) -> None:
        self._file.check()  # while there is still a graph
        self._buckets, self._graph = {}, None  # first, since the device may not hold two
        gc.collect()  # tracebacks of errors keep what they passed, in cycles
        self._graph = self._open(capture=capture)

    def _here(self) -> DeviceGraph:
        """The graph; opened now where that has failed before.

        Raises:
            DeviceError: If it fails again.
        """
        if self._graph is None:
            self._reopen(capture=False)
        assert self._graph is not None, "it was opened"
        return self._graph

    def _largest(self) -> list[PackedPairs]:
        """Batches of no meaning: as many tokens as any may have in the longest pairs, and the most pairs."""
        length, tokens = self._inputs.max_length, max(self.max_tokens, self._inputs.max_length)
        shapes = PackedShape(tokens, -(-tokens // length), length), PackedShape(tokens, most_pairs(self.max_tokens), 1)
        return [sample_of(shape) for shape in shapes]


@cache
def _device_thread(device: Device, process: int) -> tuple[Pool, Guard]:
    """The one thread that runs things on a device, and the guard of what others may do there meanwhile.

    All sessions of a process share them: a copy for one of them would break the capture of another.

    Args:
        device: The device.
        process: Its process: a forked child has no thread of its parent's.
    """
    return Pool(1, f"crossrank-{device}"), Guard()
