"""Advice on a GPU or TensorRT that does not run: what is installed and what is needed, in a sentence and a command.

Advice is asked for only when a session on a GPU fails to start or to run. `diagnose` is a pure function of `GpuFacts`,
which `gpu` reads. `TensorrtFacts` are asked before a session is opened: where TensorRT's library is absent, onnxruntime
lists its provider all the same, and goes on with the next one after a line in its log.
"""

import ctypes
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any

from crossrank._errors import DeviceError
from crossrank._interrupts import not_thrown_in

from .gpu import Gpu, GpuFacts, read_gpu_facts
from .onnxruntime import INSTALL_HINT

Version = tuple[int, ...]

_CPU = "device='cpu' runs here: pip uninstall -y onnxruntime-gpu && pip install 'crossrank[cpu]'"


@dataclass(frozen=True, slots=True)
class _Build:
    """What the onnxruntime-gpu of an extra needs."""

    extra: str
    cuda: int
    # Of NVIDIA's driver for Linux: minor version compatibility,
    # https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
    driver: Version


_CUDA12, _CUDA13 = _Build("cuda12", 12, (525,)), _Build("cuda13", 13, (580,))


def gpu_advice(index: int) -> str:
    """What to do about a GPU that does not start, from what this machine has."""
    return diagnose(read_gpu_facts(), index)


def diagnose(facts: GpuFacts, index: int) -> str:
    """What keeps onnxruntime from a GPU, and the one command that helps.

    Args:
        facts: What the machine has.
        index: Of the GPU that was asked for.

    >>> diagnose(GpuFacts("1.31.1", 13, (Gpu("Tesla V100", (7, 0)),), (580, 65), (9, 12)), 0).partition(": pip")[0]
    'GPU Tesla V100 (sm_70) is not in onnxruntime-gpu 1.31.1 for CUDA 13: it runs on versions below 1.27'
    """
    if facts.driver is None:
        return f"no NVIDIA driver answers (nvidia-smi must list the GPU): install or load it; {_CPU}"
    if index >= len(facts.gpus):
        names = ", ".join(gpu.name for gpu in facts.gpus) or "none"
        return f"there is no GPU {index}; the driver lists {names} (CUDA_VISIBLE_DEVICES may hide some)"
    gpu = facts.gpus[index]
    what = f"GPU {gpu.name} (sm_{gpu.capability[0]}{gpu.capability[1]})"
    have = f"onnxruntime-gpu {facts.onnxruntime} for CUDA {facts.cuda}"
    driver = ".".join(map(str, facts.driver))
    if gpu.capability < (7, 0):
        return f"{what} is older than all that {have} runs on, sm_70: {_CPU}"
    best = _CUDA12 if facts.driver < _CUDA13.driver else _CUDA13
    if gpu.capability < (7, 5):
        best = _CUDA12
    elif gpu.capability >= (12, 0):
        best = _CUDA13
    if facts.driver < best.driver:
        return f"{what} has driver {driver}, and CUDA {best.cuda} needs {best.driver[0]} or newer: update the driver"
    return _wrong_build(facts, gpu, what, have, best, driver) or _missing_libraries(facts, gpu, what, have)


def _wrong_build(facts: GpuFacts, gpu: Gpu, what: str, have: str, best: _Build, driver: str) -> str | None:
    release = version(facts.onnxruntime)
    if gpu.capability < (7, 5) and (facts.cuda != 12 or release >= (1, 27)):
        return f"{what} is not in {have}: it runs on versions below 1.27: pip install 'crossrank[volta]'"
    if gpu.capability >= (12, 0) and (facts.cuda != 13 or release < (1, 28)):
        return f"{what} is not in {have}: it needs 1.28 or newer for CUDA 13: pip install 'crossrank[cuda13]'"
    if (10, 0) <= gpu.capability < (11, 0) and release >= (1, 29):
        return f"{what} is not in {have}, from 1.29 on: pip install 'onnxruntime-gpu>=1.28,<1.29'"
    if facts.cuda == 13 and best is _CUDA12:
        return f"{what} has driver {driver}, and {have} needs 580 or newer: pip install 'crossrank[cuda12]'"
    return None


def _missing_libraries(facts: GpuFacts, gpu: Gpu, what: str, have: str) -> str:
    problems, packages = [], []
    if facts.missing:
        problems.append(f"does not find {', '.join(facts.missing)}")
        packages.append(f"'onnxruntime-gpu[cuda,cudnn]=={facts.onnxruntime}'")
    volta = gpu.capability < (7, 5)
    fitting = (9, 1) <= (facts.cudnn or ()) < ((9, 11) if volta else (10,))
    if not fitting:
        found = "none" if facts.cudnn is None else ".".join(map(str, facts.cudnn))
        problems.append(f"needs cuDNN 9{' below 9.11' if volta else ''}, found is {found}")
        packages.append(f"'nvidia-cudnn-cu{facts.cuda}>=9.1,{'<9.11' if volta else '<10'}'")
    if problems:
        return f"{what}: {have} {' and '.join(problems)}: pip install {' '.join(packages)}"
    return f"{what} and {have} fit each other: check that nvidia-smi lists the GPU as free, or {INSTALL_HINT}"


def version(text: str) -> Version:
    """The numbers that a version begins with.

    >>> version("1.28.0rc1")
    (1, 28, 0)
    """
    return tuple(int(part) for part in re.match(r"[\d.]*", text)[0].split(".") if part)  # type: ignore[index]


# onnxruntime-gpu 1.24.4 to 1.31.1 links libnvinfer.so.10; the oldest that it was built against.
_MAJOR, _LEAST = 10, (10, 14, 1)


@dataclass(frozen=True, slots=True)
class TensorrtFacts:
    """What decides whether TensorRT runs, and what an engine is made for.

    Attributes:
        machine: GPUs, driver and onnxruntime.
        tensorrt: The version of the library that the loader finds, None if it finds none.
        tf32: What NVIDIA_TF32_OVERRIDE says of float32 products, empty where it is not set.
    """

    machine: GpuFacts
    tensorrt: Version | None
    tf32: str = ""

    def problem(self, index: int) -> str | None:
        """What keeps TensorRT from a GPU, and the one command that helps; None if nothing is known to.

        >>> machine = GpuFacts("1.31.1", 13, (Gpu("NVIDIA L4", (8, 9)),), (580, 65), (9, 12))
        >>> print(TensorrtFacts(machine, None).problem(0))
        no TensorRT library is found (libnvinfer.so.10): pip install 'tensorrt-cu13>=10.14.1,<11'
        """
        machine = self.machine
        if machine.driver is None or index >= len(machine.gpus) or machine.cuda is None:
            return diagnose(machine, index)
        command = f"pip install 'tensorrt-cu{machine.cuda}>=10.14.1,<11'"
        gpu = machine.gpus[index]
        if gpu.capability < (7, 5):
            return (
                f"GPU {gpu.name} (sm_{gpu.capability[0]}{gpu.capability[1]}) is older than all that TensorRT 10.14 "
                f"runs on, sm_75: device='cuda' runs here"
            )
        if self.tensorrt is None:
            return f"no TensorRT library is found (libnvinfer.so.{_MAJOR}): {command}"
        if self.tensorrt < _LEAST or self.tensorrt[0] > _MAJOR:
            found = ".".join(map(str, self.tensorrt))
            return (
                f"TensorRT {found} is installed, onnxruntime {machine.onnxruntime} needs 10.14.1 or newer, below 11: "
                f"{command}"
            )
        return None

    def require(self, index: int) -> None:
        """Raise `DeviceError` if something keeps TensorRT from the GPU of that index."""
        problem = self.problem(index)
        if problem is not None:
            raise DeviceError(f"device tensorrt:{index}: {problem}")

    def gpu(self, index: int) -> Gpu:
        """The GPU of that index."""
        return self.machine.gpus[index]


def read_tensorrt_facts() -> TensorrtFacts:
    """The facts of this machine and process. It raises nothing: what cannot be read is absent."""
    return TensorrtFacts(read_gpu_facts(), load_tensorrt(), os.environ.get("NVIDIA_TF32_OVERRIDE", ""))


def tensorrt_advice(index: int) -> str:
    """What to do about a GPU on which TensorRT does not start or run, from what this machine has."""
    facts = read_tensorrt_facts()
    return facts.problem(index) or diagnose(facts.machine, index)


@cache
def load_tensorrt() -> Version | None:
    """Load TensorRT into the process, from pip's package or where the loader finds it, and give its version.

    onnxruntime's provider links the libraries by name and would not look into pip's folder; once they are loaded, it
    gets those. On Linux alone.
    """
    spec = util.find_spec("tensorrt_libs")  # of tensorrt-cu12-libs and tensorrt-cu13-libs
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []
    for major in (_MAJOR, _MAJOR + 1):  # the second only to say what was found
        library = _load(f"libnvinfer.so.{major}", folders)
        if library is None:
            continue
        if major == _MAJOR:
            _load(f"libnvinfer_plugin.so.{major}", folders)
            _load(f"libnvonnxparser.so.{major}", folders)
        library.getInferLibVersion.restype = ctypes.c_int32
        number = int(library.getInferLibVersion())  # 101401 is 10.14.1
        return number // 10000, number // 100 % 100, number % 100
    return None


def _load(name: str, folders: list[Path]) -> Any:
    for path in [*(str(folder / name) for folder in folders), name]:
        try:
            return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except not_thrown_in(OSError):
            continue
    return None
