"""DeBERTa-v2 and -v3: every graph equals transformers at every length and setting, and a fault in one would be seen.

Its relative positions beyond half of the buckets need long texts, or few buckets.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from crossrank import CheckpointError, UnsupportedModelError
from crossrank.export import export_model
from crossrank.export._architectures import deberta
from crossrank.export._architectures.checkpoint import Checkpoint, read_checkpoint
from crossrank.export._architectures.deberta import DebertaConfig, Disentangled, distance_rows
from crossrank.export._graphs.encoder import Layer
from crossrank.export._graphs.graph import save_model
from tests.support.checkpoint_files import change_config
from tests.support.graph_scores import (
    LENGTHS,
    TOLERANCE,
    VARIANTS,
    MakeCase,
    assert_default_export_is_whole_and_int8_scores_alone_as_in_a_batch,
    assert_equals_transformers,
    assert_equals_transformers_at,
    build,
    case_maker,
    distance,
    graph_scores,
)
from tests.support.references import reference
from tests.support.tiny_models import make_checkpoint

torch = reference("torch")
modeling = reference("transformers.models.deberta_v2.modeling_deberta_v2")


@pytest.fixture(scope="module")
def make_case(tmp_path_factory: pytest.TempPathFactory) -> MakeCase:
    return case_maker("deberta-v2", tmp_path_factory)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_length_equals_transformers(make_case: MakeCase, tmp_path: Path, variant: str) -> None:
    """With the 256 buckets and 512 positions of the published models."""
    case = make_case(max_length=512, position_buckets=256)
    assert_equals_transformers_at(LENGTHS, case, variant, tmp_path / "m.onnx")


@pytest.mark.parametrize("variant", ["cpu", "portable"])
@pytest.mark.parametrize("length", [1, 2])
def test_a_length_that_no_pair_has_equals_transformers(
    make_case: MakeCase, tmp_path: Path, variant: str, length: int
) -> None:
    case = make_case(max_length=512, position_buckets=256)
    save_model(build(case.checkpoint, variant), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    ids = np.array([[1, 9], [7, 30], [12, 2]])[:, :length]
    feed = (
        {"input_ids": ids.astype(np.int32)} if variant == "cpu" else {"input_ids": ids, "attention_mask": ids * 0 + 1}
    )
    model = modeling.DebertaV2ForSequenceClassification.from_pretrained(case.folder).eval()
    with torch.inference_mode():
        theirs = model(torch.from_numpy(ids)).logits.numpy()
    assert distance(session.run(None, feed)[0], theirs) <= TOLERANCE


SETTINGS: dict[str, dict[str, Any]] = {
    "three labels": {"labels": 3},
    "projections of distances of their own": {"share_att_key": False},
    "c2p alone": {"pos_att_type": ["c2p"]},
    "p2c alone": {"pos_att_type": "p2c"},
    "words between bars": {"pos_att_type": "P2C | c2p"},
    "neither": {"pos_att_type": None},
    "no word": {"pos_att_type": ""},
    "no buckets": {"position_buckets": -1, "max_relative_positions": 20},
    "few far buckets": {"position_buckets": 6, "max_relative_positions": 12},
    "distances not normed": {"norm_rel_ebd": "none"},
    "positions and token types": {"position_biased_input": True, "type_vocab_size": 2},
    "no distances": {"relative_attention": False, "position_biased_input": True},
    "narrow embeddings": {"embedding_size": 24, "position_biased_input": True, "type_vocab_size": 2},
    "another head": {"pooler_hidden_act": "tanh", "hidden_act": "gelu_new"},
    "heads of 10": {"hidden_size": 20, "num_attention_heads": 2},
    "one layer": {"num_hidden_layers": 1},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_equals_transformers(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "deberta-v2", **SETTINGS[name])
    assert_equals_transformers(folder, tmp_path / "m.onnx")


# Faults that a builder could have.

Fault = Callable[[pytest.MonkeyPatch, Checkpoint], Checkpoint]


def in_each_layer(change: Callable[[Disentangled, Checkpoint], Disentangled]) -> Fault:
    def fault(_: pytest.MonkeyPatch, checkpoint: Checkpoint) -> Checkpoint:
        def changed(layer: Layer) -> Layer:
            assert isinstance(layer.attention, Disentangled)
            return replace(layer, attention=change(layer.attention, checkpoint))

        layers = tuple(map(changed, checkpoint.weights.layers))
        return replace(checkpoint, weights=replace(checkpoint.weights, layers=layers))

    return fault


def with_rows(change: Callable[[NDArray[np.int64], DebertaConfig], NDArray[np.int64]]) -> Fault:
    """Another row for each distance, given the right ones' function."""

    def fault(monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> Checkpoint:
        monkeypatch.setattr(deberta, "distance_rows", change)
        return checkpoint

    return fault


def times(factor: float) -> Callable[[Disentangled, Checkpoint], Disentangled]:
    """All scores ``factor`` times as large."""

    def change(attention: Disentangled, _: Checkpoint) -> Disentangled:
        f, query, queries = np.float32(factor), attention.query, attention.queries
        larger = replace(query, weight=query.weight * f, bias=query.bias * f)
        return replace(attention, query=larger, queries=None if queries is None else queries * f)

    return change


def read_again(**changes: Any) -> Fault:
    """As of a config.json that says something else of weights that are the same."""

    def fault(_: pytest.MonkeyPatch, checkpoint: Checkpoint) -> Checkpoint:
        folder = checkpoint.source.folder
        before = (folder / "config.json").read_text(encoding="utf-8")
        try:
            change_config(folder, **changes)
            return read_checkpoint(folder)
        finally:
            (folder / "config.json").write_text(before, encoding="utf-8")

    return fault


FAULTS: dict[str, Fault] = {
    "sign of the distance": with_rows(lambda distances, config: distance_rows(-distances, config)),
    "one row off": with_rows(lambda d, config: np.minimum(distance_rows(d, config) + 1, 2 * config.span - 1)),
    "no logarithm beyond half of the buckets": with_rows(
        lambda distances, config: np.clip(distances + config.span, 0, 2 * config.span - 1)
    ),
    "buckets rounded down": with_rows(
        lambda distances, config: np.where(
            np.abs(distances) > config.buckets // 2,
            distance_rows(distances, config) - np.sign(distances),
            distance_rows(distances, config),
        )
    ),
    "p2c missing": in_each_layer(lambda attention, _: replace(attention, queries=None)),
    "c2p missing": in_each_layer(lambda attention, _: replace(attention, keys=None)),
    "c2p and p2c swapped": in_each_layer(lambda a, _: replace(a, keys=a.queries, queries=a.keys)),
    "divided by sqrt(d)": in_each_layer(times(3**0.5)),
    "divided by sqrt(2 d)": in_each_layer(times(1.5**0.5)),
    "rows by distance not normed": read_again(norm_rel_ebd="none"),
    "epsilon of BERT's kind of size": read_again(layer_norm_eps=1e-3),
    "head with tanh": read_again(pooler_hidden_act="tanh"),
    "another head's rows": in_each_layer(
        lambda a, c: replace(a, keys=None if a.keys is None else np.roll(a.keys, c.config.head_size, axis=1))
    ),
    "p2c without the query's bias": in_each_layer(
        lambda a, _: replace(a, queries=None if a.queries is None else a.queries - a.query.bias)
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FAULTS)
def test_fault_in_the_graph_is_seen(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, variant: str
) -> None:
    case = make_case()
    (ours,) = graph_scores(FAULTS[name](monkeypatch, case.checkpoint), variant, tmp_path / "m.onnx")
    assert distance(ours, case.theirs) > 10 * TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_their_own_that_are_ignored_are_seen(make_case: MakeCase, tmp_path: Path, variant: str) -> None:
    """share_att_key ignored, with weights that have both."""
    case = make_case(share_att_key=False)
    wrong = read_again(share_att_key=True)(pytest.MonkeyPatch(), case.checkpoint)
    (ours,) = graph_scores(wrong, variant, tmp_path / "m.onnx")
    assert distance(ours, case.theirs) > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("buckets", "farthest"), [(256, 512), (256, 511), (32, 512), (16, 48), (16, 24), (2, 9), (7, 40), (128, 4096)]
)
def test_buckets_of_distances_are_those_of_transformers(buckets: int, farthest: int) -> None:
    distances = np.arange(-farthest - 5, farthest + 6)
    sizes = ("deberta-v2", 10, 8, 1, 1, 8, farthest, 0, 0, 1e-7, "gelu", 1)
    config = DebertaConfig(*sizes, relative=True, buckets=buckets, farthest=farthest)
    theirs = modeling.make_log_bucket_position(torch.from_numpy(distances), buckets, farthest)
    rows = torch.clamp(theirs.to(torch.long) + buckets, 0, 2 * buckets - 1)
    np.testing.assert_array_equal(distance_rows(distances, config), rows.numpy())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"conv_kernel_size": 3}, "conv_kernel_size is 3; supported is 0"),
        ({"attention_head_size": 16}, "attention_head_size is 16; supported is 8"),
        ({"pooler_hidden_size": 16}, "pooler_hidden_size is 16; supported is 32"),
        ({"pos_att_type": "p2c|p2p"}, "pos_att_type has p2p; supported are c2p, p2c"),
        ({"pos_att_type": ["C2P", "p2c"]}, "pos_att_type has C2P; supported are c2p, p2c"),  # no word to transformers
        ({"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd is batch_norm; supported are layer_norm and none"),
        ({"pooler_hidden_act": "mish"}, "pooler_hidden_act is 'mish'; supported are gelu"),
    ],
)
def test_setting_that_would_compute_something_else_is_refused_by_name(
    tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "deberta-v2")
    change_config(folder, **setting)
    with pytest.raises(UnsupportedModelError, match=r"config\.json") as error:
        export_model(folder, tmp_path / "artifact")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"position_buckets": 1 << 30}, "position_buckets is 1073741824"),
        ({"position_buckets": 200}, "less than twice max_relative_positions"),
        ({"relative_attention": "yes"}, "relative_attention is 'yes'; bool expected"),
        ({"position_buckets": 18}, "encoder.rel_embeddings.weight has shape"),
    ],
)
def test_damaged_setting_is_called_so(tmp_path: Path, setting: dict[str, Any], message: str) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "deberta-v2")
    change_config(folder, **setting)
    with pytest.raises(CheckpointError) as error:
        export_model(folder, tmp_path / "artifact")
    assert message in str(error.value)


def test_default_export_holds_every_bound_and_int8_alone_scores_as_in_a_batch(
    make_case: MakeCase, tmp_path: Path
) -> None:
    artifact = tmp_path / "artifact"
    assert_default_export_is_whole_and_int8_scores_alone_as_in_a_batch(make_case().folder, artifact)


def test_keys_and_values_of_the_last_layer_are_never_projected(make_case: MakeCase) -> None:
    checkpoint = make_case().checkpoint
    graph = build(checkpoint, "cpu").graph
    held = {tensor.name for tensor in graph.initializer}
    last = len(checkpoint.weights.layers) - 1
    assert f"layer.{last}.query.weight" in held
    assert f"layer.{last - 1}.key.weight" in held
    assert not {f"layer.{last}.key.weight", f"layer.{last}.value.weight"} & held
