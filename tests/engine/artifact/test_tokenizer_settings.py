"""A folder's tokenizer.json and the settings beside it together give what the model was trained with.

What transformers 4.57.6 gives is in transformers_4.json; golden_checkpoints.py says how it was made.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import AddedToken, Tokenizer

from crossrank import CheckpointError, CrossEncoder, InputError, UnsupportedModelError
from crossrank._artifact.settings import read_model_folder
from crossrank._artifact.tokenizer_class import gives_token_types, written_by_5
from crossrank._artifact.tokenizer_settings import open_tokenizer
from crossrank.export import export_model
from tests.support.checkpoint_files import change_config
from tests.support.golden_checkpoints import GOLDEN, PAIRS, TOKENIZERS
from tests.support.tiny_models import make_checkpoint, write_json

IN_4: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))["tokenizers"]


def change_settings(folder: Path, **fields: Any) -> None:
    path = folder / "tokenizer_config.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | fields)


def read_pairs(folder: Path, work: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and segments of `PAIRS` by the tokenizer.json that an artifact of the folder gets; zeros without segments."""
    source = read_model_folder(folder)
    open_tokenizer(source).save(work / "of-the-artifact.json")
    encodings = Tokenizer.from_file(str(work / "of-the-artifact.json")).encode_batch(list(PAIRS))
    types = gives_token_types(source.tokenizer, source.config)
    return [e.ids for e in encodings], [e.type_ids if types else [0] * len(e.ids) for e in encodings]


def of_transformers(batch: Any) -> tuple[list[list[int]], list[list[int]]]:
    return batch["input_ids"], batch.get("token_type_ids") or [[0] * len(ids) for ids in batch["input_ids"]]


def of_installed(folder: Path) -> tuple[list[list[int]], list[list[int]]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return of_transformers(tokenizer(*(list(texts) for texts in zip(*PAIRS, strict=True))))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_and_segments_are_those_of_transformers_4(tmp_path: Path, name: str) -> None:
    TOKENIZERS[name].write(tmp_path)
    golden = IN_4[name]
    assert read_pairs(tmp_path, tmp_path) == of_transformers(
        {"input_ids": golden["ids"], "token_type_ids": golden["types"]}
    )


@pytest.mark.parametrize("name", [name for name, case in TOKENIZERS.items() if not case.unlike_5])
def test_ids_and_segments_are_those_of_the_installed_transformers(tmp_path: Path, name: str) -> None:
    TOKENIZERS[name].write(tmp_path)
    assert read_pairs(tmp_path, tmp_path) == of_installed(tmp_path)


@pytest.mark.parametrize(
    "name", [name for name, case in TOKENIZERS.items() if case.unlike_5 and name != "AlbertTokenizer"]
)
def test_files_that_transformers_5_wrote_are_read_as_it_reads_them(tmp_path: Path, name: str) -> None:
    """What 5 makes of such a folder it writes, and a model that is trained with it learns from that."""
    TOKENIZERS[name].write(tmp_path / "by-4")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "by-4")
    shutil.copytree(tmp_path / "by-4", tmp_path / "by-5", ignore=lambda *_: {"special_tokens_map.json"})
    tokenizer.save_pretrained(tmp_path / "by-5")
    expected = of_installed(tmp_path / "by-5")
    assert read_pairs(tmp_path / "by-5", tmp_path) == expected
    assert read_pairs(tmp_path / "by-4", tmp_path) != expected


def test_class_that_only_transformers_5_has_gives_no_segments(tmp_path: Path) -> None:
    TOKENIZERS["bert"].write(tmp_path)
    change_settings(tmp_path, tokenizer_class="TokenizersBackend")
    assert read_pairs(tmp_path, tmp_path) == of_installed(tmp_path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, False),
        ({"tokenizer_class": "TokenizersBackend"}, True),
        ({"tokenizer_class": "BertTokenizer", "backend": "tokenizers"}, True),
    ],
)
def test_version_that_wrote_a_tokenizer_is_told_by_its_settings(settings: dict[str, Any], expected: bool) -> None:
    assert written_by_5(settings) is expected


def test_what_the_settings_change_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    TOKENIZERS["do_lower_case bert"].write(tmp_path)
    with caplog.at_level(logging.WARNING):
        open_tokenizer(read_model_folder(tmp_path))
    (record,) = caplog.records
    assert "lowercase is True in tokenizer.json and False by do_lower_case of tokenizer_config.json" in record.message


def test_files_that_agree_are_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("bert", "roberta", "xlm-roberta", "mpnet"):
        TOKENIZERS[name].write(tmp_path)
        assert open_tokenizer(read_model_folder(tmp_path)).changes == ()
    assert not caplog.records


@pytest.mark.parametrize(
    ("architecture", "settings", "complaints"),
    [
        (
            "bert",
            {"do_lower_case": "no", "strip_accents": 0, "tokenize_chinese_chars": None},
            ["do_lower_case is 'no'; true or false", "strip_accents is 0", "tokenize_chinese_chars is None"],
        ),
        ("roberta", {"add_prefix_space": "yes"}, ["add_prefix_space is 'yes'; true or false expected"]),
        ("bert", {"additional_special_tokens": [7]}, ["7 is among the special tokens; a token is expected"]),
        (
            "bert",
            {"added_tokens_decoder": {"900": {"content": "<new>"}}},
            ["the added token '<new>' is to have id 900, and gets"],
        ),
    ],
)
def test_damaged_settings_are_named(
    tmp_path: Path, architecture: str, settings: dict[str, Any], complaints: list[str]
) -> None:
    TOKENIZERS[architecture].write(tmp_path)
    change_settings(tmp_path, **settings)
    with pytest.raises(CheckpointError) as caught:
        open_tokenizer(read_model_folder(tmp_path))
    assert all(complaint in str(caught.value) for complaint in complaints)


def test_special_tokens_that_are_to_be_split_are_refused_by_name(tmp_path: Path) -> None:
    TOKENIZERS["bert"].write(tmp_path)
    change_settings(tmp_path, split_special_tokens=True)
    with pytest.raises(UnsupportedModelError, match="split_special_tokens is set"):
        open_tokenizer(read_model_folder(tmp_path))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny-bert", "bert")


@pytest.fixture
def checkpoint(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "checkpoint"))


def foreign(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint as others export it: its graph, its settings, no weights."""
    artifact = export_model(checkpoint, folder.with_name(f"{folder.name}-artifact"), variants=["portable"])
    shutil.copytree(checkpoint, folder, ignore=lambda *_: {"model.safetensors"})
    shutil.copytree(artifact / "onnx", folder / "onnx")
    return folder


def test_graph_of_another_exporter_gets_the_ids_of_its_settings_too(checkpoint: Path, tmp_path: Path) -> None:
    change_settings(checkpoint, do_lower_case=False)
    folder = foreign(checkpoint, tmp_path / "foreign")
    ours = CrossEncoder(tmp_path / "foreign-artifact", precision="fp32").predict(PAIRS)
    np.testing.assert_allclose(CrossEncoder(folder).predict(PAIRS), ours, atol=1e-6)


def test_documents_encoded_with_other_settings_are_told_apart(checkpoint: Path, tmp_path: Path) -> None:
    folder = foreign(checkpoint, tmp_path / "foreign")
    documents = CrossEncoder(folder).encode(["SKY", "sea"])
    change_settings(folder, do_lower_case=False)
    with pytest.raises(InputError, match="tokenizer"):
        CrossEncoder(folder).score("ships", documents)


# A tokenizer with more entries than the model has embeddings.


def add_tokens(folder: Path, *tokens: AddedToken) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(list(tokens))
    tokenizer.save(str(folder / "tokenizer.json"))


def test_token_beyond_the_embeddings_matters_only_where_it_occurs(
    bert: Path, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_tokens(checkpoint, AddedToken("<extra>", special=True))
    expected = CrossEncoder(export_model(bert, tmp_path / "without", variants=["cpu"])).predict(PAIRS)
    model = CrossEncoder(export_model(checkpoint, tmp_path / "with", variants=["cpu"]))
    assert "tokens, the model" in caplog.text
    np.testing.assert_array_equal(model.predict(PAIRS), expected)
    with pytest.raises(InputError, match=r"document 1 holds the token '<extra>', id \d+, .* below \d+ alone"):
        model.rank("ships", ["kettle", "a <extra> b"])
    with pytest.raises(InputError, match="query 0 holds the token '<extra>'"):
        model.score("<extra>", ["kettle"])
    with pytest.raises(InputError, match="holds the token '<extra>'"):
        model.encode(["kettle", "<extra>"])


def test_documents_encoded_for_more_embeddings_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    add_tokens(checkpoint, AddedToken("<extra>", special=True))
    larger = make_checkpoint(tmp_path / "larger", "bert", vocab_size=300)
    shutil.copyfile(checkpoint / "tokenizer.json", larger / "tokenizer.json")
    narrow, wide = (
        CrossEncoder(export_model(c, tmp_path / f"a{i}", variants=["cpu"])) for i, c in enumerate((checkpoint, larger))
    )
    documents = wide.encode(["kettle", "<extra>"])
    assert len(wide.score("ships", documents)) == 2
    with pytest.raises(InputError, match="document 1 holds the token '<extra>'"):
        narrow.score("ships", documents)


def test_graph_of_another_exporter_may_have_fewer_embeddings(checkpoint: Path, tmp_path: Path) -> None:
    folder = foreign(checkpoint, tmp_path / "foreign")
    add_tokens(folder, AddedToken("<extra>", special=True))
    model = CrossEncoder(folder)
    model.predict(PAIRS)
    with pytest.raises(InputError, match="document 0 holds the token '<extra>'"):
        model.score("ships", ["<extra>"])


@pytest.mark.parametrize("rows", [50, 3])
def test_tokenizer_of_another_model_is_refused(checkpoint: Path, tmp_path: Path, rows: int) -> None:
    change_config(checkpoint, vocab_size=rows)
    with pytest.raises(CheckpointError, match=rf"tokens, the model {rows}, and plain texts hold tokens that it lacks"):
        export_model(checkpoint, tmp_path / "artifact", variants=["cpu"])
