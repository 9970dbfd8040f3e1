"""Graphs on disk: what onnx and onnxruntime read is what was built, in one file and in two, and written in parts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from crossrank.export._graphs.graph import EXTERNAL_DATA_BYTES, Graph, Model, save_model
from crossrank.export._graphs.int8 import quantize
from tests.support.tiny_models import make_checkpoint

RNG = np.random.default_rng(0)
# More than is laid out or rounded at a time.
LARGE = RNG.standard_normal((3000, 1700)).astype(np.float32)


def build(dtype: type[np.float32 | np.float16] = np.float32) -> tuple[Model, dict[str, NDArray[Any]]]:
    """A graph with weights of all kinds, and their values."""
    graph = Graph(dtype)
    values: dict[str, NDArray[Any]] = {
        "rows": LARGE,
        "columns": LARGE.T,
        "every other": LARGE[::2, ::3],
        "small": np.array([1.5, 2.5], np.float32),
        "scalar": np.array(3.5, np.float32),
    }
    for name, value in values.items():
        graph.weight(name, value)
    exact: dict[str, NDArray[Any]] = {"int8": np.arange(-128, 127, dtype=np.int8).repeat(20), "int64": np.arange(3)}
    for name, value in exact.items():
        graph.constant(name, value)
    graph.input("x", np.float32, ["n", 3000])
    if dtype is np.float32:
        graph.output(graph.add("MatMul", "x", "rows"), "y", ["n", 1700])
    return graph.model(), {name: value.astype(dtype) for name, value in values.items()} | exact


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("limit_bytes", [10**9, 0])
def test_weights_on_disk_are_those_of_the_graph(
    tmp_path: Path, dtype: type[np.float32 | np.float16], limit_bytes: int
) -> None:
    model, expected = build(dtype)
    files = save_model(model, tmp_path / "model.onnx", limit_bytes=limit_bytes)
    assert [file.name for file in files] == ["model.onnx", "model.onnx_data"][: len(files)]
    assert len(files) == (1 if limit_bytes else 2)
    assert {path.name for path in tmp_path.iterdir()} == {file.name for file in files}
    loaded = onnx.load(tmp_path / "model.onnx")
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert np.array_equal(found[name], value), name
    for tensor in model.whole().graph.initializer:
        assert np.array_equal(numpy_helper.to_array(tensor), expected[tensor.name])


@pytest.mark.parametrize("limit_bytes", [10**9, 0])
def test_onnxruntime_reads_it_and_onnx_checks_it(tmp_path: Path, limit_bytes: int) -> None:
    model, values = build()
    save_model(model, tmp_path / "model.onnx", limit_bytes=limit_bytes)
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    x = RNG.standard_normal((2, 3000)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ values["rows"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("limit_bytes", [10**9, 0])
def test_files_are_the_same_every_time(tmp_path: Path, limit_bytes: int) -> None:
    first, second = (save_model(build()[0], tmp_path / name, limit_bytes=limit_bytes) for name in ("a.onnx", "b.onnx"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes().replace(b"a.onnx_data", b"b.onnx_data") == other.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="no modes there")
def test_file_of_weights_is_readable_by_whom_the_graph_is(tmp_path: Path) -> None:
    model, _ = build()
    modes = {file.stat().st_mode & 0o777 for file in save_model(model, tmp_path / "model.onnx", limit_bytes=0)}
    mask = os.umask(0)
    os.umask(mask)
    assert modes == {0o666 & ~mask}


@pytest.mark.parametrize("shape", [(7, 5), (3000, 1700), (4, 1500, 900)])
@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_quantizing_in_parts_is_quantizing_the_whole(shape: tuple[int, ...], axis: int) -> None:
    values = RNG.standard_normal(shape).astype(np.float32)
    quantized, scales = quantize(values, axis)
    peaks = np.maximum(np.abs(values).max(axis=axis, keepdims=True), np.finfo(np.float32).tiny)
    assert np.array_equal(scales, peaks / np.float32(127))
    assert np.array_equal(quantized, np.rint(values / scales).astype(np.int8))


# 0.6 GB of weights, most of them in the table of words, as in multilingual models.
WIDE: dict[str, Any] = {
    **{"hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 16, "intermediate_size": 4096},
    "vocab_size": 130_000,
}
_EXPORT = """
import resource, sys
sys.modules["torch"] = sys.modules["transformers"] = None
import crossrank
from crossrank.export import _convert as _export, export_model
crossrank.CrossEncoder().rank("a", ["b"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export_model(sys.argv[1], sys.argv[2])
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts in KiB there")
def test_export_of_all_graphs_takes_less_than_three_times_the_weights_in_memory(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert", **WIDE)
    weights = (checkpoint / "model.safetensors").stat().st_size
    assert weights > EXTERNAL_DATA_BYTES
    command = [sys.executable, "-c", _EXPORT, str(checkpoint), str(tmp_path / "artifact")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, peak = (int(number) * 1024 for number in done.stdout.split())
    assert peak - before < 2.75 * weights
    assert {path.name for path in (tmp_path / "artifact" / "onnx").glob("*_data")} == {
        "model.onnx_data",
        "model_cpu_fp32.onnx_data",
    }
