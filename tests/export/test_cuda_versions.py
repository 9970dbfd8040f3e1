"""What the graphs need of onnxruntime: nothing that the oldest allowed one, 1.24.4, does not have."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from crossrank.export._architectures.checkpoint import read_checkpoint
from crossrank.export._graphs.graph import save_model
from crossrank.export._graphs.layouts.cpu import build_cpu
from crossrank.export._graphs.layouts.cuda import build_cuda
from crossrank.export._graphs.layouts.portable import build_portable
from tests.support.tiny_models import ARCHITECTURES, make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
OLDEST = "1.24.4"
# What graphs of ours have that 1.24.4 was seen to run, by the slow test below. Its own limits are not lower.
LAST_OPSET, LAST_IR = 23, 11
# Another operator than these needs a look at docs/OperatorKernels.md of 1.24.4: does its provider have a kernel?
STANDARD = {
    "Add", "Cast", "Concat", "CumSum", "Div", "Equal", "Erf", "Expand", "Gather", "LayerNormalization", "MatMul", "Min",
    "Mul", "Not", "Range", "Relu", "Reshape", "ScatterND", "Shape", "Sigmoid", "Slice", "Softmax", "Squeeze", "Sub",
    "Tanh", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
PACKED = {
    "Add", "Cast", "Gather", "LayerNormalization", "MatMul", "Mul", "Relu", "Reshape", "Shape", "Sigmoid", "Slice",
    "Tanh",
}  # fmt: skip
FUSED = {"BiasGelu", "FastGelu", "SkipLayerNormalization"}


def test_the_oldest_onnxruntime_is_the_one_that_is_allowed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert f"onnxruntime>={OLDEST}" in extras["cpu"]
    assert f"onnxruntime-gpu[cuda,cudnn]>={OLDEST},<1.27" in extras["cuda12"]
    assert f"onnxruntime-gpu[cuda]>={OLDEST},<1.27" in extras["volta"]  # which pins its own cuDNN


@pytest.mark.parametrize(
    ("architecture", "activation"),
    [("bert", "gelu"), ("roberta", "gelu_new"), ("mpnet", "relu"), ("distilbert", "silu")],
)
def test_opset_ir_and_operators_are_within_the_oldest_onnxruntimes(
    tmp_path: Path, architecture: str, activation: str
) -> None:
    field: dict[str, Any] = {"activation" if architecture == "distilbert" else "hidden_act": activation}
    checkpoint = make_checkpoint(tmp_path, architecture, **field)
    read = read_checkpoint(checkpoint, max_length=None, relevant_label=None)
    types = read.inputs.token_types
    graphs = {
        "cuda": build_cuda(read.weights, read.config, token_types=types),
        "twin": build_cuda(read.weights, read.config, token_types=types, twin=True),
        "portable": build_portable(read.weights, read.config, token_types=types),
        "cpu": build_cpu(read.weights, read.config, token_types=types),
    }
    for name, built in graphs.items():
        graph = built.whole()
        opsets = {entry.domain: entry.version for entry in graph.opset_import}
        assert opsets.get("", 0) <= LAST_OPSET
        assert opsets.get("com.microsoft", 1) == 1
        assert graph.ir_version <= LAST_IR
        onnx.checker.check_model(graph)
        standard = {node.op_type for node in graph.graph.node if not node.domain}
        contrib = {node.op_type for node in graph.graph.node if node.domain}
        if name == "cuda":
            assert standard <= PACKED
            assert contrib <= FUSED | {"PackedMultiHeadAttention"}
        elif name == "twin":
            assert standard <= STANDARD
            assert contrib <= FUSED | {"MultiHeadAttention"}
        else:
            assert standard <= STANDARD | {"Attention"}
            assert contrib <= {"FastGelu", "Gelu"}


def test_no_value_of_the_packed_graph_but_a_size_is_computed_on_a_cpu(tmp_path: Path) -> None:
    """Neither a session that refuses the CPU nor a CUDA graph takes one: sizes go straight to where they are used."""
    read = read_checkpoint(make_checkpoint(tmp_path, "mpnet"), max_length=None, relevant_label=None)
    graph = build_cuda(read.weights, read.config, token_types=read.inputs.token_types).graph
    sizes = {node.output[0] for node in graph.node if node.op_type == "Shape"}
    uses = [(node.op_type, i) for node in graph.node for i, name in enumerate(node.input) if name in sizes]
    assert uses == [("Slice", 2)] * 2  # an end, which the provider reads on the host


_RUN = """
import json, sys
import numpy as np, onnxruntime
paths, feeds = json.load(sys.stdin)
logits = []
for path, feed in zip(paths, feeds):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    types = {node.name: np.int64 if "64" in node.type else np.int32 for node in session.get_inputs()}
    feed = {name: np.array(value, types[name]) for name, value in feed.items()}
    logits.append(session.run(["logits"], feed)[0].tolist())
print(json.dumps([onnxruntime.__version__, logits]))
"""


@pytest.fixture(scope="module")
def oldest_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment with onnxruntime 1.24.4 and nothing of ours."""
    folder = tmp_path_factory.mktemp("oldest")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"onnxruntime=={OLDEST}"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"onnxruntime {OLDEST} could not be installed: {done.stderr[-500:]}")
    return python


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_graph_gives_the_same_on_the_oldest_onnxruntime(
    oldest_python: Path, tmp_path: Path, architecture: str
) -> None:
    """The packed graph by its twin, in float16 as it is proven. Two pairs of one length, so that all graphs take them.

    2e-5: float32 of logits with a standard deviation of 1.5; 0.02 for float16, the bound of its proof.
    """
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture)
    read = read_checkpoint(checkpoint, max_length=None, relevant_label=None)
    types, offset = read.inputs.token_types, read.inputs.position_offset
    ids = np.random.default_rng(0).integers(7, 30, (2, 9))
    segments = {"token_type_ids": np.repeat([0, 1], [4, 5])[None].repeat(2, 0)} if types else {}
    packed = {
        "input_ids": ids.ravel(),
        "position_ids": np.tile(np.arange(9) + offset, 2),
        "token_offset": np.arange(18).reshape(2, 9),
        "cumulative_sequence_length": np.array([0, 9, 18]),
        **{name: value.ravel() for name, value in segments.items()},
    }
    cases = [
        (build_cpu(read.weights, read.config, token_types=types), {"input_ids": ids, **segments}, 2e-5),
        (
            build_portable(read.weights, read.config, token_types=types),
            {"input_ids": ids, "attention_mask": np.ones_like(ids), **segments},
            2e-5,
        ),
        (build_cuda(read.weights, read.config, token_types=types, twin=True), packed, 0.02),
    ]
    paths = []
    for i, (graph, _, _) in enumerate(cases):
        paths.append(str(tmp_path / f"{i}.onnx"))
        save_model(graph, Path(paths[-1]))
    feeds = [{name: value.tolist() for name, value in feed.items()} for _, feed, _ in cases]
    results = {}
    for python in (oldest_python, Path(sys.executable)):
        request = json.dumps([paths, feeds])
        done = subprocess.run([python, "-c", _RUN], input=request, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        version, logits = json.loads(done.stdout)
        results[version] = logits
    assert set(results) == {OLDEST, onnxruntime.__version__}
    for old, new, (_, _, tolerance) in zip(results[OLDEST], results[onnxruntime.__version__], cases, strict=True):
        assert np.isfinite(old).all()
        assert np.abs(np.array(old) - new).max() <= tolerance
