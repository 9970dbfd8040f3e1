"""The GPU of a test run: a real one, an emulation of CUDA, or none; and what an emulation shows and takes.

An emulation, a rig, is a library in the place of CUDA's runtime, under an onnxruntime-gpu that does not know of it. It
keeps device memory on the host, counts and bounds it, logs what is called, and may do the arithmetic of the kernels.
What passes there has not run on a GPU: pytest's last line says so.

A rig is there where ``FAKE_CUDART`` names its library, which has the functions below beside CUDA's own. Of its other
variables these are read here: ``FAKE_SM``, the architecture that it claims to have; ``FAKE_MEM_MB``, its memory;
``FAKE_LOG``, where its log goes.

Nothing is imported here that needs the package: tests/conftest.py reads this first.
"""

import atexit
import ctypes
import gc
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EMULATED = bool(os.environ.get("FAKE_CUDART"))
ARCHITECTURE = int(os.environ.get("FAKE_SM") or 90)  # of an emulation
_MEMORY_MB = int(os.environ.get("FAKE_MEM_MB") or 138 * 1024)
_OWN_LOG = EMULATED and not os.environ.get("FAKE_LOG")
if EMULATED:  # about what a capture takes, so that what others do meanwhile falls into it
    os.environ.setdefault("FAKE_CAPTURE_MS", "2")
if _OWN_LOG:  # now, since the library reads it when it is loaded, by onnxruntime at the latest
    _folder = tempfile.TemporaryDirectory(prefix="emulated-cuda-")
    atexit.register(_folder.cleanup)
    os.environ["FAKE_LOG"] = str(Path(_folder.name) / "log")

_LAUNCH = re.compile(r"\] (?:KERNEL .* (\S+)|(cublas\w*Gemm\w*) .*\b(m=\d+) .*\b(k=\d+)|(cudaGraphLaunch)\b)")


def describe() -> str:
    """What the run's GPU is."""
    if EMULATED:
        return f"an emulation of CUDA as sm_{ARCHITECTURE}"
    return "there" if gpu_is_there() else "none, or no onnxruntime-gpu: its cases are left out"


def is_absent(item: pytest.Item) -> bool:
    """Whether a test cannot run here: it is marked ``gpu``, or ``emulation`` too."""
    if item.get_closest_marker("gpu") and not gpu_is_there():
        return True
    return item.get_closest_marker("emulation") is not None and not EMULATED


def status(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """How pytest counts and names a test of a GPU that passed without one; None for what it says of its own accord."""
    if EMULATED and report.when == "call" and report.passed and "gpu" in report.keywords:
        return f"passed on {describe()}", "e", f"PASSED on {describe()}"
    return None


@cache
def gpu_is_there() -> bool:
    """Whether onnxruntime can use CUDA, and there is a driver with a GPU, or what poses as them."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and driver.cuInit(0) == 0


def onnxruntime_version() -> tuple[int, int]:
    """Of which runs are, major and minor."""
    import onnxruntime

    major, minor = onnxruntime.__version__.split(".")[:2]
    return int(major), int(minor)


@cache
def _library() -> Any:
    library = ctypes.CDLL(os.environ["FAKE_CUDART"])
    for name in ("fake_live", "fake_allocations"):
        getattr(library, name).restype = ctypes.c_size_t
    library.fake_verbose(int(not _OWN_LOG))
    return library


def live_bytes() -> int:
    """Device memory that is allocated."""
    return int(_library().fake_live())


def allocations() -> int:
    """How often device memory was allocated."""
    return int(_library().fake_allocations())


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """Inside, so much device memory is free beside what is allocated now, and no more."""
    gc.collect()  # else models that are dropped already would make room later
    _library().fake_limit(ctypes.c_size_t(live_bytes() + size_bytes))
    try:
        yield
    finally:
        _library().fake_limit(ctypes.c_size_t(_MEMORY_MB << 20))


@contextmanager
def trace() -> Iterator[list[str]]:
    """What is called of CUDA inside, a line each; the list is filled at the end."""
    log, lines = Path(os.environ["FAKE_LOG"]), list[str]()
    library = _library()
    start = log.stat().st_size
    library.fake_verbose(1)
    try:
        yield lines
    finally:
        library.fake_verbose(int(not _OWN_LOG))
        lines += log.read_bytes()[start:].decode().splitlines()


@cache
def knows_strict_norms() -> bool:
    """Whether SkipLayerNormalization comes out right in strict mode.

    Up to 1.26 its kernel is that of LayerNormalization then, with a sum and a bias that an emulation may not know of.
    """
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime import InferenceSession

    rows = np.random.default_rng(0).normal(0, 1, (2, 2, 8)).astype(np.float16)
    constants = [numpy_helper.from_array(np.full(8, i, np.float16), f"all_{i}") for i in (0, 1)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [2, 8]) for name in ("x", "y", "out")]
    norm = helper.make_node("SkipLayerNormalization", ["x", "y", "all_1", "all_0"], ["out"], domain="com.microsoft")
    graph = helper.make_graph([norm], "norm", values[:2], values[2:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("com.microsoft", 1)], ir_version=8)
    providers = [("CUDAExecutionProvider", {"enable_skip_layer_norm_strict_mode": "1"})]
    (found,) = InferenceSession(model.SerializeToString(), providers=providers).run(None, {"x": rows[0], "y": rows[1]})
    total = rows.astype(np.float32).sum(0)
    expected = (total - total.mean(1, keepdims=True)) / total.std(1, keepdims=True)
    return bool(np.abs(found - expected).max() < 0.01)


def launches(lines: Iterable[str]) -> Counter[str]:
    """How often each kernel, matrix product (by its sizes but the rows) and captured graph is launched in a trace.

    What is recorded while a graph is captured does not count.
    """
    found = (_LAUNCH.search(line) for line in lines if " CAP] " not in line)
    return Counter(" ".join(filter(None, match.groups())) for match in found if match)
