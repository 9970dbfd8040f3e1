"""Every graph equals transformers' own forward pass, and a fault in any part of one would be seen.

`TOLERANCE`: float32 rounding of a two-layer model whose logits have a standard deviation of 1.5 comes to about
1e-5 at most; the smallest fault below moves a logit by 5e-4, 25 times the tolerance.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import transformers
from numpy.typing import NDArray

from crossrank import CrossEncoder, ProofError
from crossrank._artifact.manifest import read_manifest
from crossrank._artifact.parity import BOUNDS, compare_logits
from crossrank._device.backend import Backend
from crossrank._device.cpu import CpuBackend
from crossrank._device.open import load_graph
from crossrank._machine.cpu import resolve_threads
from crossrank._machine.device import Device
from crossrank._proof import verify_artifact
from crossrank.export import export_model
from crossrank.export._architectures.checkpoint import Checkpoint, read_checkpoint
from crossrank.export._architectures.mpnet import RelativeBias, distance_buckets
from crossrank.export._graphs.encoder import EncoderConfig, EncoderWeights, Layer
from crossrank.export._graphs.graph import Model, save_model
from crossrank.export._graphs.layers import Linear, Norm
from crossrank.export._graphs.layouts.cpu import build_cpu
from crossrank.export._graphs.layouts.cuda import CudaTwin, build_cuda
from crossrank.export._graphs.layouts.portable import Portable, build_portable
from tests.support.artifacts import edit_manifest
from tests.support.checkpoint_files import sha256_of
from tests.support.references import reference
from tests.support.scorers import scorer_of
from tests.support.tiny_models import ARCHITECTURES, MAX_LENGTH, PAIRS, make_checkpoint, transformers_logits

torch = reference("torch")
mpnet = reference("transformers.models.mpnet.modeling_mpnet")

TOLERANCE = 2e-5

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A checkpoint, as its files and as the exporter reads it, and what transformers gives for `PAIRS`."""

    folder: Path
    checkpoint: Checkpoint
    reference: Floats


MakeCase = Callable[..., Case]


@pytest.fixture(scope="module")
def make_case(tmp_path_factory: pytest.TempPathFactory) -> MakeCase:
    @cache
    def make(architecture: str, labels: int = 1, max_length: int = MAX_LENGTH, **overrides: Any) -> Case:
        folder = tmp_path_factory.mktemp(architecture)
        make_checkpoint(folder, architecture, labels=labels, max_length=max_length, **overrides)
        reference = transformers_logits(folder, PAIRS, max_length=max_length)
        # On logits close to each other an absolute tolerance would prove nothing.
        assert reference.std(axis=0).min() >= 1
        return Case(folder, read_checkpoint(folder, max_length=None, relevant_label=None), reference)

    return make


def error(logits: Floats, reference: Floats) -> float:
    assert logits.shape == reference.shape
    assert np.isfinite(logits).all()
    return float(np.abs(logits.astype(np.float64) - reference).max())


def predict(artifact: Path, labels: int) -> Floats:
    logits: Floats = CrossEncoder(artifact, precision="fp32").predict(list(PAIRS), activation_fn="identity")
    return logits.reshape(len(PAIRS), labels)


def run_as_others_do(graph: Path, checkpoint: Path) -> Floats:
    """A portable graph in plain onnxruntime, fed by transformers' tokenizer with one padded batch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    texts = [list(side) for side in zip(*PAIRS, strict=True)]
    feed = dict(tokenizer(*texts, truncation="longest_first", max_length=MAX_LENGTH, padding=True, return_tensors="np"))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    inputs = {node.name for node in session.get_inputs()}
    assert set(feed) - inputs <= {"token_type_ids"}  # of a tokenizer whose model has none
    logits: Floats = session.run(["logits"], {name: np.asarray(feed[name], np.int64) for name in inputs})[0]
    return logits


def check_export(case: Case, output: Path, labels: int) -> None:
    artifact = export_model(case.folder, output, variants=["cpu", "portable"], precisions=["fp32"])
    assert error(predict(artifact, labels), case.reference) <= TOLERANCE
    assert error(run_as_others_do(artifact / "onnx/model.onnx", case.folder), case.reference) <= TOLERANCE


@pytest.mark.parametrize("labels", [1, 2, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exported_graphs_equal_transformers(
    make_case: MakeCase, tmp_path: Path, architecture: str, labels: int
) -> None:
    check_export(make_case(architecture, labels), tmp_path / "artifact", labels)


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "silu"])  # gelu is the others' default
@pytest.mark.parametrize("architecture", ["bert", "electra", "distilbert"])
def test_every_activation_equals_transformers(
    make_case: MakeCase, tmp_path: Path, architecture: str, activation: str
) -> None:
    field = "activation" if architecture == "distilbert" else "hidden_act"
    check_export(make_case(architecture, **{field: activation}), tmp_path / "artifact", 1)


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        pytest.param("electra", {"embedding_size": 32}, id="electra without a projection"),
        pytest.param("bert", {"num_hidden_layers": 1}, id="one layer"),
        pytest.param("mpnet", {"num_hidden_layers": 1}, id="one layer, relative positions"),
        pytest.param("bert", {"num_attention_heads": 1}, id="one head"),
        pytest.param("bert", {"layer_norm_eps": 1e-3}, id="large epsilon"),
        pytest.param("roberta", {"type_vocab_size": 2}, id="token types that the tokenizer does not give"),
    ],
)
def test_unusual_sizes_equal_transformers(
    make_case: MakeCase, tmp_path: Path, architecture: str, overrides: dict[str, Any]
) -> None:
    check_export(make_case(architecture, **overrides), tmp_path / "artifact", 1)


# The graph builders, each as a function of weights and config.


def _cpu(weights: EncoderWeights, config: EncoderConfig, types: bool) -> Model:
    return build_cpu(weights, config, token_types=types)


def _portable(weights: EncoderWeights, config: EncoderConfig, types: bool) -> Model:
    return build_portable(weights, config, token_types=types)


def _cuda_twin(weights: EncoderWeights, config: EncoderConfig, types: bool) -> Model:
    return build_cuda(weights, config, token_types=types, dtype=np.float32, twin=True)


Build = Callable[[EncoderWeights, EncoderConfig, bool], Model]
BUILDERS: dict[str, Build] = {"cpu": _cpu, "portable": _portable, "cuda": _cuda_twin}


def build_and_score(
    case: Case,
    build: Build,
    weights: EncoderWeights,
    config: EncoderConfig,
    types: bool,
    path: Path,
    *,
    padded: bool = True,
) -> Floats:
    """Logits of `PAIRS` from a graph of these weights, with the case's tokenizer; padded as a proof of it is."""
    save_model(build(weights, config, types), path)
    checkpoint = case.checkpoint
    threads = resolve_threads(None).count
    if padded:
        backend: Backend = load_graph(path, checkpoint.inputs, Device("cpu"), threads)
    else:
        backend = CpuBackend(path, checkpoint.inputs, threads)
    scorer = scorer_of(checkpoint.tokenizer, backend, checkpoint.inputs.max_length, config.labels)
    queries, documents = zip(*PAIRS, strict=True)
    return scorer.logits(queries, documents, np.arange(len(PAIRS)))


@pytest.mark.parametrize("variant", BUILDERS)
@pytest.mark.parametrize("architecture", ["bert", "mpnet", "modernbert"])
def test_head_size_that_is_no_multiple_of_8_equals_transformers(
    make_case: MakeCase, tmp_path: Path, architecture: str, variant: str
) -> None:
    """26, TinyBERT-L-4's, which the CUDA graph pads to 32."""
    case = make_case(architecture, hidden_size=52, num_attention_heads=2)
    weights, config, types = case.checkpoint.weights, case.checkpoint.config, case.checkpoint.inputs.token_types
    assert config.head_size == 26
    logits = build_and_score(case, BUILDERS[variant], weights, config, types, tmp_path / "model.onnx")
    assert error(logits, case.reference) <= TOLERANCE


# Faults that a builder could have, made in what it is given. Each must lift the error far over the tolerance.


@dataclass(frozen=True)
class Given:
    """What a builder gets."""

    weights: EncoderWeights
    config: EncoderConfig
    token_types: bool


Fault = Callable[[Given], Given]


def without_bias(linear: Linear) -> Linear:
    return replace(linear, bias=np.zeros_like(linear.bias))


def swapped(norm: Norm) -> Norm:
    return replace(norm, scale=norm.bias, bias=norm.scale)


def in_layer(index: int, change: Callable[[Layer], Layer]) -> Fault:
    def fault(given: Given) -> Given:
        layers = list(given.weights.layers)
        layers[index] = change(layers[index])
        return replace(given, weights=replace(given.weights, layers=tuple(layers)))

    return fault


def in_embeddings(**changes: Callable[[Any], Any]) -> Fault:
    def fault(given: Given) -> Given:
        old = given.weights.embeddings
        new = replace(old, **{name: change(getattr(old, name)) for name, change in changes.items()})
        return replace(given, weights=replace(given.weights, embeddings=new))

    return fault


def in_head(**changes: Callable[[Any], Any]) -> Fault:
    def fault(given: Given) -> Given:
        old = given.weights.head
        new = replace(old, **{name: change(getattr(old, name)) for name, change in changes.items()})
        return replace(given, weights=replace(given.weights, head=new))

    return fault


def in_relative_bias(change: Callable[[Floats], Floats]) -> Fault:
    def changed(layer: Layer) -> Layer:
        assert isinstance(layer.attention.bias, RelativeBias)
        bias = RelativeBias(change(layer.attention.bias.table))
        return replace(layer, attention=replace(layer.attention, bias=bias))

    def fault(given: Given) -> Given:
        return replace(given, weights=replace(given.weights, layers=tuple(map(changed, given.weights.layers))))

    return fault


def in_config(**changes: Any) -> Fault:
    return lambda given: replace(given, config=replace(given.config, **changes))


def scaled(factor: float) -> Callable[[Linear], Linear]:
    """A query projection that makes all attention scores ``factor`` times as large."""
    return lambda linear: replace(
        linear, weight=linear.weight * np.float32(factor), bias=linear.bias * np.float32(factor)
    )


def with_part(path: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    part, _, rest = path.partition(".")
    inner = with_part(rest, change) if rest else change
    return lambda whole: replace(whole, **{part: inner(getattr(whole, part))})


def with_swapped_query_and_key(layer: Layer) -> Layer:
    attention = layer.attention
    return replace(layer, attention=replace(attention, query=attention.key, key=attention.query))


HEAD_SIZE = 8
BIASED = ("attention.query", "attention.value", "attention.output", "feed_forward.up", "feed_forward.down")
IN_A_LAYER: dict[str, Callable[[Layer], Layer]] = {
    # The key's bias is absent on purpose: it adds one constant to all scores of a query, which softmax drops.
    **{f"no bias: {part}": with_part(part, without_bias) for part in BIASED},
    **{f"swapped norm: {part}": with_part(part, swapped) for part in ("attention_norm", "output_norm")},
    "swapped query and key": with_swapped_query_and_key,
    "attention without its scale": with_part("attention.query", scaled(HEAD_SIZE**0.5)),
    "attention with a scale 10% off": with_part("attention.query", scaled(0.9)),
}
# Buckets 0 to 15 are those of keys before the query, 17 to 31 of keys behind it, farther ones higher; 16 is not used.
OPPOSITE = [0, *range(17, 32), 16, *range(1, 16)]
IN_THE_RELATIVE_BIAS: dict[str, Callable[[Floats], Floats]] = {
    "no relative bias": np.zeros_like,
    "relative bias scaled as the scores are": lambda table: table * np.float32(HEAD_SIZE**-0.5),
    "relative bias of the opposite distance": lambda table: table[OPPOSITE],
    "relative bias one bucket off": lambda table: np.roll(table, 1, axis=0),
    "relative bias of another head": lambda table: np.roll(table, 1, axis=1),
}
# What goes wrong, in which architecture.
FAULTS: dict[str, tuple[str, Fault]] = {
    **{f"{name}, first layer": ("bert", in_layer(0, change)) for name, change in IN_A_LAYER.items()},
    **{f"{name}, last layer": ("bert", in_layer(-1, change)) for name, change in IN_A_LAYER.items()},
    "swapped norm: embeddings": ("bert", in_embeddings(norm=swapped)),
    "no bias: pooler": ("bert", in_head(dense=without_bias)),
    "no bias: classifier": ("bert", in_head(classifier=without_bias)),
    "head with gelu": ("bert", in_head(activation=lambda name: "gelu")),
    "gelu_new in place of gelu": ("bert", in_config(activation="gelu_new")),
    "relu in place of gelu": ("bert", in_config(activation="relu")),
    "epsilon 1e-2": ("bert", in_config(epsilon=1e-2)),
    "epsilon 1e-3": ("bert", in_config(epsilon=1e-3)),
    "token types ignored": ("bert", lambda given: replace(given, token_types=False)),
    "token types swapped": ("bert", in_embeddings(types=lambda table: table[::-1].copy())),
    "positions off by one": ("bert", in_embeddings(positions=lambda table: np.roll(table, -1, axis=0))),
    "positions without the offset": ("roberta", in_embeddings(positions=lambda table: np.roll(table, 2, axis=0))),
    "padding id of another family": ("xlm-roberta", in_config(pad_id=0)),
    "no bias: projection of the embeddings": ("electra", in_embeddings(projection=without_bias)),
    "head with tanh": ("electra", in_head(activation=lambda name: "tanh")),
    "head with gelu in place of relu": ("distilbert", in_head(activation=lambda name: "gelu")),
    "no bias: pre_classifier": ("distilbert", in_head(dense=without_bias)),
    **{name: ("mpnet", in_relative_bias(change)) for name, change in IN_THE_RELATIVE_BIAS.items()},
    "one bucket for all distances from 8 on": (
        "mpnet",
        in_relative_bias(lambda table: table[[*range(9), *[8] * 7, *range(16, 25), *[24] * 7]]),
    ),
}


@pytest.mark.parametrize("variant", BUILDERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_builder_equals_transformers(
    make_case: MakeCase, tmp_path: Path, architecture: str, variant: str
) -> None:
    """The CUDA graph by its twin; and the control of the faults below: the same way, nothing changed."""
    case = make_case(architecture)
    weights, config, types = case.checkpoint.weights, case.checkpoint.config, case.checkpoint.inputs.token_types
    logits = build_and_score(case, BUILDERS[variant], weights, config, types, tmp_path / "model.onnx")
    assert error(logits, case.reference) <= TOLERANCE


@pytest.mark.parametrize("variant", ["portable", "cuda"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_graphs_with_a_mask_equal_transformers_without_padding(
    make_case: MakeCase, tmp_path: Path, architecture: str, variant: str
) -> None:
    """As a CPU runs them, but for their proof."""
    case = make_case(architecture)
    weights, config, types = case.checkpoint.weights, case.checkpoint.config, case.checkpoint.inputs.token_types
    path = tmp_path / "model.onnx"
    logits = build_and_score(case, BUILDERS[variant], weights, config, types, path, padded=False)
    assert error(logits, case.reference) <= TOLERANCE


@pytest.fixture
def masks_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builders whose graphs take padding for tokens."""

    valid, fused = Portable.valid, CudaTwin.fused

    def all_valid(layout: Portable) -> str:
        mask = valid(layout)
        return layout.graph.add("Or", mask, layout.graph.add("Not", mask))

    def all_long(layout: CudaTwin, *args: str) -> str:
        context = fused(layout, *args)
        *_, attention = (node for node in layout.graph.model().graph.node if node.op_type == "MultiHeadAttention")
        attention.input[4] = ""  # each pair's length
        return context

    monkeypatch.setattr(Portable, "valid", all_valid)
    monkeypatch.setattr(CudaTwin, "fused", all_long)


@pytest.mark.usefixtures("masks_ignored")
@pytest.mark.parametrize("variant", ["portable", "cuda"])
def test_a_mask_that_is_ignored_is_seen(make_case: MakeCase, tmp_path: Path, variant: str) -> None:
    """By padding alone: so a proof must pad."""
    case = make_case("bert")
    weights, config, types = case.checkpoint.weights, case.checkpoint.config, case.checkpoint.inputs.token_types
    padded, unpadded = (
        build_and_score(case, BUILDERS[variant], weights, config, types, tmp_path / "model.onnx", padded=padded)
        for padded in (True, False)
    )
    assert error(padded, case.reference) > 10 * TOLERANCE
    assert error(unpadded, case.reference) <= TOLERANCE


@pytest.mark.usefixtures("masks_ignored")
@pytest.mark.parametrize("variant", ["portable", "cuda"])
def test_a_graph_that_ignores_its_mask_is_not_exported(make_case: MakeCase, tmp_path: Path, variant: str) -> None:
    with pytest.raises(ProofError, match=f"{variant} fp"):
        export_model(make_case("bert").folder, tmp_path / "artifact", variants=[variant])


def test_verify_sees_a_graph_that_ignores_its_mask(make_case: MakeCase, tmp_path: Path) -> None:
    folder = export_model(make_case("bert").folder, tmp_path / "artifact", variants=["portable"])
    path = folder / "onnx/model.onnx"
    model = onnx.load(path)
    (cast,) = (node for node in model.graph.node if "attention_mask" in node.input)
    given = cast.output[0]
    cast.output[0] = "given"
    model.graph.node.insert(1, onnx.helper.make_node("Not", ["given"], ["inverse"]))
    model.graph.node.insert(2, onnx.helper.make_node("Or", ["given", "inverse"], [given]))
    onnx.save(model, path)
    record = {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
    edit_manifest(folder, lambda manifest: manifest["files"].update({"onnx/model.onnx": record}))
    with pytest.raises(ProofError, match="portable fp32"):
        verify_artifact(folder)


def error_with(fault: Fault, case: Case, variant: str, folder: Path) -> float:
    checkpoint = case.checkpoint
    given = fault(Given(checkpoint.weights, checkpoint.config, checkpoint.inputs.token_types))
    logits = build_and_score(
        case, BUILDERS[variant], given.weights, given.config, given.token_types, folder / "model.onnx"
    )
    return error(logits, case.reference)


@pytest.mark.parametrize(
    ("fault", "variant"),
    [
        (fault, variant)
        for fault in FAULTS
        for variant in BUILDERS
        if (fault, variant) != ("padding id of another family", "cuda")  # the packed graph is given its positions
    ],
)
def test_fault_in_the_graph_is_seen(make_case: MakeCase, tmp_path: Path, fault: str, variant: str) -> None:
    architecture, change = FAULTS[fault]
    case = make_case(architecture)
    assert architecture not in ("bert", "mpnet") or case.checkpoint.config.head_size == HEAD_SIZE
    assert error_with(change, case, variant, tmp_path) > 10 * TOLERANCE


# MPNet's relative positions, where `FAULTS` on two layers and short texts would not see them all.


@pytest.mark.parametrize("fault", IN_THE_RELATIVE_BIAS)
def test_fault_in_the_relative_bias_of_the_one_row_is_seen(make_case: MakeCase, tmp_path: Path, fault: str) -> None:
    """The CPU graph of one layer computes no attention but that of the [CLS] row."""
    case = make_case("mpnet", num_hidden_layers=1)
    assert error_with(in_relative_bias(IN_THE_RELATIVE_BIAS[fault]), case, "cpu", tmp_path) > 10 * TOLERANCE


@pytest.mark.parametrize("variant", BUILDERS)
def test_long_texts_equal_transformers_with_relative_positions(
    make_case: MakeCase, tmp_path: Path, variant: str
) -> None:
    """200 tokens; distances from 91 on share a bucket, and 128 is where their logarithm would leave the table."""
    case = make_case("mpnet", max_length=200)
    assert error_with(lambda given: given, case, variant, tmp_path) <= TOLERANCE
    without_last = in_relative_bias(lambda table: table * (np.arange(len(table)) % 16 < 15)[:, None])
    assert error_with(without_last, case, variant, tmp_path) > 10 * TOLERANCE


def test_default_export_with_relative_positions_holds_every_bound(make_case: MakeCase, tmp_path: Path) -> None:
    """int8 too, whose scales are calibrated with the bias in the scores."""
    folder = export_model(make_case("mpnet").folder, tmp_path / "artifact")
    names = [variant.name for variant in read_manifest(folder).variants]
    assert names == ["cpu fp32", "cpu int8", "cuda fp16", "portable fp32"]


def test_buckets_of_distances_are_those_of_transformers() -> None:
    distances = np.arange(-600, 601)
    expected = mpnet.MPNetEncoder.relative_position_bucket(torch.from_numpy(distances))
    np.testing.assert_array_equal(distance_buckets(distances), expected.numpy())


def test_packed_attention_gets_the_relative_bias_that_its_twin_gets(make_case: MakeCase) -> None:
    """The twin proves the packed graph, so what it is given must be given to both."""
    checkpoint = make_case("mpnet").checkpoint
    biases = []
    for op, index, twin in (("PackedMultiHeadAttention", 6, False), ("MultiHeadAttention", 5, True)):
        nodes = build_cuda(checkpoint.weights, checkpoint.config, token_types=False, twin=twin).graph.node
        biases.append([node.input[index] for node in nodes if node.op_type == op])
    packed, mirrored = biases
    assert len(packed) == 2
    assert all(packed)
    assert packed == mirrored


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_logits_that_are_not_finite_are_counted_without_a_warning(bad: float) -> None:
    """As of a float16 graph that overflows: numpy would warn of each figure and label."""
    logits = np.random.default_rng(0).normal(0, 1, (20, 2)).astype(np.float32)
    broken = logits.copy()
    broken[3:9] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parity = compare_logits(logits, broken, broken[:8], precision="fp16", name="a", graph="graph", provider="CPU")
    assert parity.nan_count == 12
    assert any("12 logits are not finite" in problem for problem in parity.problems(BOUNDS["fp16"]))
