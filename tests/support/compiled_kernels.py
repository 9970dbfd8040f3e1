"""The library of engine/kernels, built from the checkout where a compiler is."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "engine" / "kernels"
_PROJECT = ROOT / "tests" / "engine" / "kernels"


@cache
def built(*, flags: str = "", kind: str = "Release") -> Path:
    """A build folder with the program `check` and the library in kernels/, made once per process; skips without tools.

    Args:
        flags: More of the compiler's.
        kind: CMake's build type.
    """
    if not KERNELS.is_dir():
        pytest.skip("engine/kernels is not there: it is no part of the sdist")
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed, and without it the kernels cannot be built")
    folder = Path(tempfile.mkdtemp(prefix="crossrank-kernels-"))
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    settings = [f"-DKERNELS={KERNELS}", f"-DCMAKE_BUILD_TYPE={kind}", f"-DCMAKE_CXX_FLAGS={flags}"]
    for command in (
        ["cmake", "-S", str(_PROJECT), "-B", str(folder), *generator, *settings],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def kernels(*, reference: bool = False) -> Any:
    """The package `crossrank_kernels` of the checkout with the library that `built` gives; under a name of its own.

    Args:
        reference: Whether the library runs the plain C++ that the kernels are compared with, on any processor.
    """
    return _package("libreference" if reference else "kernels/libcrossrank")


@cache
def _package(library: str) -> Any:
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    package = built() / f"{Path(library).name}_package"
    shutil.copytree(KERNELS / "crossrank_kernels", package, ignore=shutil.ignore_patterns("*.so"))
    shutil.copy(built() / f"{library}{suffix}", package / f"libcrossrank{suffix}")
    spec = importlib.util.spec_from_file_location(package.name, package / "__init__.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def needs_instructions() -> Any:
    """The package, where the processor can run its fast kernels; skips elsewhere."""
    if not kernels().instructions():
        pytest.skip("the processor has no AVX-512 VNNI")
    return kernels()


def initializers(graph: Path) -> dict[str, Any]:
    """The initializers of an ONNX file by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(graph).graph.initializer}
