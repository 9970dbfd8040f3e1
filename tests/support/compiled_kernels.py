"""The library of engine/kernels, built from the checkout where a compiler is."""

import atexit
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from crossrank.export._exporters import native
from crossrank.export._graphs.int8 import build_int8

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
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
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
def installed() -> Path:
    """A folder for sys.path that holds the distribution of the checkout with the library that `built` gives."""
    folder = built() / "installed"
    _copy("kernels/libcrossrank", folder / "crossrank_kernels")
    project = tomllib.loads((KERNELS / "pyproject.toml").read_text("utf-8"))["project"]
    about = folder / f"crossrank_kernels-{project['version']}.dist-info"
    about.mkdir()
    text = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (about / "METADATA").write_text(text, encoding="utf-8")
    return folder


def _copy(library: str, package: Path) -> None:
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    shutil.copytree(KERNELS / "crossrank_kernels", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(built() / f"{library}{suffix}", package / f"libcrossrank{suffix}")


@cache
def _package(library: str) -> Any:
    package = built() / f"{Path(library).name}_package"
    _copy(library, package)
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


@contextmanager
def float_layers(*layers: int) -> Iterator[None]:
    """What is exported meanwhile leaves these layers in float where it is int8, as if its bound needed it."""

    def build(*subject: Any, **settings: Any) -> Any:
        return build_int8(*subject, **(settings | {"spared": layers}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "build_int8", build)
        yield
