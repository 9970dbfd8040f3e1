"""Ways in which people find the same checkpoint stored: each gives the same graph, byte for byte."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer

from crossrank import CrossEncoder
from crossrank._artifact.manifest import read_manifest
from crossrank.export import export_model
from crossrank.export._architectures.checkpoint import read_checkpoint
from tests.support.checkpoint_files import read_tensors, sha256_of, write_tensors
from tests.support.references import auto_classifier, reference
from tests.support.stored_checkpoints import (
    as_modules,
    as_modules_with_a_folder,
    as_old_pytorch,
    as_pytorch,
    as_sharded_pytorch,
    change_state,
    sharded,
    with_names_of_tensorflow,
    with_padding_and_truncation,
    with_tensors_of_no_use,
    with_vocabulary_alone,
    without_labels,
    without_model_type,
    without_prefix,
)
from tests.support.tiny_models import MAX_LENGTH, PAIRS, make_checkpoint, transformers_logits, write_json

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")
torch_files = reference("safetensors.torch")

CPU_FP32 = "onnx/model_cpu_fp32.onnx"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny-bert", "bert", labels=2)


@pytest.fixture(scope="module")
def artifact(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_fp32(bert, tmp_path_factory.mktemp("artifacts") / "tiny-bert")


@pytest.fixture
def checkpoint(bert: Path, tmp_path: Path) -> Path:
    """A copy of `bert` to change."""
    return Path(shutil.copytree(bert, tmp_path / "checkpoint"))


def export_fp32(source: Path, output: Path) -> Path:
    return export_model(source, output, variants=["cpu"], precisions=["fp32"])


def logits_of(artifact: Path) -> Any:
    return CrossEncoder(artifact, precision="fp32").predict(list(PAIRS), activation_fn="identity")


ALL = [
    without_prefix,
    sharded,
    with_padding_and_truncation,
    with_tensors_of_no_use,
    as_pytorch,
    as_old_pytorch,
    as_sharded_pytorch,
    with_names_of_tensorflow,
    without_model_type,
    without_labels,
    with_vocabulary_alone,
    as_modules,
    as_modules_with_a_folder,
]


@pytest.mark.parametrize("store", ALL, ids=lambda store: store.__name__)
def test_way_of_storing_changes_nothing(artifact: Path, checkpoint: Path, tmp_path: Path, store: Any) -> None:
    store(checkpoint)
    again = export_fp32(checkpoint, tmp_path / "again")
    assert sha256_of(again / CPU_FP32) == sha256_of(artifact / CPU_FP32)
    assert np.array_equal(logits_of(again), logits_of(artifact))


@pytest.mark.parametrize("store", ALL, ids=lambda store: store.__name__)
def test_artifact_is_a_whole_folder_for_transformers(bert: Path, checkpoint: Path, tmp_path: Path, store: Any) -> None:
    """Config and tokenizer as an artifact holds them, with the weights put back, score as the checkpoint does."""
    store(checkpoint)
    again = export_fp32(checkpoint, tmp_path / "again")
    shutil.copyfile(bert / "model.safetensors", again / "model.safetensors")
    np.testing.assert_allclose(transformers_logits(again, PAIRS), transformers_logits(bert, PAIRS), atol=2e-5)
    if (again / "modules.json").exists():
        model = sentence_transformers.CrossEncoder(str(again), device="cpu")
        np.testing.assert_allclose(model.predict(list(PAIRS)), CrossEncoder(again).predict(list(PAIRS)), atol=2e-5)


def test_roberta_with_vocabulary_and_merges_alone_scores_the_same(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "roberta")
    expected = transformers_logits(checkpoint, PAIRS)
    Tokenizer.from_file(str(checkpoint / "tokenizer.json")).model.save(str(checkpoint))
    (checkpoint / "tokenizer.json").unlink()
    artifact = export_fp32(checkpoint, tmp_path / "again")
    np.testing.assert_allclose(logits_of(artifact), expected[:, 0], atol=2e-5)
    assert (artifact / "merges.txt").exists()


@pytest.mark.parametrize("architecture", ["electra", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet"])
def test_names_of_the_weights_tell_the_architecture(
    tmp_path: Path, architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture)
    expected = transformers_logits(checkpoint, PAIRS)
    without_model_type(checkpoint)
    with caplog.at_level(logging.WARNING):
        again = export_fp32(checkpoint, tmp_path / "again")
    assert "config.json has no model_type: the weights are named as those of" in caplog.text
    np.testing.assert_allclose(logits_of(again), expected[:, 0], atol=2e-5)


def test_labels_are_counted_in_the_weights_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers takes two for granted where config.json is silent."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert", labels=3)
    expected = transformers_logits(checkpoint, PAIRS)
    without_labels(checkpoint)
    with caplog.at_level(logging.WARNING):
        again = export_fp32(checkpoint, tmp_path / "again")
    assert "config.json has neither id2label nor num_labels: the head has 3 outputs" in caplog.text
    np.testing.assert_allclose(logits_of(again), expected, atol=2e-5)


def test_tensor_that_is_tied_to_another_is_read_from_there(checkpoint: Path) -> None:
    """safetensors' metadata names what `save_model` dropped because it shared another tensor's memory."""
    tensors = read_tensors(checkpoint)
    dropped, kept = (f"bert.encoder.layer.1.attention.self.{part}.weight" for part in ("key", "query"))
    tensors[dropped] = tensors[kept]
    write_tensors(checkpoint, tensors)
    whole = read_checkpoint(checkpoint, max_length=None, relevant_label=None).weights.layers[1].attention
    del tensors[dropped]
    write_tensors(checkpoint, tensors, **{dropped: kept})
    tied = read_checkpoint(checkpoint, max_length=None, relevant_label=None).weights.layers[1].attention
    assert np.array_equal(tied.key.weight, whole.key.weight)
    assert np.array_equal(tied.key.weight, tied.query.weight)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("store", [None, as_pytorch], ids=["safetensors", "pytorch"])
def test_short_floats_are_read_exactly(checkpoint: Path, tmp_path: Path, dtype: Any, store: Any) -> None:
    rounded = {name: value.astype(dtype).astype(np.float32) for name, value in read_tensors(checkpoint).items()}
    write_tensors(checkpoint, rounded)
    wholes = export_fp32(checkpoint, tmp_path / "wholes")
    torch_type = torch.float16 if dtype is np.float16 else torch.bfloat16
    change_state(checkpoint, lambda state: {name: value.to(torch_type) for name, value in state.items()})
    if store is not None:
        store(checkpoint)
    halves = export_fp32(checkpoint, tmp_path / "halves")
    assert sha256_of(halves / CPU_FP32) == sha256_of(wholes / CPU_FP32)


def test_length_beside_modules_takes_the_place_of_the_tokenizers(checkpoint: Path, tmp_path: Path) -> None:
    """As sentence-transformers does it."""
    as_modules(checkpoint)
    change = checkpoint / "sentence_bert_config.json"
    write_json(change, json.loads(change.read_text(encoding="utf-8")) | {"max_seq_length": 20})
    artifact = export_fp32(checkpoint, tmp_path / "artifact")
    inputs = read_manifest(artifact).inputs
    assert (inputs.max_length, inputs.max_length_origin) == (20, "sentence_bert_config.json max_seq_length")
    theirs = sentence_transformers.CrossEncoder(str(checkpoint), device="cpu")
    assert theirs.max_seq_length == 20
    np.testing.assert_allclose(CrossEncoder(artifact).predict(list(PAIRS)), theirs.predict(list(PAIRS)), atol=2e-5)


def test_electra_with_a_bare_projection_scores_as_its_authors_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Capreolus' head is one linear layer on the [CLS] row; ElectraForSequenceClassification has another before it."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "electra", labels=2)
    model = auto_classifier().from_pretrained(checkpoint).eval()
    model.classifier.dense = torch.nn.Identity()
    model.classifier.activation = torch.nn.Identity()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    expected = []
    with torch.inference_mode():
        for query, document in PAIRS:
            batch = tokenizer([query], [document], truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            expected.append(model(**batch).logits[0].numpy())
    tensors = read_tensors(checkpoint)
    write_tensors(checkpoint, {name: v for name, v in tensors.items() if not name.startswith("classifier.dense")})
    with caplog.at_level(logging.WARNING):
        artifact = export_model(checkpoint, tmp_path / "artifact")
    assert "the head is classifier.out_proj alone, without classifier.dense" in caplog.text
    assert {variant.parity.reference for variant in read_manifest(artifact).variants if variant.parity} == {"numpy"}
    np.testing.assert_allclose(logits_of(artifact), np.stack(expected), atol=2e-5)


def test_stored_tensor_comes_before_the_one_that_metadata_names_for_it(checkpoint: Path) -> None:
    stored = read_checkpoint(checkpoint).weights.layers[1].attention.key.weight
    key, query = (f"bert.encoder.layer.1.attention.self.{part}.weight" for part in ("key", "query"))
    write_tensors(checkpoint, read_tensors(checkpoint), **{key: query})
    assert np.array_equal(read_checkpoint(checkpoint).weights.layers[1].attention.key.weight, stored)


def test_length_without_modules_leaves_the_tokenizers(checkpoint: Path, tmp_path: Path) -> None:
    """As sentence-transformers, which reads sentence_bert_config.json beside modules.json only."""
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": 20})
    assert read_manifest(export_fp32(checkpoint, tmp_path / "artifact")).inputs.max_length == MAX_LENGTH


def test_two_labels_that_are_not_said_are_no_news(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers leaves its default out, so the config is copied as it is."""
    without_labels(checkpoint)
    artifact = export_fp32(checkpoint, tmp_path / "artifact")
    assert not caplog.records
    assert sha256_of(artifact / "config.json") == sha256_of(checkpoint / "config.json")
