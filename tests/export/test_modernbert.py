"""ModernBERT's graphs equal transformers at every length where they compute something else, and faults would be seen.

The window of its local layers is 64 places to either side: up to 65 tokens all see all, up to 384 the CPU's graph masks
what is farther, beyond it cuts the text into blocks, and from 1,024 tokens on its global layers take another operator.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossrank import CheckpointError, CrossEncoder, UnsupportedModelError
from crossrank._artifact.manifest import read_manifest
from crossrank._device.batches import plan_even_batches
from crossrank._device.session import Session
from crossrank._machine.device import Device
from crossrank._text.pairs import PackedPairs
from crossrank.export import export_model
from crossrank.export._architectures.checkpoint import Checkpoint, read_checkpoint
from crossrank.export._architectures.config import read_config
from crossrank.export._graphs.encoder import (
    EncoderWeights,
    GatedFeedForward,
    Layer,
    PreNormLayer,
    StepsHead,
)
from crossrank.export._graphs.graph import save_model
from crossrank.export._graphs.layouts.cpu import build_cpu
from crossrank.export._prove.passes.registry import passes
from tests.support.graph_scores import TOLERANCE, VARIANTS, Floats, build, distance
from tests.support.references import auto_classifier, reference
from tests.support.tiny_models import PAIRS, config_of, make_checkpoint, transformers_logits, write_json

torch = reference("torch")

LENGTHS = (1, 60, 64, 65, 66, 128, 129, 300, 512, 2000)
PAIRS_OF_EACH = 2
LABELS = {"cls": 1, "mean": 2}


@dataclass(frozen=True)
class Case:
    """A checkpoint, texts of every length as ids, and what transformers gives for each: float32 [texts, labels]."""

    folder: Path
    checkpoint: Checkpoint
    ids: tuple[NDArray[np.int32], ...]
    expected: Floats


@pytest.fixture(scope="module")
def make_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    @cache
    def make(pooling: str, **overrides: Any) -> Case:
        settings: Any = {name: list(value) if isinstance(value, tuple) else value for name, value in overrides.items()}
        folder = make_checkpoint(
            tmp_path_factory.mktemp("modernbert"),
            "modernbert",
            labels=LABELS[pooling],
            max_length=2048,
            local_attention=128,
            classifier_pooling=pooling,
            **settings,
        )
        checkpoint = read_checkpoint(folder)
        rng = np.random.default_rng(0)
        ids = tuple(
            rng.integers(0, checkpoint.config.pad_id, length).astype(np.int32)
            for length in LENGTHS
            for _ in range(PAIRS_OF_EACH)
        )
        model = auto_classifier().from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.inference_mode():
            rows = [model(input_ids=torch.from_numpy(row[None].astype(np.int64))).logits.numpy() for row in ids]
        expected: Floats = np.concatenate(rows)
        assert expected.std(axis=0).min() >= 1
        return Case(folder, checkpoint, ids, expected)

    return make


def score(
    case: Case, variant: str, folder: Path, weights: EncoderWeights | None = None, *, most: int = max(LENGTHS)
) -> Floats:
    """Logits of a case's texts: one length at a time on the CPU's graph, neighbouring lengths together elsewhere.

    Those of more than ``most`` tokens are as they should be.
    """
    path = folder / "model.onnx"
    checkpoint = replace(case.checkpoint, weights=weights or case.checkpoint.weights)
    save_model(build(checkpoint, variant), path)
    session = Session(path, case.checkpoint.inputs, Device("cpu"), 2)
    lengths = np.array([len(row) for row in case.ids], np.int32)
    if variant == "cpu":
        batches = plan_even_batches(lengths, max_tokens=2048)
    else:  # two lengths each: padding, and pairs of other lengths beside
        batches = [np.arange(i, i + 2 * PAIRS_OF_EACH) for i in range(0, len(lengths), 2 * PAIRS_OF_EACH)]
    logits = case.expected.copy()
    for index in batches:
        if lengths[index].max() > most:
            continue
        rows = [case.ids[i] for i in index]
        packed = PackedPairs(np.concatenate(rows), np.zeros(lengths[index].sum(), np.int32), lengths[index])
        (logits[index],) = session.outputs(packed, ["logits"])
    return logits


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pooling", LABELS)
def test_every_graph_equals_transformers_at_every_length(
    make_case: Callable[..., Case], tmp_path: Path, pooling: str, variant: str
) -> None:
    case = make_case(pooling)
    assert distance(score(case, variant, tmp_path), case.expected) <= TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_biases_that_a_config_asks_for_are_there(make_case: Callable[..., Case], tmp_path: Path, variant: str) -> None:
    biases = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)
    case = make_case("cls", **biases, classifier_activation="silu", hidden_activation="gelu_new")
    assert distance(score(case, variant, tmp_path), case.expected) <= TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_last_layer_with_a_window_equals_transformers(
    make_case: Callable[..., Case], tmp_path: Path, variant: str
) -> None:
    """Whose one row sees the tokens up to its window alone."""
    kinds = ("full_attention", "sliding_attention", "full_attention", "sliding_attention")
    case = make_case("cls", layer_types=kinds)
    assert case.checkpoint.weights.layers[-1].attention.window == 64
    assert distance(score(case, variant, tmp_path), case.expected) <= TOLERANCE


@pytest.mark.parametrize("pooling", LABELS)
def test_the_forward_pass_in_numpy_equals_transformers(make_case: Callable[..., Case], pooling: str) -> None:
    case = make_case(pooling)
    model = passes()["modernbert"](config_of(case.folder), case.folder, bare_projection=False)
    rows = [row[None].astype(np.int64) for row in case.ids if len(row) <= 300]
    logits = np.concatenate([model.logits(row, np.zeros_like(row), np.ones_like(row)) for row in rows])
    assert np.abs(logits - case.expected[: len(rows)]).max() <= TOLERANCE


# Faults that a builder could have, made in what it is given.

Fault = Callable[[EncoderWeights], EncoderWeights]


def in_layers(change: Callable[[Layer], Layer], *, of: Callable[[int], bool] = lambda i: True) -> Fault:
    return lambda weights: replace(
        weights, layers=tuple(change(layer) if of(i) else layer for i, layer in enumerate(weights.layers))
    )


def in_attention(change: Callable[[Any], Mapping[str, Any]]) -> Fault:
    return in_layers(lambda layer: replace(layer, attention=replace(layer.attention, **change(layer.attention))))


def window_of(places: int | None) -> Fault:
    return in_attention(lambda attention: {"window": None if attention.window is None else places})


def with_swapped_thetas(weights: EncoderWeights) -> EncoderWeights:
    local, everywhere = weights.layers[1].attention.rotary, weights.layers[0].attention.rotary
    assert local is not None
    assert everywhere is not None
    assert local.name != everywhere.name
    return in_attention(lambda a: {"rotary": everywhere if a.rotary.name == local.name else local})(weights)


def turned(change: Callable[[Floats], Floats]) -> Fault:
    return in_attention(
        lambda attention: {"rotary": replace(attention.rotary, frequencies=change(attention.rotary.frequencies))}
    )


def with_other_half_active(layer: Layer) -> Layer:
    assert isinstance(layer.feed_forward, GatedFeedForward)
    up, gate = layer.feed_forward.up, layer.feed_forward.gate
    return replace(layer, feed_forward=replace(layer.feed_forward, up=gate, gate=up))


def in_head(change: Callable[[StepsHead], StepsHead]) -> Fault:
    def fault(weights: EncoderWeights) -> EncoderWeights:
        assert isinstance(weights.head, StepsHead)
        return replace(weights, head=change(weights.head))

    return fault


class MeanOfLogits(StepsHead):
    """The mean behind the steps and not before them."""

    __slots__ = ()

    def write(self, layout: Any, hidden: str) -> str:
        row = hidden
        for step in self.steps:
            row = step.write(layout, row) if hasattr(step, "write") else layout.normalize(row, step)
        return str(layout.mean_rows(row))


def interleaved(linear: Any, size: int = 8) -> Any:
    """A projection whose points are neighbours, not one number of each half."""
    order = np.arange(len(linear.bias)).reshape(-1, 2, size // 2).transpose(0, 2, 1).ravel()
    return replace(linear, weight=linear.weight[:, order], bias=linear.bias[order])


FAULTS: dict[str, tuple[str, Fault]] = {
    "window one place short": ("cls", window_of(63)),
    "window one place long": ("cls", window_of(65)),
    "no window": ("cls", window_of(None)),
    "thetas of local and global layers swapped": ("cls", with_swapped_thetas),
    "turned the other way": ("cls", turned(lambda frequencies: -frequencies)),
    "not turned": ("cls", turned(np.zeros_like)),
    "neighbours turned together": (
        "cls",
        in_attention(lambda a: {"query": interleaved(a.query), "key": interleaved(a.key)}),
    ),
    "the other half active": ("cls", in_layers(with_other_half_active)),
    "no norm before the attention": ("cls", in_layers(lambda layer: replace(layer, attention_norm=None))),
    "a norm before the first attention": (
        "cls",
        lambda weights: in_layers(
            lambda layer: replace(layer, attention_norm=weights.layers[1].attention_norm), of=lambda i: i == 0
        )(weights),
    ),
    "no norm before the feed-forward": ("cls", in_layers(lambda layer: replace(layer, output_norm=None))),
    "norms behind": (
        "cls",
        in_layers(lambda la: Layer(la.attention, la.attention_norm, la.feed_forward, la.output_norm)),
    ),
    "no final norm": ("mean", lambda weights: replace(weights, norm=None)),
    "no norm in the head": ("cls", in_head(lambda head: replace(head, steps=(head.steps[0], head.steps[2])))),
    "cls in place of mean": ("mean", in_head(lambda head: replace(head, pooling="cls"))),
    "mean in place of cls": ("cls", in_head(lambda head: replace(head, pooling="mean"))),
    "mean behind the head": ("mean", in_head(lambda head: MeanOfLogits(head.pooling, head.steps))),
    "local layers global and global ones local": (
        "cls",
        in_attention(lambda attention: {"window": 64 if attention.window is None else None}),
    ),
    "scaled by the root of the head size": (
        "cls",
        in_attention(lambda a: {"query": replace(a.query, weight=a.query.weight * np.float32(8**0.5))}),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_the_graph_is_seen(make_case: Callable[..., Case], tmp_path: Path, fault: str) -> None:
    pooling, change = FAULTS[fault]
    case = make_case(pooling)
    # A mean behind the head wants rows by pair, as the portable graph has them.
    variant = "portable" if fault == "mean behind the head" else "cpu"
    logits = score(case, variant, tmp_path, change(case.checkpoint.weights), most=300)
    assert distance(logits, case.expected) > 10 * TOLERANCE


@pytest.mark.parametrize("variant", ["portable", "cuda"])
@pytest.mark.parametrize("places", [63, 65])
def test_a_window_off_by_one_is_seen_in_every_graph(
    make_case: Callable[..., Case], tmp_path: Path, variant: str, places: int
) -> None:
    case = make_case("cls")
    weights = window_of(places)(case.checkpoint.weights)
    assert distance(score(case, variant, tmp_path, weights, most=129), case.expected) > 10 * TOLERANCE


def test_layers_are_pre_norm_and_the_first_has_none(make_case: Callable[..., Case]) -> None:
    """The control of the faults above: they change what is there."""
    layers = make_case("cls").checkpoint.weights.layers
    assert all(isinstance(layer, PreNormLayer) for layer in layers)
    assert [layer.attention_norm is None for layer in layers] == [True, False, False, False]


@pytest.mark.slow
def test_a_text_of_8000_tokens_is_scored_in_bounded_memory(tmp_path: Path) -> None:
    """Four layers, two of which see all: their scores of each two tokens alone would take 1 GB."""
    folder = make_checkpoint(tmp_path / "checkpoint", "modernbert", max_length=8192, local_attention=128)
    checkpoint = read_checkpoint(folder)
    path = tmp_path / "model.onnx"
    save_model(build_cpu(checkpoint.weights, checkpoint.config, token_types=False), path)
    run = subprocess.run([sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True)
    before, after = map(int, run.stdout.split())
    assert after - before < 300_000  # KiB


_PEAK = """
import resource, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
def run(tokens):
    session.run(None, {"input_ids": np.ones((1, tokens), np.int32)})
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(run(8), run(8000))
"""


# Configs.

OLD = {"global_attn_every_n_layers": 2, "global_rope_theta": 5e4, "local_rope_theta": 3e3}
NEW = {
    "layer_types": ["full_attention", "sliding_attention"] * 2,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 5e4},
        "sliding_attention": {"rope_type": "default", "rope_theta": 3e3},
    },
}


def config_with(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    spelled = {*OLD, *NEW}
    return {name: value for name, value in config_of(folder).items() if name not in spelled} | dict(settings)


def test_both_spellings_of_layers_and_rotary_positions_are_read(make_case: Callable[..., Case]) -> None:
    folder = make_case("cls").folder
    old, new = (read_config(config_with(folder, settings)) for settings in (OLD, NEW))
    assert [old.sees_all(i) for i in range(4)] == [new.sees_all(i) for i in range(4)] == [True, False] * 2  # type: ignore[attr-defined]
    both = read_config(config_with(folder, OLD | NEW))
    assert replace(old, every=3) == replace(new, kinds=None) == replace(both, kinds=None, every=3)  # type: ignore[call-arg]


def test_bases_that_are_almost_the_same_are_two(tmp_path: Path) -> None:
    """Tables of one name are one in a graph."""
    folder = make_checkpoint(tmp_path / "checkpoint", "modernbert")
    write_json(
        folder / "config.json", config_with(folder, {"global_rope_theta": 1_000_000.0, "local_rope_theta": 1_000_001.0})
    )
    layers = read_checkpoint(folder).weights.layers
    assert len({layer.attention.rotary.name for layer in layers if layer.attention.rotary}) == 2


@pytest.mark.parametrize("settings", [OLD, NEW, OLD | NEW, {}])
def test_every_spelling_equals_transformers(tmp_path: Path, settings: Mapping[str, Any]) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "modernbert")
    write_json(folder / "config.json", config_with(folder, settings))
    expected = transformers_logits(folder, PAIRS)
    artifact = export_model(folder, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    logits = CrossEncoder(artifact).predict(list(PAIRS), activation_fn="identity")
    assert np.abs(logits - expected[:, 0]).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classifier_pooling": "max"}, "classifier_pooling is 'max'; supported are cls, mean"),
        ({"classifier_activation": "quick_gelu"}, "classifier_activation is 'quick_gelu'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "rope_scaling are of type 'yarn'"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}},
            "full_attention are of type 'linear'",
        ),
        ({"rope_scaling": {"rope_theta": 5e3}}, "rope_scaling has rope_theta"),
        ({"rope_parameters": {"rope_theta": 5e3}}, "rope_parameters has rope_theta; supported are full_attention"),
        ({"sliding_window": 10}, "sliding_window is 10 and local_attention 128"),
    ],
)
def test_settings_that_compute_something_else_are_refused_by_name(
    make_case: Callable[..., Case], settings: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read_config(config_of(make_case("cls").folder) | dict(settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types is no list of 4"),
        ({"layer_types": ["full_attention", 1]}, r"layer_types\[1\] is 1; str expected"),
        ({"layer_types": None, "global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0; 1 or more"),
        ({"rope_parameters": {"full_attention": 3}}, "rope_parameters full_attention is 3; an object"),
        ({"rope_parameters": {"full_attention": {"rope_theta": "x"}}}, "global_rope_theta is 'x'; float expected"),
        ({"local_attention": -2}, "local_attention is -2; 0 or more"),
        ({"num_attention_heads": 32, "hidden_size": 96}, "the head size 3 is odd"),
    ],
)
def test_damaged_settings_are_said(make_case: Callable[..., Case], settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config(config_of(make_case("cls").folder) | dict(settings))


def test_int8_scores_alone_as_in_a_batch(tmp_path: Path) -> None:
    """And holds its bounds, on random weights."""
    folder = make_checkpoint(tmp_path / "checkpoint", "modernbert", seed=2)
    artifact = export_model(folder, tmp_path / "artifact")
    manifest = read_manifest(artifact)
    assert [variant.name for variant in manifest.variants] == ["cpu fp32", "cpu int8", "cuda fp16", "portable fp32"]
    for variant in manifest.variants[:2]:
        assert variant.parity is not None
        assert variant.parity.alone_max_abs <= 1e-5
