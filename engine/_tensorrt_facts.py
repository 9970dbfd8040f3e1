"""Whether TensorRT runs here: what is installed beside what onnxruntime needs, as one sentence with one command.

Asked before a session is opened. Where TensorRT's library is absent, onnxruntime lists its provider all the same, and
goes on with the next one after a line in its log.
"""

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any

from ._errors import DeviceError
from ._gpu_check import Version, diagnose
from ._gpu_facts import Gpu, GpuFacts, read_gpu_facts

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
        except OSError:
            continue
    return None
