"""crossrank.json: written and read back, and everything that is wrong with one said at once."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossrank import ArtifactError
from crossrank._artifact.manifest import (
    FileRecord,
    Head,
    Inputs,
    Manifest,
    Source,
    Variant,
    hash_file,
    read_manifest,
    write_manifest,
)
from crossrank._artifact.parity import Parity
from tests.support.artifacts import edit_manifest

PARITY = Parity(
    reference="transformers 5.23.0",
    graph="graph",
    provider="CPUExecutionProvider",
    onnxruntime="1.32.0",
    machine="a processor",
    pairs=72,
    max_abs=7.7e-06,
    mean_abs=1.7e-06,
    kendall_tau=1.0,
    top10_overlap=1.0,
    nan_count=0,
    alone_pairs=16,
    alone_max_abs=2.4e-07,
    spread=7.9,
)
CONTENTS = {"config.json": b"{}", "tokenizer.json": b"{}", "proof.json": b"{} ", "onnx/model.onnx": b"graph" * 7}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact folder as far as its manifest goes."""
    target = tmp_path / "artifact"
    (target / "onnx").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (target / name).write_bytes(content)
    write_manifest(target, _manifest(target))
    return target


def _manifest(folder: Path) -> Manifest:
    return Manifest(
        source=Source("someone/ranker", "0123abc", "bert", "f00d"),
        head=Head(2, 1, "Identity", "default for 2 labels"),
        inputs=Inputs(512, "the model's positions", 0, 0, True),
        variants=(Variant("portable", "fp32", "onnx/model.onnx", PARITY),),
        files={name: FileRecord((folder / name).stat().st_size, hash_file(folder / name)) for name in CONTENTS},
        crossrank="0.1.0",
    )


def _problems(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_manifest(folder)
    message = str(caught.value)
    assert "crossrank.json" in message
    return message


def test_a_manifest_is_read_as_it_was_written(folder: Path) -> None:
    assert read_manifest(folder) == _manifest(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"source": Source("a-folder", None, "xlm-roberta", "f00d")},
        {"head": Head(1, None, "Sigmoid", "default for 1 label")},
        {"variants": (Variant("portable", "fp32", "onnx/model.onnx"),)},
        {"variants": (Variant("portable", "fp32", "onnx/model.onnx", float_layers=(0, 3)),)},
        {"source": Source("日本語 🙂", "r", "bert", "f00d")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_optional_and_non_latin_values_survive(folder: Path, change: dict[str, Any]) -> None:
    manifest = replace(_manifest(folder), **change)
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest


def test_keys_of_a_later_minor_version_are_ignored(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: (manifest.update(new=1), manifest["head"].update(new=[2])))
    assert read_manifest(folder) == _manifest(folder)


def test_a_manifest_without_layers_in_float_has_none(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["variants"][0].pop("float_layers"))
    assert read_manifest(folder) == _manifest(folder)


@pytest.mark.parametrize("newer", [2, 17])
def test_a_newer_format_names_both_and_the_command(folder: Path, newer: int) -> None:
    (folder / "crossrank.json").write_text(json.dumps({"format": newer}), encoding="utf-8")
    message = _problems(folder)
    assert f"format {newer}, this crossrank reads up to 1: pip install --upgrade crossrank" in message


def test_a_folder_without_a_manifest_names_the_command(tmp_path: Path) -> None:
    assert "export-model --force" in _problems(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "[" * 100_000, "\ufeff{}", '{"a": 1} x'])
def test_what_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "crossrank.json").write_text(text, encoding="utf-8")
    assert "export-model --force" in _problems(folder)


def test_what_is_no_utf8_is_refused(folder: Path) -> None:
    (folder / "crossrank.json").write_bytes(b'{"source": "\xff"}')
    _problems(folder)


def test_all_missing_fields_are_named_at_once(folder: Path) -> None:
    def remove(manifest: dict[str, Any]) -> None:
        del manifest["crossrank"], manifest["head"]["labels"], manifest["inputs"]["pad_id"]
        del manifest["variants"][0]["file"], manifest["variants"][0]["parity"]["spread"]
        del manifest["files"]["config.json"]["sha256"]

    edit_manifest(folder, remove)
    message = _problems(folder)
    for field in (
        "crossrank",
        "head.labels",
        "inputs.pad_id",
        "variants[0].file",
        "variants[0].parity.spread",
        "files['config.json'].sha256",
    ):
        assert f"{field} is missing" in message
    assert "6 problems" in message


def test_all_mistyped_fields_are_named_with_value_and_type(folder: Path) -> None:
    def mistype(manifest: dict[str, Any]) -> None:
        manifest["head"].update(labels="two", activation=None)
        manifest["inputs"].update(token_types=1, pad_id=True, max_length=512.5)
        manifest["variants"][0].update(parity=[])
        manifest["files"]["config.json"] = 7
        manifest["source"] = "someone/ranker"

    edit_manifest(folder, mistype)
    message = _problems(folder)
    for problem in (
        "head.labels is 'two'; int expected",
        "head.activation is None; str expected",
        "inputs.token_types is 1; bool expected",
        "inputs.pad_id is True; int expected",
        "inputs.max_length is 512.5; int expected",
        "variants[0].parity is []; dict expected",
        "files['config.json'] is 7; dict expected",
        "source is 'someone/ranker'; dict expected",
    ):
        assert problem in message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m["head"].update(activation="GELU"), "head.activation is 'GELU'; known are Identity, Sigmoid"),
        (lambda m: m["head"].update(labels=0), "head has 0 labels"),
        (lambda m: m["head"].update(relevant_label=2), "head has 2 labels of which 2 is the relevant one"),
        (lambda m: m["head"].update(relevant_label=-1), "of which -1 is the relevant one"),
        (lambda m: m["inputs"].update(max_length=0), "inputs.max_length is 0; 1 to 2147483647 expected"),
        (lambda m: m["inputs"].update(pad_id=-1), "inputs.pad_id is -1; 0 to 2147483647 expected"),
        (lambda m: m["inputs"].update(position_offset=-1), "inputs.position_offset is -1; 0 to"),
        (lambda m: m["inputs"].update(max_length=2**31), "inputs.max_length is 2147483648; 1 to 2147483647 expected"),
        (lambda m: m["inputs"].update(pad_id=10**30), f"inputs.pad_id is {10**30}; 0 to"),
        (lambda m: m["inputs"].update(embeddings=0), "inputs.embeddings is 0; 1 to"),
        (lambda m: m["head"].update(labels=10**9), "head has 1000000000 labels"),
        (lambda m: m.update(variants=[]), "variants is empty"),
        (
            lambda m: m["variants"][0].update(variant="tpu"),
            "variants[0].variant is 'tpu'; known are cpu, cuda, portable",
        ),
        (lambda m: m["variants"][0].update(precision="fp64"), "variants[0].precision is 'fp64'; known are fp32"),
        (lambda m: m["variants"][0].update(file="onnx/other.onnx"), "'onnx/other.onnx' is not among its files"),
        (lambda m: m["files"].pop("tokenizer.json"), "'tokenizer.json' is not among its files"),
        (lambda m: m["files"].pop("proof.json"), "'proof.json' is not among its files"),
    ],
)
def test_a_value_that_cannot_be_is_named(
    folder: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    edit_manifest(folder, change)
    assert problem in _problems(folder)


@pytest.mark.parametrize(
    "name",
    ["../outside.json", "/etc/passwd", "onnx/../../outside.json", "..", "onnx\\model.onnx", "C:\\model.onnx", "a\0b"],
)
def test_a_path_that_leaves_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "outside.json").write_bytes(b"{}")
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: {"size_bytes": 2, "sha256": "0"}}))
    message = _problems(folder)
    assert f"{name!r} leaves the folder" in message


@pytest.mark.parametrize("name", ["absent.json", "", ".", "onnx", "x" * 300, "\ud800", "config.json/x"])
def test_a_path_that_is_no_file_is_named(folder: Path, name: str) -> None:
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: {"size_bytes": 2, "sha256": "0"}}))
    assert "is missing" in _problems(folder)


def test_a_link_that_leaves_the_folder_is_refused(folder: Path) -> None:
    outside = folder.parent / "outside.json"
    outside.write_bytes(CONTENTS["config.json"])
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(outside)
    assert "config.json is a link that leaves the folder" in _problems(folder)


def test_a_link_inside_the_folder_is_a_file(folder: Path) -> None:
    (folder / "config.json").rename(folder / "real.json")
    (folder / "config.json").symlink_to("real.json")
    assert read_manifest(folder) == _manifest(folder)


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert read_manifest(tmp_path / "link") == _manifest(folder)


def test_missing_files_and_wrong_sizes_are_named_at_once(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "onnx" / "model.onnx").write_bytes(b"short")
    message = _problems(folder)
    assert "config.json is missing" in message
    assert "onnx/model.onnx has 5 bytes, the manifest says 35" in message


def test_loading_checks_sizes_and_leaves_hashes_to_verify(folder: Path) -> None:
    written = read_manifest(folder)
    (folder / "onnx" / "model.onnx").write_bytes(b"other" * 7)
    assert read_manifest(folder) == written


def test_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4's example
    assert hash_file(tmp_path / "file") == expected


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path, *(place for key in keys for place in _places(value[key], (*path, key)))]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=300), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=json_values)
def test_whatever_stands_in_a_manifest_it_is_read_or_refused(folder: Path, data: st.DataObject, value: Any) -> None:
    write_manifest(folder, _manifest(folder))
    manifest = json.loads((folder / "crossrank.json").read_text("utf-8"))
    *way, last = data.draw(st.sampled_from(_places(manifest)[1:]))
    target = manifest
    for key in way:
        target = target[key]
    target[last] = value
    (folder / "crossrank.json").write_text(json.dumps(manifest), encoding="utf-8")
    with suppress(ArtifactError):  # and no other error
        read_manifest(folder)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_manifest_that_may_not_be_read_is_refused(folder: Path) -> None:
    (folder / "crossrank.json").chmod(0)
    _problems(folder)
