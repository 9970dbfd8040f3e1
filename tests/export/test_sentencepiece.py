"""Tokenizers of sentencepiece's own files give transformers 4.57.6's ids, without that and without sentencepiece."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from crossrank import CheckpointError, CrossEncoder, UnsupportedModelError
from crossrank._artifact.settings import read_model_folder
from crossrank.export import export_model
from crossrank.export._architectures.checkpoint import read_tokenizer
from crossrank.export._read.tokenizers.sentencepiece import _model_class, build_sentencepiece
from tests.support.golden_sentencepiece import CASES, GOLDEN, PAIRS, write_case
from tests.support.tiny_models import make_checkpoint, write_json

IN_4: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))


def folder_of(name: str, place: Path) -> Path:
    return write_case(place / "checkpoint", name, base64.b64decode(IN_4[name]["model"]))


def settings_of(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return settings


@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_transformers_4(tmp_path: Path, name: str) -> None:
    folder = folder_of(name, tmp_path)
    tokenizer = build_sentencepiece(folder, settings_of(folder))
    assert [encoding.ids for encoding in tokenizer.encode_batch(list(PAIRS))] == IN_4[name]["ids"]
    assert tokenizer.get_vocab_size(with_added_tokens=True) == IN_4[name]["size"]


@pytest.mark.parametrize("name", ["DeBERTa", "XLM-R"])
def test_checkpoint_without_tokenizer_json_is_exported_with_it(tmp_path: Path, name: str) -> None:
    """The artifact has a tokenizer.json, which needs nothing to be converted."""
    folder = make_checkpoint(tmp_path / "checkpoint", CASES[name].model_type)
    for file in ("tokenizer.json", "special_tokens_map.json"):
        (folder / file).unlink()
    write_case(folder.with_name("other"), name, base64.b64decode(IN_4[name]["model"]))
    for file in (CASES[name].file, "tokenizer_config.json"):
        (folder.with_name("other") / file).rename(folder / file)
    artifact = export_model(folder, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    assert [encoding.ids for encoding in tokenizer.encode_batch(list(PAIRS))] == IN_4[name]["ids"]
    assert len(CrossEncoder(artifact, device="cpu").predict(list(PAIRS))) == len(PAIRS)


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x0a\x05\x0a\x03abc\xff", b"\x0a\x80\x80\x80\x80\x04"])
def test_damaged_file_is_called_so(tmp_path: Path, content: bytes) -> None:
    folder = folder_of("DeBERTa", tmp_path)
    (folder / "spm.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"spm\.model: no model of sentencepiece"):
        build_sentencepiece(folder, {})


def changed(folder: Path, change: Any) -> Path:
    model = _model_class()()
    model.ParseFromString((folder / "spm.model").read_bytes())
    change(model)
    (folder / "spm.model").write_bytes(model.SerializeToString())
    return folder


def test_damaged_table_of_characters_is_called_so(tmp_path: Path) -> None:
    def cut(model: Any) -> None:
        model.normalizer_spec.precompiled_charsmap = b"\x05"

    with pytest.raises(CheckpointError, match="its table of characters is damaged"):
        build_sentencepiece(changed(folder_of("DeBERTa", tmp_path), cut), {})


def test_unknown_token_out_of_the_vocabulary_is_refused(tmp_path: Path) -> None:
    def far(model: Any) -> None:
        model.trainer_spec.unk_id = 5000

    with pytest.raises(CheckpointError, match="the unknown token's id is 5000; the file has 110 pieces"):
        build_sentencepiece(changed(folder_of("DeBERTa", tmp_path), far), {})


def test_missing_special_tokens_are_named(tmp_path: Path) -> None:
    def rename(model: Any) -> None:
        model.pieces[1].piece = "[BOS]"

    with pytest.raises(CheckpointError, match=r"spm\.model does not hold \[CLS\] \(bos_token\)"):
        build_sentencepiece(changed(folder_of("DeBERTa", tmp_path), rename), {})


def test_other_models_and_classes_are_refused_with_a_command(tmp_path: Path) -> None:
    def bpe(model: Any) -> None:
        model.trainer_spec.model_type = 2

    folder = changed(folder_of("DeBERTa", tmp_path), bpe)
    with pytest.raises(UnsupportedModelError, match="model type is 2; supported is Unigram") as error:
        build_sentencepiece(folder, {})
    assert "pip install 'transformers<5' sentencepiece protobuf" in str(error.value)
    write_json(folder / "config.json", {"model_type": "albert"})
    with pytest.raises(UnsupportedModelError, match=r"a tokenizer class that is not known here \(albert\)") as error:
        build_sentencepiece(folder, {})
    assert "AutoTokenizer.from_pretrained" in str(error.value)


def test_model_type_that_a_trainer_left_out_is_unigram(tmp_path: Path) -> None:
    """As sentencepiece.proto has it; its trainer writes no more than it was told."""

    def clear(model: Any) -> None:
        model.trainer_spec.ClearField("model_type")

    tokenizer = build_sentencepiece(changed(folder_of("DeBERTa", tmp_path), clear), {})
    assert [encoding.ids for encoding in tokenizer.encode_batch(list(PAIRS))] == IN_4["DeBERTa"]["ids"]


@pytest.mark.parametrize("setting", ["do_lower_case", "split_by_punct"])
def test_damaged_setting_is_called_so(tmp_path: Path, setting: str) -> None:
    with pytest.raises(CheckpointError, match=f"{setting} is 'yes'; true or false expected"):
        build_sentencepiece(folder_of("DeBERTa", tmp_path), {setting: "yes"})


def test_tokenizer_json_counts_before_sentencepieces_file(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "deberta-v2")
    (folder / "spm.model").write_bytes(b"not looked at")
    assert read_tokenizer(read_model_folder(folder)).vocabulary_size > 4
