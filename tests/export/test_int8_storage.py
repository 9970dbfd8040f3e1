"""The int8 precision stores every matrix in 8 bits, and computes with it as it would with float32."""

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from crossrank._device.cpu import CpuBackend
from crossrank.export._architectures.checkpoint import Checkpoint, read_checkpoint
from crossrank.export._exporters.native import read_native
from crossrank.export._graphs.graph import Graph, save_model
from crossrank.export._graphs.int8 import CompactGraph, quantize
from crossrank.export._graphs.layers import float_dense
from crossrank.export._graphs.layouts.cpu import write_cpu
from tests.support.references import auto_classifier, reference
from tests.support.scorers import scorer_of
from tests.support.tiny_models import PAIRS, make_checkpoint, transformers_logits

torch = reference("torch")

WIDTH, HEADS, LAYERS = 128, 4, 2
# Smaller matrices stay in float32.
SMALL = 4096
SIZES: dict[str, dict[str, int]] = {
    "bert": {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH},
    "electra": {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "embedding_size": 64},
    "distilbert": {"dim": WIDTH, "hidden_dim": 2 * WIDTH},
    "mpnet": {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH},
}

Floats = NDArray[np.float32]
ReadCheckpoint = Callable[[str], Checkpoint]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> ReadCheckpoint:
    """Reads a checkpoint that is tiny, but wide enough to have matrices that are not small."""

    @cache
    def make(architecture: str) -> Checkpoint:
        folder = make_checkpoint(tmp_path_factory.mktemp(architecture), architecture, **SIZES[architecture])
        return read_checkpoint(folder, max_length=None, relevant_label=None)

    return make


def build(checkpoint: Checkpoint, precision: str, folder: Path) -> Path:
    path = folder / f"{precision}.onnx"
    read_native(checkpoint.source.folder, None, max_length=None).build(("cpu", precision), path)
    return path


def float_matrices(path: Path) -> dict[str, int]:
    """Names and sizes of the float32 initializers with two or more dimensions."""
    tensors = onnx.load(path).graph.initializer
    return {t.name: int(np.prod(t.dims)) for t in tensors if len(t.dims) > 1 and t.data_type == onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("architecture", SIZES)
def test_no_large_matrix_is_stored_in_float(read: ReadCheckpoint, tmp_path: Path, architecture: str) -> None:
    int8, fp32 = (build(read(architecture), precision, tmp_path) for precision in ("int8", "fp32"))
    assert max(float_matrices(fp32).values()) > SMALL  # the control
    assert max(float_matrices(int8).values()) < SMALL
    # A quarter, and what is small beside these matrices in real models.
    assert int8.stat().st_size < 0.35 * fp32.stat().st_size


def loaded(path: Path, **entries: str) -> onnx.GraphProto:
    """The graph as onnxruntime runs it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".loaded"))
    options.log_severity_level = 3  # it warns that the file suits this machine alone
    for name, value in entries.items():
        options.add_session_config_entry(f"session.{name}", value)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath).graph


@pytest.mark.parametrize("entries", [{}, {"x64quantprecision": "1"}], ids=["default", "exact without VNNI"])
@pytest.mark.parametrize("architecture", SIZES)
def test_calls_scale_nothing_but_rows_of_words(
    read: ReadCheckpoint, tmp_path: Path, architecture: str, entries: dict[str, str]
) -> None:
    """The loaded graph runs the operators of the one with float32 matrices, and three for the rows."""
    checkpoint = read(architecture)
    operators = {}
    for kind in (Graph, CompactGraph):
        graph = kind(opset=23)
        types = checkpoint.inputs.token_types
        write_cpu(graph, checkpoint.weights, checkpoint.config, token_types=types, apply=float_dense)
        save_model(graph.model(), tmp_path / "model.onnx")
        found = loaded(tmp_path / "model.onnx", **entries)
        operators[kind] = Counter(node.op_type for node in found.node)
        words = sum(len(tensor.raw_data) for tensor in found.initializer if tensor.name == "embeddings.words.int8")
        assert words == (0 if kind is Graph else checkpoint.weights.embeddings.words.size)
    assert operators[CompactGraph] - operators[Graph] == Counter(["Gather", "Cast", "Mul"])
    assert not operators[Graph] - operators[CompactGraph]


def rounded(values: Any, dim: int) -> Any:
    scales = values.abs().amax(dim, keepdim=True) / 127
    return torch.round(values / scales) * scales


def round_parameters(model: Any) -> None:
    """What the exporter stores, in transformers' model: its matrices are [out, in]."""
    for name, parameter in model.named_parameters():
        values = parameter.data
        if "word_embeddings" in name:
            parameter.data = rounded(values, 1)
        elif values.ndim < 2 or values.numel() < SMALL:
            continue
        elif "position_embeddings" in name:
            parameter.data = rounded(values, 0)
        elif re.search(rf"layer\.{LAYERS - 1}\..*(key|\.k|k_lin)\.weight", name):  # the product runs over a head's rows
            parameter.data = rounded(values.reshape(HEADS, -1, WIDTH), 1).reshape(values.shape)
        else:
            parameter.data = rounded(values, 1)


@pytest.mark.parametrize("architecture", SIZES)
def test_stored_matrices_are_transformers_own_rounded_once(
    read: ReadCheckpoint, tmp_path: Path, architecture: str
) -> None:
    """Products in float32, so that nothing but storing differs; 2e-5 is the bound of float32 graphs on such models."""
    checkpoint = read(architecture)
    model = auto_classifier().from_pretrained(checkpoint.source.folder)
    exact = transformers_logits(checkpoint.source.folder, PAIRS)
    round_parameters(model)
    model.save_pretrained(tmp_path / "rounded")
    for file in checkpoint.source.folder.glob("*token*.json"):
        (tmp_path / "rounded" / file.name).write_bytes(file.read_bytes())
    reference = transformers_logits(tmp_path / "rounded", PAIRS)

    graph = CompactGraph(opset=23)
    write_cpu(
        graph, checkpoint.weights, checkpoint.config, token_types=checkpoint.inputs.token_types, apply=float_dense
    )
    save_model(graph.model(), tmp_path / "model.onnx")
    backend = CpuBackend(tmp_path / "model.onnx", checkpoint.inputs, 1)
    scorer = scorer_of(checkpoint.tokenizer, backend, checkpoint.inputs.max_length, checkpoint.config.labels)
    queries, documents = zip(*PAIRS, strict=True)
    logits = scorer.logits(queries, documents, np.arange(len(PAIRS)))
    assert np.abs(logits - reference).max() <= 2e-5
    assert np.abs(logits - exact).max() > 1e-3  # the control: rounding shows


finite = st.floats(-1e4, 1e4, width=32)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=3, max_side=6), elements=finite), st.sampled_from([-1, -2]))
def test_values_are_stored_within_half_a_scale(values: Floats, axis: int) -> None:
    quantized, scales = quantize(values, axis)
    assert (quantized.dtype, scales.dtype) == (np.dtype(np.int8), np.dtype(np.float32))
    assert quantized.shape == values.shape
    assert scales.shape[axis] == 1
    assert scales.size * values.shape[axis] == values.size
    assert quantized.min(initial=0) >= -127
    off = np.abs(quantized * scales.astype(np.float64) - values)
    assert (off <= scales * (0.5 + 1e-4)).all()  # 1e-4: values / scales is rounded to float32
