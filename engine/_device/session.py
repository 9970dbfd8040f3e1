"""Sessions of onnxruntime: how every graph is opened, and the plain one, which runs a batch at a time."""

import contextlib
import ctypes
import io
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.held import ModelFile
from crossrank._artifact.manifest import Inputs
from crossrank._errors import ArtifactError, CrossrankError, DeviceError
from crossrank._interrupts import raised_by
from crossrank._machine.cpu import int8_products_saturate
from crossrank._machine.device import Device, check_device
from crossrank._machine.guard import Guard
from crossrank._machine.onnxruntime import ort
from crossrank._machine.process import PerProcess
from crossrank._text.pairs import PackedPairs

from .batches import EVEN_MAX_TOKENS, PADDED_MAX_TOKENS, plan_batches, plan_even_batches
from .capture import capture_lock
from .gpu_options import provider_options, session_entries
from .inputs import choose_layout, choose_logits
from .out_of_memory import is_out_of_memory, run_halved

# A batch of more tokens gives the memory of its activations back to the system: each session and shape of one keeps its
# own else, so that a process grows by a hundred MB with every long document.
_LONG_TOKENS = 2048

# onnxruntime's sessions of this process that are still alive.
_live: "weakref.WeakSet[Any]" = weakref.WeakSet()


class Session:
    """A graph loaded on a device. Threads may share it; a forked child gets a session of its own, of the same file.

    Args:
        graph: The ONNX file.
        inputs: The manifest's facts about the graph's inputs.
        device: Where to run.
        threads: Intra-op threads on a CPU; 1 is none but the caller's.

    Raises:
        DeviceError: If the device cannot run here.
        ArtifactError: If onnxruntime cannot load the file, or its inputs or outputs are none that can be used.
    """

    lanes = 0  # of its own accord it runs one batch after the other
    flat = False
    costs: None = None
    max_tokens_origin = "fixed"

    def __init__(self, graph: Path | ModelFile, inputs: Inputs, device: Device, threads: int = 1) -> None:
        self.file = ModelFile.of(graph)
        self.path, self.device, self._threads = self.file.path, device, threads
        # A session's threads do not survive a fork, so each process has its own.
        self._by_process: dict[int, Any] = {}
        self._guards = PerProcess(Guard)  # all lanes come at once, and one graph is enough
        self._describe(self._session(), inputs)

    def _describe(self, session: Any, inputs: Inputs) -> None:
        """Read off an opened session what it runs on, takes and gives."""
        self.provider: str = session.get_providers()[0]
        self.input_names = [node.name for node in session.get_inputs()]
        # Whether nothing tells padding from tokens, so that the pairs of a batch must have one length.
        self.even = {"attention_mask", "token_offset"}.isdisjoint(self.input_names)
        try:
            self._layout = choose_layout(session.get_inputs(), inputs)
            # Name of the output, and logits per pair, None if it is not declared.
            self._logits, self.labels = choose_logits(session.get_outputs())
            self._names = [self._logits]
            self.max_tokens: int = EVEN_MAX_TOKENS if self.even else PADDED_MAX_TOKENS
        except ArtifactError as error:
            raise ArtifactError(f"{self.path}: {error}") from error

    def plan(self, lengths: NDArray[np.int32], max_pairs: int | None) -> list[NDArray[np.intp]]:
        """Batches of pairs: padded ones, as `plan_batches` makes them, or of one length where nothing tells padding."""
        if self.even:
            return plan_even_batches(lengths, max_tokens=EVEN_MAX_TOKENS, max_pairs=max_pairs)
        return plan_batches(lengths, max_pairs=max_pairs)

    def submit(self, batches: Iterable[PackedPairs], pairs: Sequence[int]) -> Callable[[], list[NDArray[np.float32]]]:
        """Run batches one after the other, on this thread; returns what gives the logits of each."""
        return run_in_turn(self.run, batches)

    def worked(self, seconds: float) -> None:
        """There is nothing to learn."""

    def warm_up(self) -> None:
        """There is nothing to pay ahead."""

    def run(self, batch: PackedPairs, *, alone: bool = False) -> NDArray[np.float32]:
        """Logits of joined pairs, float32 [pairs, labels].

        Args:
            batch: The pairs.
            alone: As of `Backend`, and of no matter.

        Raises:
            DeviceError: If a GPU's memory does not suffice for half of them.
            ArtifactError: As `outputs`.
        """
        try:
            return self._run(batch)
        except CrossrankError as error:
            if self.device.kind == "cpu" or not is_out_of_memory(error):
                raise
            return run_halved(self._run, batch, error, str(self.device))

    def _run(self, batch: PackedPairs) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.outputs(batch, self._names)[0]
        return logits if logits.ndim == 2 else self._rows(logits, len(batch.lengths))

    def _rows(self, logits: NDArray[np.float32], pairs: int) -> NDArray[np.float32]:
        """Logits [pairs, labels] of a graph that leaves out a dimension of 1."""
        if logits.ndim > 2 or not logits.size or logits.size % pairs:
            raise ArtifactError(
                f"{self.path} gives logits of shape {logits.shape} for {pairs} pairs; [pairs, labels] expected"
            )
        return logits.reshape(pairs, -1)

    def outputs(self, batch: PackedPairs, names: list[str]) -> list[NDArray[Any]]:
        """Outputs of the graph by name, for joined pairs.

        Raises:
            ArtifactError: If onnxruntime fails in it, as in a graph that was made for another model, or if a forked
                child finds another file in its place.
        """
        session, feed = self._by_process.get(os.getpid()) or self._session(), self._layout(batch)
        try:
            if self.device.kind == "cpu":
                long = len(batch.ids) > _LONG_TOKENS
                results: list[NDArray[Any]] = session.run(names, feed, _shrinking_run() if long else None)
            else:
                results = capture_lock().run(lambda: session.run(names, feed, quiet_run()))
        except Exception as error:  # the binding's exceptions share no base of their own
            if not raised_by("onnxruntime", error):
                raise
            raise run_error(self.path, self.device, error) from error
        return results

    def _session(self) -> Any:
        process = os.getpid()
        session = self._by_process.get(process)
        if session is None:
            session = self._guards[process].hold(partial(self._open, process))
        return session

    def _open(self, process: int) -> Any:
        session = self._by_process.get(process)
        if session is None:
            with self.file.opened() as place:
                session = open_graph(place, self.device, self._threads)
            self._by_process[process] = session
        return session


def run_in_turn(
    run: Callable[[PackedPairs], NDArray[np.float32]], batches: Iterable[PackedPairs]
) -> Callable[[], list[NDArray[np.float32]]]:
    """Run batches at once, one after the other. Returns what gives the logits of each."""
    logits = [run(batch) for batch in batches]
    return lambda: logits


def open_graph(
    path: Path,
    device: Device,
    threads: int = 1,
    *,
    packed: bool = False,
    capture: bool = False,
    for_provider: Mapping[str, str] | None = None,
) -> Any:
    """A session of onnxruntime's for a graph, which really runs on the device.

    Args:
        path: The ONNX file.
        device: Where to run.
        threads: Intra-op threads on a CPU; 1 is none but the caller's.
        packed: Whether the graph was built for a GPU, so that every node of it must run there.
        capture: Whether runs on a GPU may be captured as CUDA graphs.
        for_provider: Options of a GPU's provider; by default those of CUDA's.

    Raises:
        DeviceError: If the device cannot run here.
        ArtifactError: If onnxruntime cannot load the file.
    """
    check_device(device)
    provider, on_cpu = device.provider, device.kind == "cpu"
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; a provider that does not start is an error of ours below
    options.intra_op_num_threads = threads if on_cpu else 1  # beside a GPU they would only idle
    if not on_cpu:
        options.enable_mem_pattern = False  # it keeps a block of memory for each shape that was run
    options.inter_op_num_threads = 1
    # Between calls the threads sleep; they would keep their cores busy for some 20 ms after each.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if int8_products_saturate():  # then unsigned weights, which are exact and take nearly twice as long
        options.add_session_config_entry("session.x64quantprecision", "1")
    own: Mapping[str, str] = {}
    if not on_cpu:
        own = provider_options(device.index, capture=capture) if for_provider is None else for_provider
        _preload_cuda()
        for key, value in session_entries(all_on_device=packed).items():
            options.add_session_config_entry(key, value)
    try:
        create = partial(
            ort.InferenceSession,
            path,
            sess_options=options,
            providers=[(provider, dict(own))],
            # onnxruntime's CPU kernel of SkipLayerNormalization takes 2.5 times as long as Add and
            # LayerNormalization.
            disabled_optimizers=["SkipLayerNormFusion"] if on_cpu else [],
            enable_fallback=0,  # it would print to standard output and go on on the CPU
        )
        session = create() if on_cpu else capture_lock().run(create)
    except Exception as error:  # the binding's exceptions share no base of their own
        if not raised_by("onnxruntime", error):
            raise
        kind, reason = (
            ArtifactError if on_cpu else DeviceError,
            str(error).replace(f"Load model from {path} failed:", ""),
        )
        raise kind(
            f"{path}: onnxruntime {ort.__version__} cannot load it on {device}: {reason}"
            + ("" if on_cpu else f"; {_advice(device)}")
        ) from error
    if session.get_providers()[0] != provider:
        raise DeviceError(
            f"device {device}: {provider} did not start, onnxruntime {ort.__version__} fell back to "
            f"{session.get_providers()[0]}: {_advice(device)}"
        )
    _keep_in_forks()
    _live.add(session)
    return session


@cache
def _shrinking_run() -> Any:
    """Options of a run on a CPU after which onnxruntime's memory that is not used is freed."""
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


@cache
def quiet_run() -> Any:
    """Options of a run whose failure is an exception that is handled, with no line on standard error beside it."""
    options = ort.RunOptions()
    options.log_severity_level = 4  # what ends the process
    return options


def run_error(path: Path, device: Device, error: Exception) -> CrossrankError:
    """What an exception of onnxruntime's in a run is to the caller."""
    text = f"{path}: onnxruntime {ort.__version__} fails in it: {error}"
    # A GPU without machine code for it is noticed by the first kernel, not when a graph is loaded.
    signs = ("CUDA", "CUBLAS", "CUDNN", "cuda", "TensorRT")
    if device.kind != "cpu" and any(sign in str(error) for sign in signs):
        return DeviceError(text if is_out_of_memory(error) else f"{text}; {_advice(device)}")
    return ArtifactError(text)


def _advice(device: Device) -> str:
    """What to do about a GPU that does not start or run, from what this machine has."""
    from crossrank._machine.advice import gpu_advice, tensorrt_advice  # seldom needed

    return (tensorrt_advice if device.kind == "tensorrt" else gpu_advice)(device.index)


@cache
def _preload_cuda() -> None:
    """Load CUDA and cuDNN from the packages that pip installed, where onnxruntime would not look for them."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()


@cache
def _keep_in_forks() -> None:
    """Let a forked child never destroy its parent's sessions: it would wait for threads that it does not have."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leak_sessions)


def _leak_sessions() -> None:
    for session in _live:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


def check_process(device: Device, process: int) -> None:
    """Raise `DeviceError` in a child of the process that loaded a session on a GPU, which does not survive a fork."""
    if os.getpid() != process:
        raise DeviceError(
            f"device {device}: a forked process cannot use its parent's session; load the model in the "
            "child, or start processes with multiprocessing's 'spawn'"
        )
