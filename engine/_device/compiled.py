"""The compiled kernels of crossrank-kernels: whether a graph runs on them, and why not.

They are a distribution of their own, which nothing is loaded of unless a graph runs there.
"""

import logging
import os
import platform
import sys
from importlib.util import find_spec

from crossrank._artifact.held import ModelFile
from crossrank._artifact.manifest import Inputs, Variant
from crossrank._errors import InputError
from crossrank._machine.cpu import read_cpuinfo

from .backend import Backend

logger = logging.getLogger(__name__)

# An environment variable.
SWITCH = "CROSSRANK_KERNELS"

# Of a processor that they do not run on.
NO_INSTRUCTIONS = "this processor lacks AVX512-VNNI"

_COMMAND = "pip install 'crossrank[cpu-kernels]'"


def open_kernels(graph: ModelFile, variant: Variant, inputs: Inputs, lanes: int, *, native: bool) -> Backend | str:
    """An int8 graph's weights on crossrank-kernels; or why they do not run there.

    Args:
        graph: The ONNX file.
        variant: What it is.
        inputs: The manifest's facts about the graph's inputs.
        lanes: Threads.
        native: Whether the native exporter wrote the graph.

    Raises:
        InputError: If the switch has another value than it knows.
        ArtifactError: If another file has taken the graph's place since its folder was read.
    """
    if not switched_on():
        return f"switched off by {SWITCH}=0"
    if find_spec("crossrank_kernels") is None:
        return why_absent()
    if not native:
        return "they run graphs of crossrank's own exporter alone"
    try:
        from .kernels.backend import open_kernels as open_in_library
    except ModuleNotFoundError as error:  # of its own or of what it reads graphs with
        logger.debug("%s", error)
        return f"not installed: {_COMMAND}"
    except (ImportError, AttributeError) as error:  # of an older protobuf
        return f"they cannot be loaded ({error}): {_COMMAND}"
    return open_in_library(graph, variant, inputs, lanes)


def why_absent() -> str:
    """Why the library is not installed: nobody did, or there is none for this machine."""
    machine = platform.machine()
    if (sys.platform, machine) != ("linux", "x86_64"):  # as the extra has it
        return f"none are made for {sys.platform} on {machine}, but for linux on x86_64"
    if "avx512_vnni" not in read_cpuinfo().get("flags", "").split():
        return NO_INSTRUCTIONS
    return f"not installed: {_COMMAND}"


def switched_on() -> bool:
    """Whether they run where they can.

    Raises:
        InputError: If the switch has another value than it knows.
    """
    switch = os.environ.get(SWITCH) or "1"
    if switch not in ("0", "1"):
        raise InputError(f"{SWITCH}={switch!r:.60}: 1 for crossrank-kernels where they run, or 0 for onnxruntime")
    return switch == "1"
