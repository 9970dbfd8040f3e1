"""Facts of a machine's NVIDIA GPUs: they and their driver by its management library, CUDA and cuDNN by the loader.

Without a dependency: the driver brings libnvidia-ml, and ctypes speaks to it.
https://docs.nvidia.com/deploy/nvml-api/
"""

import ctypes
import mmap
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossrank._interrupts import not_thrown_in

from .onnxruntime import ort


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: its name and its compute capability, such as (8, 0)."""

    name: str
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What decides whether onnxruntime runs on a GPU.

    Attributes:
        onnxruntime: Its version.
        cuda: The CUDA major version that it was built for, None for a build without.
        gpus: Those that this process may see, in CUDA's order as far as it is the driver's.
        driver: The driver's version, None if none answers.
        cudnn: Its version, None if it is not found.
        missing: CUDA libraries that the loader does not find.
    """

    onnxruntime: str
    cuda: int | None
    gpus: tuple[Gpu, ...] = ()
    driver: tuple[int, ...] | None = None
    cudnn: tuple[int, ...] | None = None
    missing: tuple[str, ...] = ()


def read_gpu_facts() -> GpuFacts:
    """The facts of this machine and process. It raises nothing: what cannot be read is absent."""
    built_for = str(getattr(ort, "cuda_version", "") or "").partition(".")[0]
    cuda = int(built_for) if built_for.isdecimal() else None
    driver, gpus = _read_driver()
    return GpuFacts(ort.__version__, cuda, _visible(gpus), driver, _read_cudnn(), _missing_libraries(cuda))


def _read_driver() -> tuple[tuple[int, ...] | None, list[Gpu]]:
    nvml = _load("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    if nvml is None or nvml.nvmlInit_v2() != 0:
        return None, []
    try:
        text = ctypes.create_string_buffer(96)
        driver = None
        if nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text))) == 0:
            driver = tuple(int(part) for part in text.value.decode().split(".") if part.isdecimal())
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return driver, []
        return driver, [_read_gpu(nvml, i) for i in range(count.value)]
    finally:
        nvml.nvmlShutdown()


def _read_gpu(nvml: Any, index: int) -> Gpu:
    handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    major, minor = ctypes.c_int(), ctypes.c_int()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0:
        return Gpu("unknown", (0, 0))
    nvml.nvmlDeviceGetName(handle, text, ctypes.c_uint(len(text)))
    nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    return Gpu(text.value.decode(errors="replace"), (major.value, minor.value))


def _visible(gpus: list[Gpu]) -> tuple[Gpu, ...]:
    """Those of CUDA_VISIBLE_DEVICES, in its order, where it holds numbers alone."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(gpus)
    parts = [part.strip() for part in chosen.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        return tuple(gpus)
    return tuple(gpus[int(part)] for part in parts if int(part) < len(gpus))


def _read_cudnn() -> tuple[int, ...] | None:
    names = ("cudnn64_9.dll",) if sys.platform == "win32" else ("libcudnn.so.9", "libcudnn.so.8", "libcudnn.so")
    for name in names:
        library = _load(name)
        if library is None:
            continue
        library.cudnnGetVersion.restype = ctypes.c_size_t
        number = int(library.cudnnGetVersion())
        # 90501 is 9.5.1; up to version 8 it had a digit less, 8907.
        return (number // 10000, number // 100 % 100) if number >= 90000 else (number // 1000, number // 100 % 10)
    return None


def _missing_libraries(cuda: int | None) -> tuple[str, ...]:
    if cuda is None or not sys.platform.startswith("linux"):
        return ()
    names = [f"libcudart.so.{cuda}", f"libcublasLt.so.{cuda}", f"libcublas.so.{cuda}", "libcurand.so.10"]
    cufft = f"libcufft.so.{cuda - 1}"  # its versions are one behind
    if _provider_names(cufft):  # newer releases need none
        names.append(cufft)
    return tuple(name for name in names if _load(name) is None)


def _provider_names(library: str) -> bool:
    """Whether onnxruntime's CUDA provider names a library; True where that cannot be read."""
    try:
        with (Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so").open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).find(library.encode()) >= 0
    except not_thrown_in(OSError):
        return True


def _load(name: str) -> Any:
    """A library as the loader finds it, or None."""
    try:
        return ctypes.CDLL(name)
    except not_thrown_in(OSError):
        return None
