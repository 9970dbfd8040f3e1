"""A checkpoint folder is known by the content of its files, whatever their times and sizes say."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from crossrank import CheckpointError, CrossEncoder, UnsupportedModelError
from crossrank._artifact.held import Stamp
from crossrank.export import export_model
from crossrank.export._read.content import hash_files, read_known, settled, stamp_files
from crossrank.export._read.source import describe_source
from tests.support.checkpoint_files import read_tensors, write_tensors
from tests.support.references import reference
from tests.support.tiny_models import PAIRS, make_checkpoint, transformers_logits

torch = reference("torch")

EPOCH = 315532800  # 1980, which reproducible images give every file
LONG_AGO = {"a": (1, 2, 3, 10**18, 10**18)}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "model", "bert")


@pytest.fixture
def checkpoint(bert: Path, tmp_path: Path) -> Path:
    """A copy of `bert` to change."""
    return Path(shutil.copytree(bert, tmp_path / "model"))


def with_one_time(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (EPOCH, EPOCH))


def key_of(folder: Path, cache: Path | None = None) -> str:
    return describe_source(str(folder), None, cache).cache_key


def retrain(folder: Path) -> None:
    tensors = read_tensors(folder)
    write_tensors(folder, {name: value * np.float32(1.25) for name, value in tensors.items()})


@pytest.mark.parametrize("renamed", [True, False])
def test_retrained_model_of_equal_sizes_and_times_is_exported_anew(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    """In the place of the old files, or written over them."""
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "cache"))
    with_one_time(checkpoint)

    def logits() -> NDArray[np.float32]:
        scores: NDArray[np.float32] = CrossEncoder(checkpoint, device="cpu").predict(PAIRS, activation_fn="identity")
        return scores[:, None]

    np.testing.assert_allclose(logits(), transformers_logits(checkpoint, PAIRS), atol=2e-5)
    before = (checkpoint / "model.safetensors").stat()
    if renamed:
        shutil.copytree(checkpoint, tmp_path / "new")
        retrain(tmp_path / "new")
        shutil.rmtree(checkpoint)
        (tmp_path / "new").rename(checkpoint)
    else:
        content = tmp_path / "content"
        content.mkdir()
        shutil.copyfile(checkpoint / "model.safetensors", content / "model.safetensors")
        retrain(content)
        with (checkpoint / "model.safetensors").open("r+b") as file:
            file.write((content / "model.safetensors").read_bytes())
    with_one_time(checkpoint)
    after = (checkpoint / "model.safetensors").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    np.testing.assert_allclose(logits(), transformers_logits(checkpoint, PAIRS), atol=2e-5)


def test_files_that_were_only_touched_are_not_exported_again(checkpoint: Path, tmp_path: Path) -> None:
    before = key_of(checkpoint, tmp_path / "cache")
    with_one_time(checkpoint)
    assert key_of(checkpoint, tmp_path / "cache") == before == key_of(checkpoint)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "model_O4.onnx", "pytorch_model.bin", "README.md", "tf_model.h5"])
def test_files_that_an_export_does_not_read_change_nothing(checkpoint: Path, name: str) -> None:
    before = key_of(checkpoint)
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_bytes(b"something")
    assert key_of(checkpoint) == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "adapter_model.bin"])
def test_files_that_an_export_may_read_count(checkpoint: Path, name: str) -> None:
    before = key_of(checkpoint)
    with (checkpoint / name).open("ab") as file:
        file.write(b"\n")
    assert key_of(checkpoint) != before


def test_chat_template_that_was_added_to_a_cached_checkpoint_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "cache"))
    CrossEncoder(checkpoint, device="cpu")
    templates = checkpoint / "additional_chat_templates"
    templates.mkdir()
    (templates / "rerank.jinja").write_text("{{ query }}")
    with pytest.raises(UnsupportedModelError, match="additional_chat_templates: a chat template"):
        CrossEncoder(checkpoint, device="cpu")


def test_pytorch_weights_count_where_there_are_no_others(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    before = key_of(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(b"others")
    assert key_of(checkpoint) != before


@pytest.mark.parametrize("beside", ["adapter_model.safetensors", "model-00001-of-00002.safetensors"])
def test_pytorch_weights_count_beside_safetensors_that_are_not_the_models(checkpoint: Path, beside: str) -> None:
    """Such as an adapter's, or shards whose index was left behind."""
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    (checkpoint / beside).write_bytes(b"something")
    before = key_of(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(b"others")
    assert key_of(checkpoint) != before


def test_base_model_that_was_retrained_beside_its_adapter_is_exported_anew(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "cache"))
    tensors, rng = read_tensors(checkpoint), np.random.default_rng(0)
    (checkpoint / "model.safetensors").unlink()
    layer = "bert.encoder.layer.0.attention.self.query"
    width = tensors[f"{layer}.weight"].shape[0]
    adapter = {"lora_A": rng.standard_normal((2, width)), "lora_B": rng.standard_normal((width, 2))}
    save_file(
        {f"base_model.model.{layer}.{name}.weight": part.astype(np.float32) for name, part in adapter.items()},
        checkpoint / "adapter_model.safetensors",
    )
    options = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["query"]}
    (checkpoint / "adapter_config.json").write_text(json.dumps(options), encoding="utf-8")

    def logits_of(base: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        torch.save({name: torch.from_numpy(value) for name, value in base.items()}, checkpoint / "pytorch_model.bin")
        model = CrossEncoder(checkpoint, device="cpu", precision="fp32")
        logits: NDArray[np.float32] = model.predict(PAIRS, activation_fn="identity")
        return logits

    before = logits_of(tensors)
    retrained = tensors | {"classifier.bias": tensors["classifier.bias"] + np.float32(5)}
    np.testing.assert_allclose(logits_of(retrained), before + 5, atol=2e-5)


def test_name_of_any_length_has_a_place_in_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / ("長" * 80)
    folder.mkdir()
    assert len(os.fsencode(key_of(folder))) < 200


# Large files.


def digest(path: Path) -> str:
    stamps = stamp_files(path.parent)
    return hash_files(path.parent, stamps, {}, whole_bytes=0)[path.name]


def save(path: Path, tensors: dict[str, NDArray[np.float32]]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    os.utime(path, (EPOCH, EPOCH))
    return path


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(matrix=t["matrix"] * np.float32(1.001)),  # a matrix that was trained
        lambda t: t["head"].__setitem__(7, 1.0),  # one value of a small tensor
        lambda t: t["bias"].__setitem__(0, 1.0),
        lambda t: t.update(other=t.pop("bias")),  # no value, but a name
    ],
)
def test_samples_of_a_large_file_see_what_training_changes(
    tmp_path: Path, name: str, change: Callable[[dict[str, NDArray[np.float32]]], object]
) -> None:
    rng = np.random.default_rng(0)
    tensors = {"matrix": rng.normal(size=(700, 300)), "head": rng.normal(size=300), "bias": np.zeros(3)}
    floats = {name: value.astype(np.float32) for name, value in tensors.items()}
    before = digest(save(tmp_path / name, floats))
    assert digest(save(tmp_path / name, floats)) == before
    change(floats)
    assert digest(save(tmp_path / name, floats)) != before


def test_time_of_a_large_file_counts_too(tmp_path: Path) -> None:
    """For an edit of a few rows, which no sample may meet."""
    path = save(tmp_path / "model.safetensors", {"matrix": np.zeros((700, 300), np.float32)})
    before = digest(path)
    os.utime(path, (EPOCH + 1, EPOCH + 1))
    assert digest(path) != before


@pytest.mark.parametrize(
    "content",
    [
        b"short",
        b"\xff" * 9000,
        (100).to_bytes(8, "little") + b"{" * 9000,
        (25).to_bytes(8, "little") + b'{"a":{"data_offsets":1}} ' + bytes(9000),
        (39).to_bytes(8, "little") + b'{"a":{"data_offsets":[0, 99999999999]}}' + bytes(9000),
    ],
)
def test_large_file_that_is_damaged_has_a_digest_too(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    before = digest(tmp_path / "model.safetensors")
    os.utime(tmp_path / "model.safetensors", (EPOCH, EPOCH))
    assert digest(tmp_path / "model.safetensors") != before


# What is kept of a folder.


def test_files_with_the_stamps_of_kept_hashes_are_not_read(checkpoint: Path) -> None:
    stamps = stamp_files(checkpoint)
    known = {name: (stamp, f"kept {name}") for name, stamp in stamps.items()}
    assert hash_files(checkpoint, stamps, known) == {name: f"kept {name}" for name in stamps}
    changed = {name: ((*stamp[:4], stamp[4] - 1), digest) for name, (stamp, digest) in known.items()}  # its ctime alone
    assert not any(digest.startswith("kept") for digest in hash_files(checkpoint, stamps, changed).values())


def test_hashes_are_kept_once_the_files_are_settled(checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    key = key_of(checkpoint, cache)
    (record,) = (cache / "folders").iterdir()
    kept = json.loads(record.read_text("utf-8"))
    assert (kept["folder"], kept["key"], kept["files"]) == (str(checkpoint.resolve()), key, {})  # changed just now
    time.sleep(2.1)
    assert key_of(checkpoint, cache) == key
    stamps = stamp_files(checkpoint)
    hashes = hash_files(checkpoint, stamps, {})
    assert read_known(record) == {name: (stamps[name], hashes[name]) for name in stamps}


@pytest.mark.parametrize(("age_s", "expected"), [(1.0, False), (3.0, True)])
def test_settled_is_what_did_not_change_for_two_seconds(age_s: float, expected: bool) -> None:
    stamps: dict[str, Stamp] = dict(LONG_AGO)
    assert settled(stamps, 10**9 + age_s) == expected


@pytest.mark.parametrize("text", ["", "[]", '{"files": 1}', '{"files": {"a": 1}}', '{"files": {"a": [["x"], "y"]}}'])
def test_damaged_record_is_written_anew(checkpoint: Path, tmp_path: Path, text: str) -> None:
    cache = tmp_path / "cache"
    key = key_of(checkpoint, cache)
    (record,) = (cache / "folders").iterdir()
    record.write_text(text, encoding="utf-8")
    assert key_of(checkpoint, cache) == key
    assert json.loads(record.read_text("utf-8"))["key"] == key


def test_cache_that_cannot_be_written_is_done_without(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    assert key_of(checkpoint, tmp_path / "cache") == key_of(checkpoint)


@pytest.mark.parametrize("stage", ["build cpu fp32", "prove the graphs"])
def test_folder_that_changes_while_it_is_exported_is_refused(checkpoint: Path, tmp_path: Path, stage: str) -> None:
    """Its artifact would have the name of the old content."""

    def write(name: str, seconds: float | None) -> None:
        if name == stage and seconds is None:
            retrain(checkpoint)

    with pytest.raises(CheckpointError, match=r"model\.safetensors changed while the folder was exported"):
        export_model(checkpoint, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"], report=write)
    assert not (tmp_path / "artifact").exists()


def test_small_tensors_of_a_real_file_are_hashed_whole(checkpoint: Path) -> None:
    """One bias in the middle of the file."""
    before = digest(checkpoint / "model.safetensors")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["bert.encoder.layer.0.output.dense.bias"][5] += 1
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    assert digest(checkpoint / "model.safetensors") != before
