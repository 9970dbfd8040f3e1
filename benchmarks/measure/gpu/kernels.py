"""The attention kernel of each node of a graph, as onnxruntime prints it.

With ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO=1, read when a session is opened, its CUDA provider prints a line for each
run of a node, in colour, on the C++ standard output: AttentionKernelDebugInfo::Print in
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cuda/bert/attention_kernel_options.cc
"""

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

_LINE = re.compile(
    r"Operator=(?P<operator>\S+)(?: Node=(?P<node>\S+))? DataType=(?P<type>\S+)(?: SdpaKernel=(?P<kernel>\w+))?"
)
_COLOUR = re.compile(r"\x1b\[\d*m")


def read_kernels(printed: str) -> dict[str, dict[str, int]]:
    """How many nodes of each operator and type took which kernel; a node that ran several times counts once.

    >>> read_kernels("Operator=Attention Node=a DataType=fp16 SdpaKernel=MATH")
    {'Attention fp16': {'MATH': 1}}
    """
    nodes = {
        (f"{line['operator']} {line['type']}", line["node"] or "", line["kernel"] or "MATH")
        for line in _LINE.finditer(_COLOUR.sub("", printed))
    }
    found: dict[str, Counter[str]] = {}
    for what, _, kernel in sorted(nodes):
        found.setdefault(what, Counter())[kernel] += 1
    return {what: dict(kernels) for what, kernels in found.items()}


@contextmanager
def printed_kernels() -> Iterator[list[str]]:
    """Have sessions that are opened meanwhile print their kernels, and catch what this process prints, from C++ too.

    The list gets it as one text at the end.
    """
    caught: list[str] = []
    sys.stdout.flush()
    before = os.dup(1)
    with tempfile.TemporaryFile() as file, patch.dict(os.environ, {"ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"}):
        os.dup2(file.fileno(), 1)
        try:
            yield caught
        finally:
            sys.stdout.flush()
            os.dup2(before, 1)
            os.close(before)
            file.seek(0)
            caught.append(file.read().decode("utf-8", "replace"))
