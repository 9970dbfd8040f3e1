"""The attention kernel of each node of a graph, as onnxruntime prints it.

With ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO=1 its CUDA provider prints a line for each run of a node, in colour, on the
C++ standard output: AttentionKernelDebugInfo::Print in
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cuda/bert/attention_kernel_options.cc
"""

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.measure.gpu.contenders import FUSED, PADDED_PEER, WITH_FLASH, WITHOUT_FLASH, Keep, make_works
from benchmarks.measure.gpu.models import MODELS, REPEATED, GpuModel, Place, open_gpu_model, write_graph
from benchmarks.measure.gpu.ours import open_otherwise, settings_of
from benchmarks.measure.gpu.peers import open_peers
from benchmarks.measure.turns import Floats, Turns
from crossrank._device.cuda.session import PackedSession
from crossrank._device.session import open_graph

DEBUG_VARIABLE = "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO"
# Bits of AttentionBackend, as in crossrank's own options but for FlashAttention's: what is left is what a V100 takes.
_NO_FLASH = 2 + 16

_LINE = re.compile(
    r"Operator=(?P<operator>\S+)(?: Node=(?P<node>\S+))? DataType=(?P<type>\S+)"
    # Up to onnxruntime 1.19 the kernel's name is the option itself, and no name is the kernel that is not fused.
    r"(?: SdpaKernel=(?P<kernel>\w+)| (?P<older>\w+)=1)?"
)
_COLOUR = re.compile(r"\x1b\[\d*m")


def read_kernels(printed: str) -> dict[str, dict[str, int]]:
    """How many nodes of each operator and type took which kernel; a node that ran several times counts once.

    >>> read_kernels("Operator=Attention Node=a DataType=fp16 SdpaKernel=MATH")
    {'Attention fp16': {'MATH': 1}}
    """
    nodes = {
        (f"{line['operator']} {line['type']}", line["node"] or "", line["kernel"] or line["older"] or "MATH")
        for line in _LINE.finditer(_COLOUR.sub("", printed))
    }
    found: dict[str, Counter[str]] = {}
    for what, _, kernel in sorted(nodes):
        found.setdefault(what, Counter())[kernel] += 1
    return {what: dict(kernels) for what, kernels in found.items()}


@contextmanager
def printed_output() -> Iterator[list[str]]:
    """Catch what this process prints, from C++ too; the list gets it as one text at the end."""
    caught: list[str] = []
    sys.stdout.flush()
    before = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            yield caught
        finally:
            sys.stdout.flush()
            os.dup2(before, 1)
            os.close(before)
            file.seek(0)
            caught.append(file.read().decode("utf-8", "replace"))


def measure_kernels(place: Place, keep: Keep) -> None:
    """The attention kernel of every node: ours, ours without FlashAttention (as on a V100), and the peers' graph.

    The logits without FlashAttention are compared with those with it.
    """
    with patch.dict(os.environ, {DEBUG_VARIABLE: "1"}):  # read when a session is opened
        for key in (key for key in MODELS if key not in REPEATED):
            with tempfile.TemporaryDirectory() as work:
                keep(key, _kernels(open_gpu_model(key, place), Path(work)))


def _kernels(model: GpuModel, folder: Path) -> dict[str, object]:
    inputs, place = model.checkpoint.inputs, model.place
    path = write_graph(model, "packed", folder)
    (work,) = make_works(model.checkpoint, 16, 1)

    def ours(opening: Callable[..., Any]) -> Floats:
        settings = settings_of(model)
        return PackedSession(path, inputs, place.device, settings=settings, open_graph=opening).run(work.joined)

    def peer() -> Floats:
        peers, absent = open_peers(model, folder, [FUSED])
        if absent:
            raise RuntimeError(absent[FUSED])
        return peers[0].forms["model"](work)()

    acts: dict[str, Callable[[], Floats]] = {
        WITH_FLASH: partial(ours, open_graph),
        WITHOUT_FLASH: partial(ours, partial(open_otherwise, kernels=_NO_FLASH)),
        PADDED_PEER: peer,
    }
    logits: dict[str, Floats] = {}

    def read(name: str) -> dict[str, dict[str, int]]:
        with printed_output() as printed:
            logits[name] = acts[name]()
        return read_kernels(printed[0])

    turns = Turns(acts, catch=Exception)  # one that does not run is a result too
    result: dict[str, object] = {**turns.each(read), **turns.failed}
    if WITH_FLASH in logits and WITHOUT_FLASH in logits:
        both = np.stack([logits[WITH_FLASH], logits[WITHOUT_FLASH]])
        result["max_abs_delta"] = float(np.abs(both[0] - both[1]).max())
        result["not_finite"] = int(np.count_nonzero(~np.isfinite(both)))
    return result
