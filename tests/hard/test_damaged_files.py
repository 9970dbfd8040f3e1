"""Files that no author of a model would leave there: what cannot be read is refused by name, and soon."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crossrank import ArtifactError, CheckpointError, CrossEncoder, CrossrankError, EncodedDocuments
from crossrank._text.tokenizer import PairTokenizer
from crossrank.export import export_model
from tests.support.artifacts import edit_manifest
from tests.support.foreign_graphs import strip_artifact
from tests.support.stored_checkpoints import as_pytorch, sharded, with_vocabulary_alone
from tests.support.tiny_models import make_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files of POSIX systems")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model as people store it: an artifact, foreign graphs, and checkpoints."""
    work = tmp_path_factory.mktemp("models")
    checkpoint = make_checkpoint(work / "checkpoint", "bert")
    artifact = export_model(checkpoint, work / "artifact", variants=["cpu", "portable"], precisions=["fp32"])
    found = {"checkpoint": checkpoint, "artifact": artifact, "foreign": strip_artifact(artifact, work / "foreign")}
    for store in (sharded, as_pytorch, with_vocabulary_alone):
        found[store.__name__] = Path(shutil.copytree(checkpoint, work / store.__name__))
        store(found[store.__name__])
    found["bpe"] = make_checkpoint(work / "bpe", "roberta")
    tokenizer = json.loads((found["bpe"] / "tokenizer.json").read_text("utf-8"))["model"]
    (found["bpe"] / "vocab.json").write_text(json.dumps(tokenizer["vocab"]), "utf-8")
    merges = [" ".join(merge) for merge in tokenizer["merges"]]
    (found["bpe"] / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    (found["bpe"] / "tokenizer.json").unlink()
    return found


@pytest.fixture
def soon() -> Iterator[None]:
    """What waits for ever is ended."""

    def too_late(*_: object) -> None:
        raise TimeoutError("this takes for ever")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def as_folder(path: Path) -> None:
    path.mkdir()


def read_model(folder: Path) -> None:
    CrossEncoder(folder, device="cpu")


def export_checkpoint(folder: Path) -> None:
    export_model(folder, folder.parent / "out" / "artifact", variants=["cpu"], precisions=["fp32"])


READ = [
    *[("artifact", name) for name in ("crossrank.json", "config.json", "tokenizer.json", "onnx/model_cpu_fp32.onnx")],
    *[("foreign", name) for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "modules.json")],
    *[("foreign", name) for name in ("sentence_bert_config.json", "config_sentence_transformers.json")],
    *[("checkpoint", name) for name in ("config.json", "tokenizer.json", "model.safetensors", "vocab.txt")],
    *[("sharded", name) for name in ("model.safetensors.index.json", "model-00001-of-00002.safetensors")],
    ("as_pytorch", "pytorch_model.bin"),
    *[("with_vocabulary_alone", name) for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json")],
    *[("bpe", name) for name in ("vocab.json", "merges.txt")],
]


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("make", [as_pipe, as_device, as_folder])
@pytest.mark.parametrize(("kind", "name"), READ, ids=[f"{kind}-{Path(name).name}" for kind, name in READ])
def test_what_is_no_regular_file_is_refused_and_not_read(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: str, make: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(folders[kind], tmp_path / "model"))
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    read = read_model if kind in ("artifact", "foreign") else export_checkpoint
    with pytest.raises(CrossrankError, match=Path(name).name):
        read(folder)


def test_file_of_encoded_documents_that_is_a_pipe_is_refused(
    folders: dict[str, Path], tmp_path: Path, soon: None
) -> None:
    model = CrossEncoder(folders["artifact"], device="cpu")
    model.encode(["some", "texts"], folder=tmp_path / "texts")
    (tmp_path / "texts" / "ids.npy").unlink()
    as_pipe(tmp_path / "texts" / "ids.npy")
    with pytest.raises(ArtifactError, match=r"ids\.npy .* no regular file"):
        EncodedDocuments.load(tmp_path / "texts")


@pytest.mark.parametrize("length", [1, 2, 3])
def test_manifest_whose_length_leaves_no_room_for_text_is_refused(
    folders: dict[str, Path], tmp_path: Path, length: int
) -> None:
    folder = Path(shutil.copytree(folders["artifact"], tmp_path / "model"))
    edit_manifest(folder, lambda manifest: manifest["inputs"].update(max_length=length))
    with pytest.raises(ArtifactError, match=rf"max_length is {length}, a pair takes 4 tokens and more"):
        CrossEncoder(folder, device="cpu")


@pytest.mark.parametrize(
    ("content", "error"), [("[", ArtifactError), ("[]", ArtifactError), ('{"id2label": {"0": []}}', None)]
)
def test_config_that_is_damaged_is_an_error_when_it_is_asked_for(
    folders: dict[str, Path], tmp_path: Path, content: str, error: type[CrossrankError] | None
) -> None:
    folder = Path(shutil.copytree(folders["artifact"], tmp_path / "model"))
    (folder / "config.json").write_text(content)
    edit_manifest(folder, lambda manifest: manifest["files"]["config.json"].update(size_bytes=len(content)))
    model = CrossEncoder(folder, device="cpu")
    if error is None:
        assert model.config.id2label == {0: "[]"}
    else:
        with pytest.raises(error, match=r"config\.json: .*; download or export the model again"):
            _ = model.config


# Damaged tokenizers.


def panicking(tokenizer: dict[str, Any]) -> None:
    """A pattern that Rust's library of regular expressions gives up on at a long text."""
    split = {"type": "Split", "pattern": {"Regex": "(a*)*$"}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"] = split


def with_large_id(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["vocab"]["s"] = 2**32 - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokenizer: tokenizer["model"].update(unk_token="[OTHER]"), r"takes '\[OTHER\]' for what it does not"),
        (lambda tokenizer: tokenizer["model"]["vocab"].update(a=2**32 - 1), "ids beyond 32 bits"),
        (lambda tokenizer: tokenizer["post_processor"]["special_tokens"]["[CLS]"].update(ids=[2**31]), "beyond 32"),
        (lambda tokenizer: tokenizer["post_processor"]["pair"][0]["SpecialToken"].update(type_id=2**31), "beyond 32"),
        (lambda tokenizer: tokenizer.update(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}), "'?'"),
    ],
)
def test_tokenizer_that_contradicts_itself_is_refused_when_it_is_read(
    folders: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads((folders["checkpoint"] / path.name).read_text("utf-8"))
    change(tokenizer)
    path.write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(CheckpointError, match=message):
        PairTokenizer(path)


@pytest.mark.parametrize(
    ("architecture", "change", "text"),
    [
        ("bert", panicking, "a" * 40 + "c"),
        ("bert", with_large_id, "s"),
        ("xlm-roberta", lambda tokenizer: tokenizer["model"].update(unk_id=None), "☃"),
    ],
)
def test_tokenizer_that_fails_on_a_text_is_an_error_of_ours(
    tmp_path: Path, architecture: str, change: Callable[[dict[str, Any]], object], text: str
) -> None:
    path = make_checkpoint(tmp_path, architecture) / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    change(tokenizer)
    path.write_text(json.dumps(tokenizer), "utf-8")
    read = PairTokenizer(path)
    read.encode(["a"], "document")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: fails on document 7: .* download or export the model"):
        read.encode([text], "document", first=7)
