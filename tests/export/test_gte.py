"""GTE: every graph equals transformers at every length, and a fault in one would be seen."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank.export._architectures import gte
from crossrank.export._architectures.base import rotary
from crossrank.export._graphs.encoder import Attention, GatedFeedForward, Head, Layer, PreNormLayer, Rotary
from crossrank.export._graphs.layers import Linear
from tests.support.checkpoint_files import change_config
from tests.support.graph_scores import (
    LENGTHS,
    TOLERANCE,
    VARIANTS,
    MakeCase,
    assert_default_export_is_whole_and_int8_scores_alone_as_in_a_batch,
    assert_equals_transformers,
    assert_equals_transformers_at,
    case_maker,
    distance,
    graph_scores,
)
from tests.support.references import reference
from tests.support.tiny_models import make_checkpoint

torch = reference("torch")


@pytest.fixture(scope="module")
def make_case(tmp_path_factory: pytest.TempPathFactory) -> MakeCase:
    return case_maker("gte", tmp_path_factory)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_length_equals_transformers(make_case: MakeCase, tmp_path: Path, variant: str) -> None:
    assert_equals_transformers_at((*LENGTHS, 2000), make_case(max_length=2048), variant, tmp_path / "m.onnx")


SETTINGS: dict[str, dict[str, Any]] = {
    "three labels": {"labels": 3},
    "no token types": {"type_vocab_size": 0},
    "two token types": {"type_vocab_size": 2},
    "another base": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "another activation": {"hidden_act": "gelu_new"},
    "one layer": {"num_hidden_layers": 1},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_equals_transformers(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "gte", **SETTINGS[name])
    assert_equals_transformers(folder, tmp_path / "m.onnx")


def test_a_base_beside_how_positions_are_stretched_counts_as_in_transformers(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "gte")
    rope = {"rope_type": "default", "rope_theta": 50.0}
    change_config(folder, rope_parameters=None, rope_theta=10_000.0, rope_scaling=rope)
    assert_equals_transformers(folder, tmp_path / "m.onnx")


# Faults that a builder could have, in each layer.

Fault = Callable[[Layer], Layer]


def in_attention(**changes: Callable[[Any], Any]) -> Fault:
    return lambda layer: replace(
        layer,
        attention=replace(
            layer.attention, **{name: change(getattr(layer.attention, name)) for name, change in changes.items()}
        ),
    )


def in_rotary(change: Callable[[Rotary], Rotary]) -> Fault:
    def changed(rotary: Rotary | None) -> Rotary:
        assert rotary is not None
        return change(rotary)

    return in_attention(rotary=changed)


def in_feed_forward(change: Callable[[GatedFeedForward], GatedFeedForward]) -> Fault:
    def changed(layer: Layer) -> Layer:
        assert isinstance(layer.feed_forward, GatedFeedForward)
        return replace(layer, feed_forward=change(layer.feed_forward))

    return changed


def unbiased(linear: Linear) -> Linear:
    return replace(linear, bias=np.zeros_like(linear.bias))


def interleaved(linear: Linear) -> Linear:
    """Columns that bring neighbours to where halves are turned, of heads of 8."""
    order = np.arange(len(linear.bias)).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].ravel()
    return replace(linear, weight=linear.weight[:, order], bias=linear.bias[order])


FAULTS: dict[str, Fault] = {
    "theta of another layer kind": in_rotary(lambda rotary: replace(rotary, frequencies=rotary.frequencies**0.8)),
    "turned the other way": in_rotary(lambda rotary: replace(rotary, frequencies=-rotary.frequencies * 2)),
    "not turned": in_attention(rotary=lambda rotary: None),
    "neighbours turned in place of halves": in_attention(query=interleaved, key=interleaved),
    "the wrong half activated": in_feed_forward(lambda old: replace(old, up=old.gate, gate=old.up)),
    "no gate": in_feed_forward(lambda old: replace(old, gate=replace(old.gate, bias=old.gate.bias + 1))),
    "no bias of the queries": in_attention(query=unbiased),
    "no bias of the values": in_attention(value=unbiased),
    "no bias of down": in_feed_forward(lambda old: replace(old, down=unbiased(old.down))),
    "no norm behind attention": lambda layer: replace(layer, attention_norm=None),
    "no norm behind the feed-forward": lambda layer: replace(layer, output_norm=None),
    "norms before their parts": lambda layer: PreNormLayer(
        layer.attention, layer.attention_norm, layer.feed_forward, layer.output_norm
    ),
    "divided by d": in_attention(query=lambda old: replace(old, weight=old.weight / 2, bias=old.bias / 2)),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FAULTS)
def test_fault_in_the_graph_is_seen(make_case: MakeCase, tmp_path: Path, name: str, variant: str) -> None:
    case = make_case()
    weights = case.checkpoint.weights
    wrong = replace(weights, layers=tuple(map(FAULTS[name], weights.layers)))
    (ours,) = graph_scores(replace(case.checkpoint, weights=wrong), variant, tmp_path / "m.onnx")
    assert distance(ours, case.theirs) > 10 * TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["head without its activation", "the token type forgotten"])
def test_fault_around_the_layers_is_seen(make_case: MakeCase, tmp_path: Path, name: str, variant: str) -> None:
    case = make_case()
    weights = case.checkpoint.weights
    if name == "the token type forgotten":
        weights = replace(weights, embeddings=replace(weights.embeddings, types=None))
    else:
        assert isinstance(weights.head, Head)
        weights = replace(weights, head=replace(weights.head, activation="relu"))
    (ours,) = graph_scores(replace(case.checkpoint, weights=weights), variant, tmp_path / "m.onnx")
    assert distance(ours, case.theirs) > 10 * TOLERANCE


def test_stretched_positions_that_are_ignored_are_seen(make_case: MakeCase) -> None:
    config = make_case().checkpoint.config
    assert isinstance(config, gte.GteConfig)
    plain, stretched = (rotary(config.theta, config.head_size, factor=factor).frequencies for factor in (1.0, 8.0))
    assert stretched[0] == pytest.approx(plain[0] / 8 ** (2 / 8))
    assert stretched[-1] == pytest.approx(plain[-1] * 8 ** (-6 / 8) / 8 ** (2 / 8), rel=1e-6)  # all of it is slower


def test_default_export_holds_every_bound_and_int8_alone_scores_as_in_a_batch(
    make_case: MakeCase, tmp_path: Path
) -> None:
    artifact = tmp_path / "artifact"
    assert_default_export_is_whole_and_int8_scores_alone_as_in_a_batch(make_case().folder, artifact)


def test_attention_is_what_the_layers_have(make_case: MakeCase) -> None:
    """The faults above change parts that are there."""
    for layer in make_case().checkpoint.weights.layers:
        assert isinstance(layer.attention, Attention)
        assert layer.attention.rotary is not None
        assert isinstance(layer.feed_forward, GatedFeedForward)
