"""The host's share of calls beside a GPU: CPU time of all threads for a document, where computing takes none.

Without a model it is the embedded one's tokenizer, and all of the packed graph's way but onnxruntime's run. With one,
an artifact on the GPU that is there; on an emulation of CUDA without its kernels that is the runtime's share too.
"""

import argparse
import ctypes
import time
from dataclasses import replace
from math import prod
from statistics import median
from types import SimpleNamespace
from typing import Any

from benchmarks.inputs.workloads import synthetic_calls
from benchmarks.options import positive
from benchmarks.reporting.tables import format_table
from crossrank import CrossEncoder
from crossrank._device.cuda.buffers import PACKED_INPUTS
from crossrank._device.cuda.session import GPU_SETTINGS, PackedSession
from crossrank._machine.cpu import available_threads
from crossrank._machine.device import Device
from crossrank._schedule.processes import Schedulers
from crossrank._schedule.scheduler import Scheduler

_WARM_UP = 2


class NoGraph:
    """Stands for onnxruntime's session of a packed graph, and its binding: all logits are 0, at once."""

    def __init__(self, *_: object, **__: object) -> None:
        self.get_providers = lambda: ["none"]
        self.get_inputs = lambda: [SimpleNamespace(name=name, type="tensor(int32)", shape=()) for name in PACKED_INPUTS]
        self.get_outputs = lambda: [SimpleNamespace(name="logits", type="tensor(float)", shape=("pairs", 1))]
        self.io_binding = lambda: self

    def bind_input(self, *_: object) -> None:
        """Nothing reads it."""

    def bind_output(self, _: str, __: str, ___: int, ____: type, shape: tuple[int, ...], address: int) -> None:
        """Write the logits."""
        ctypes.memset(address, 0, 4 * prod(shape))

    def run_with_iobinding(self, *_: object) -> None:
        """There is nothing to run."""


def open_without_graph() -> CrossEncoder:
    """The embedded model as on a GPU, but that nothing is computed."""
    model: Any = CrossEncoder()
    backend, inputs = model._model.backend, model._model.manifest.inputs
    session = PackedSession(backend.path, inputs, Device("cpu"), settings=GPU_SETTINGS, open_graph=NoGraph)
    model._scorer = replace(model._scorer, backend=session, schedulers=Schedulers(lambda: Scheduler(session)))
    found: CrossEncoder = model
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    sizes = [100, 1000, 10_000]
    text = "of a call, one or more sizes (default: 100 1000 10000)"
    parser.add_argument("--documents", nargs="+", type=positive, default=sizes, metavar="N", help=text)
    parser.add_argument("--calls", type=positive, default=12, metavar="N", help="whose median counts (default: 12)")
    parser.add_argument("--model", metavar="FOLDER", help="an artifact with a cuda graph, on the GPU")


def run(options: argparse.Namespace) -> None:
    """Score calls of encoded documents and of texts, none of which returns, and print the CPU time of each."""
    model = CrossEncoder(options.model, device="cuda") if options.model else open_without_graph()
    model.warm_up()
    rows = [("documents", "of a call", "us each", "least", "a second of one core")]
    for form in ("encoded", "texts"):
        for size in options.documents:
            times = []
            for call in synthetic_calls([size] * (_WARM_UP + options.calls)):
                documents: Any = model.encode(call.documents) if form == "encoded" else call.documents
                start = time.process_time()
                model.score(call.query, documents)
                times.append((time.process_time() - start) / size * 1e6)
            middle, least = median(times[_WARM_UP:]), min(times[_WARM_UP:])
            rows.append((form, f"{size:,}", f"{middle:.2f}", f"{least:.2f}", f"{1e6 / middle:,.0f}"))
    print(format_table(rows))
    race = model._scorer.tokenizer._race
    if race is not None and race.rust_s:
        print(f"texts, of wall clock: {race.memory_s * 1e9:.0f} ns a character by remembered words, ", end="")
        print(f"{race.rust_s * 1e9:.0f} by the Rust tokenizer on {available_threads().count} cores")
