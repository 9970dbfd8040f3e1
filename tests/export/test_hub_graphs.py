"""Artifacts and ONNX repositories by hub id: what is needed is downloaded, used as it is, and found again offline."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from huggingface_hub import constants

from crossrank import ArtifactError, CrossEncoder, ModelError, ModelNotFoundError
from crossrank._artifact.manifest import read_manifest
from crossrank._proof import verify_artifact
from crossrank.export import export_model
from tests.support.artifacts import edit_manifest
from tests.support.fake_hub import COMMIT, Hub, cached_files, closed_port, environment, serving
from tests.support.foreign_graphs import put_weights_outside, strip_artifact
from tests.support.tiny_models import PAIRS, make_checkpoint, transformers_logits, write_json

# Two float32 graphs of the same weights at logits of standard deviation 1.5: 4e-6 was seen.
ATOL = 2e-5
SOME = [PAIRS[0], *PAIRS[9:14]]
NAME = "someone/ranker"

_LOAD = """
import json, sys
from crossrank import CrossEncoder, CrossrankError
name, options, pairs = json.loads(sys.argv[1])
try:
    model = CrossEncoder(name, **({"device": "cpu"} | options))
    info = model.info()
    logits = model.predict(pairs, activation_fn="identity").reshape(len(pairs), -1).tolist()
    print(json.dumps({"file": info.file, "folder": str(info.folder), "source": info.source, "exporter": info.exporter,
                      "logits": logits}))
except CrossrankError as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny-bert", "bert")


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All graphs that an export makes by default."""
    return export_model(checkpoint, tmp_path_factory.mktemp("artifact") / "tiny-bert", precisions=["fp32", "int8"])


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> Any:
    return transformers_logits(checkpoint, SOME)


def load(home: Path, endpoint: str, name: str = NAME, **options: Any) -> dict[str, Any]:
    """What a model of the hub is and scores, as another process sees it, or why it cannot be had."""
    command = [sys.executable, "-c", _LOAD, json.dumps([name, options, SOME])]
    variables = environment(home, endpoint) | {"CROSSRANK_HOME": str(home / "crossrank")}
    run = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def names(hub: Hub, name: str = NAME) -> set[str]:
    """What was downloaded of a repository."""
    return {path.removeprefix(f"{name}/") for path in hub.fetched}


def test_artifact_is_used_as_it_is_with_the_graph_that_is_needed(
    artifact: Path, hub: Hub, tmp_path: Path, expected: Any
) -> None:
    hub.add(NAME, artifact)
    for other in ("README.md", "model.safetensors", "tensorrt/x/engine.json", "onnx/other.onnx"):
        hub.files[f"{NAME}/{other}"] = b"not asked for"
    found = load(tmp_path, hub.url)
    assert (found["file"], found["exporter"]) == ("onnx/model_cpu_fp32.onnx", "native")
    np.testing.assert_allclose(found["logits"], expected, atol=ATOL)
    manifest = read_manifest(artifact)
    settings = set(manifest.files) - {variant.file for variant in manifest.variants}
    assert names(hub) == {"crossrank.json", "onnx/model_cpu_fp32.onnx", *settings}
    assert Path(found["folder"]) == tmp_path / "hub" / "models--someone--ranker" / "snapshots" / COMMIT
    assert not (tmp_path / "crossrank").exists()  # nothing was exported


def test_another_precision_is_downloaded_beside_the_first_and_auto_stays_the_best(
    artifact: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.add(NAME, artifact)
    assert load(tmp_path, hub.url, precision="int8")["file"] == "onnx/model_cpu_int8.onnx"
    hub.fetched.clear()
    assert load(tmp_path, hub.url)["file"] == "onnx/model_cpu_fp32.onnx"
    assert names(hub) == {"onnx/model_cpu_fp32.onnx"}


def test_artifact_that_is_cached_is_taken_without_asking_the_hub(
    artifact: Path, hub: Hub, tmp_path: Path, expected: Any
) -> None:
    hub.add(NAME, artifact)
    first = load(tmp_path, hub.url)
    hub.asked.clear()
    assert load(tmp_path, hub.url) == first
    assert hub.asked == []
    for options in ({}, {"local_files_only": True}, {"revision": COMMIT}):
        assert load(tmp_path, closed_port(), **options) == first


@pytest.mark.parametrize("file", ["crossrank.json", "tokenizer.json"])
def test_damaged_artifact_says_how_to_download_it_again(artifact: Path, hub: Hub, tmp_path: Path, file: str) -> None:
    hub.add(NAME, artifact)
    first = load(tmp_path, hub.url)
    blob = (Path(first["folder"]) / file).resolve()
    blob.write_bytes(blob.read_bytes()[:1000])
    repository = tmp_path / "hub" / "models--someone--ranker"
    advice = f"remove {repository} and load the model by its hub id, which downloads it again"
    assert load(tmp_path, hub.url)["error"].endswith(advice)
    shutil.rmtree(repository)
    assert load(tmp_path, hub.url) == first


def test_precision_that_an_artifact_lacks_is_made_from_its_checkpoint(artifact: Path, hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, artifact)
    error = load(tmp_path, hub.url, precision="fp16")["error"]
    assert "take one of these, export the checkpoint that it comes from with export_model(variants=, pre" in error


def test_graph_that_is_not_cached_is_named_offline(artifact: Path, hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, artifact)
    load(tmp_path, hub.url)
    hub.asked.clear()
    for endpoint, offline in ((hub.url, True), (closed_port(), False)):
        error = load(tmp_path, endpoint, precision="int8", local_files_only=offline)["error"]
        assert error.startswith(f"ModelNotFoundError: {NAME}: the hub is offline or does not answer, and its cache ")
        assert "lacks onnx/model_cpu_int8.onnx. Allow downloads, check the connection, or take another" in error
    assert hub.asked == []


def test_graph_that_the_artifact_does_not_hold_is_refused_before_it_is_downloaded(
    artifact: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.add(NAME, artifact)
    error = load(tmp_path, hub.url, precision="fp16")["error"]
    assert error.startswith("ArtifactError: no graph for device cpu with precision 'fp16': there is cpu fp32, ")
    assert names(hub) == {"crossrank.json"}


def test_artifacts_weights_outside_of_its_graph_come_with_it(
    artifact: Path, hub: Hub, tmp_path: Path, expected: Any
) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "outside"))
    graph = folder / "onnx" / "model.onnx"
    put_weights_outside(graph, "model.onnx_data")
    (folder / "onnx" / "weights.bin").rename(folder / "onnx" / "model.onnx_data")

    def record(manifest: dict[str, Any]) -> None:
        for name in ("onnx/model.onnx", "onnx/model.onnx_data"):
            manifest["files"][name] = {"size_bytes": (folder / name).stat().st_size, "sha256": ""}
        manifest["variants"] = [each for each in manifest["variants"] if each["variant"] == "portable"]

    edit_manifest(folder, record)
    hub.add(NAME, folder)
    found = load(tmp_path / "home", hub.url)
    np.testing.assert_allclose(found["logits"], expected, atol=ATOL)
    assert {"onnx/model.onnx", "onnx/model.onnx_data"} < names(hub)


def test_damaged_manifest_of_the_hub_asks_for_nothing_else(artifact: Path, hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, artifact)
    manifest = json.loads(hub.files[f"{NAME}/crossrank.json"])
    manifest["head"]["labels"] = "many"
    hub.files[f"{NAME}/crossrank.json"] = json.dumps(manifest).encode()
    assert "head.labels is 'many'; int expected" in load(tmp_path, hub.url)["error"]
    assert names(hub) == {"crossrank.json"}


def test_names_in_a_manifest_are_no_patterns(artifact: Path, hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, artifact)
    hub.files[f"{NAME}/secret.txt"] = b"not asked for"
    manifest = json.loads(hub.files[f"{NAME}/crossrank.json"])
    manifest["files"]["*"] = {"size_bytes": 1, "sha256": ""}
    hub.files[f"{NAME}/crossrank.json"] = json.dumps(manifest).encode()
    assert "* is missing" in load(tmp_path, hub.url)["error"]
    assert "secret.txt" not in names(hub)


# Repositories with ONNX files and no weights.


@pytest.fixture
def foreign(artifact: Path, tmp_path: Path) -> Path:
    """The layout of many repositories: one graph in several precisions, beside the model's settings."""
    folder = strip_artifact(artifact, tmp_path / "foreign")
    for name in ("model_quantized", "model_fp16", "model_q4"):
        model = onnx.load(folder / "onnx" / "model.onnx")
        model.doc_string = name  # or the cache has it already
        onnx.save(model, folder / "onnx" / f"{name}.onnx")
    return folder


def test_onnx_repository_is_used_as_it_is_with_the_graph_that_is_needed(
    foreign: Path, hub: Hub, tmp_path: Path, expected: Any
) -> None:
    hub.add(NAME, foreign)
    for other in ("README.md", "quantize_config.json", "onnx/notes.txt", "vocab.bin"):
        hub.files[f"{NAME}/{other}"] = b"not asked for"
    settings = {"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    found = load(tmp_path, hub.url)
    assert (found["file"], found["exporter"]) == ("onnx/model.onnx", "foreign")
    assert found["source"] == f"{NAME} at {COMMIT}"
    np.testing.assert_allclose(found["logits"], expected, atol=ATOL)
    assert names(hub) == settings | {"onnx/model.onnx"}
    hub.fetched.clear()
    assert load(tmp_path, hub.url, precision="int8")["file"] == "onnx/model_quantized.onnx"
    assert names(hub) == {"onnx/model_quantized.onnx"}
    assert not (tmp_path / "crossrank").exists()


def test_onnx_repository_is_found_offline(foreign: Path, hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, foreign)
    first = load(tmp_path, hub.url)
    hub.asked.clear()
    assert load(tmp_path, hub.url, local_files_only=True) == first
    assert hub.asked == []
    assert load(tmp_path, closed_port()) == first


@pytest.mark.parametrize("data", ["weights.bin", "model.onnx_data"])
def test_weights_outside_of_a_graph_come_with_it(
    foreign: Path, hub: Hub, tmp_path: Path, data: str, expected: Any
) -> None:
    put_weights_outside(foreign / "onnx" / "model.onnx", data)
    (foreign / "onnx" / "weights.bin").rename(foreign / "onnx" / data)
    hub.add(NAME, foreign)
    np.testing.assert_allclose(load(tmp_path, hub.url)["logits"], expected, atol=ATOL)
    assert f"onnx/{data}" in names(hub)
    assert "onnx/model_fp16.onnx" not in names(hub)


@pytest.mark.parametrize("place", ["/etc/hostname", "../../weights.bin", "C:\\weights.bin", ""])
def test_weights_that_a_graph_has_elsewhere_are_refused(foreign: Path, hub: Hub, tmp_path: Path, place: str) -> None:
    put_weights_outside(foreign / "onnx" / "model.onnx", place)
    hub.add(NAME, foreign)
    assert load(tmp_path, hub.url)["error"].startswith("ArtifactError: ")


def test_only_graph_of_a_repository_may_have_any_name(artifact: Path, hub: Hub, tmp_path: Path, expected: Any) -> None:
    folder = strip_artifact(artifact, tmp_path / "foreign")
    (folder / "onnx" / "model.onnx").rename(folder / "reranker[1].onnx")
    hub.add(NAME, folder)
    found = load(tmp_path / "home", hub.url)
    assert found["file"] == "reranker[1].onnx"
    np.testing.assert_allclose(found["logits"], expected, atol=ATOL)


@pytest.mark.parametrize("place", ["0_Transformer", "encoder"])
def test_onnx_repository_of_several_modules_is_found_by_its_list(
    artifact: Path, hub: Hub, tmp_path: Path, expected: Any, place: str
) -> None:
    folder = tmp_path / "modules"
    strip_artifact(artifact, folder / place)
    kind = "sentence_transformers.models.Transformer"
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": place, "type": kind}])
    write_json(folder / place / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
    hub.add(NAME, folder)
    found = load(tmp_path / "home", hub.url)
    assert found["file"] == f"{place}/onnx/model.onnx"
    np.testing.assert_allclose(found["logits"], expected, atol=ATOL)


def test_repository_with_weights_is_exported_though_it_holds_graphs(
    checkpoint: Path, foreign: Path, hub: Hub, tmp_path: Path, expected: Any
) -> None:
    """Even where the hub's cache holds its graphs alone, as another library left them."""
    hub.add(NAME, foreign)
    load(tmp_path, hub.url)
    hub.add(NAME, checkpoint)
    # The list of a commit's files, which the hub's library keeps: here the commit is still the same.
    shutil.rmtree(tmp_path / "hub" / "models--someone--ranker" / "trees", ignore_errors=True)
    hub.fetched.clear()
    found = load(tmp_path, hub.url)
    assert found["exporter"] == "native"
    np.testing.assert_allclose(found["logits"], expected, atol=ATOL)
    assert "model.safetensors" in names(hub)
    assert not {name for name in names(hub) if name.endswith(".onnx")}


def test_repository_that_is_none_of_these_says_what_it_says_without_graphs(hub: Hub, tmp_path: Path) -> None:
    hub.files["someone/private/config.json"] = b"{}"
    assert "access refused, HTTP 403" in load(tmp_path, hub.url, "someone/private")["error"]
    assert "no such repository" in load(tmp_path, hub.url, "someone/absent")["error"]


_EXPORT = """
import sys
from crossrank import CrossrankError
from crossrank.export import export_model
try:
    export_model(sys.argv[1], sys.argv[2], local_files_only=sys.argv[3] == "offline")
except CrossrankError as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("how", ["online", "offline"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("artifact", "is an exported artifact and no checkpoint"),
        ("foreign", "holds ONNX files without weights to export"),
    ],
)
def test_export_of_a_repository_that_needs_none_says_so(
    artifact: Path, foreign: Path, hub: Hub, tmp_path: Path, kind: str, message: str, how: str
) -> None:
    hub.add(NAME, artifact if kind == "artifact" else foreign)
    if how == "offline":
        load(tmp_path / "home", hub.url)
    endpoint = hub.url if how == "online" else closed_port()
    command = [sys.executable, "-c", _EXPORT, NAME, str(tmp_path / "out"), how]
    done = subprocess.run(command, env=environment(tmp_path / "home", endpoint), capture_output=True, text=True)
    assert done.stdout == (
        f"ModelNotFoundError: {NAME} {message}: CrossEncoder('{NAME}') and crossrank -m {NAME} take it as it is\n"
    ), done.stderr
    assert not (tmp_path / "out").exists()
    if how == "online":
        assert not {name for name in names(hub) if name.endswith(".onnx")}


# In the hub's cache, laid out by hand.


@pytest.fixture
def snapshot(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact as the hub's library keeps it: files named by their hash, and links to them."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "models--someone--ranker"
    folder = root / "snapshots" / COMMIT
    (root / "blobs").mkdir(parents=True)
    for i, name in enumerate(sorted(cached_files(str(artifact)))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact / name, root / "blobs" / f"{i:040x}")
        (folder / name).symlink_to(Path("../" * (2 + name.count("/"))) / "blobs" / f"{i:040x}")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    return folder


def scores(place: Path | str, **options: Any) -> Any:
    return CrossEncoder(place, device="cpu", **options).predict(SOME, activation_fn="identity").reshape(len(SOME), -1)


def test_artifact_behind_the_links_of_the_hubs_cache_is_read(snapshot: Path, expected: Any) -> None:
    for place in (snapshot, snapshot / "onnx" / "model.onnx"):
        np.testing.assert_allclose(scores(place), expected, atol=ATOL)
    np.testing.assert_allclose(scores(NAME, local_files_only=True), expected, atol=ATOL)
    manifest, skipped = verify_artifact(snapshot)
    assert len(manifest.variants) + len(skipped) >= 3


def test_absolute_links_of_the_hubs_cache_are_read(snapshot: Path, expected: Any) -> None:
    """As the library makes them where the cache lies on several disks."""
    for path in [path for path in snapshot.rglob("*") if path.is_symlink()]:
        target = path.resolve()
        path.unlink()
        path.symlink_to(target)
    np.testing.assert_allclose(scores(snapshot), expected, atol=ATOL)


@pytest.mark.parametrize("place", ["../../../outside", "../../refs/main", "../../blobs/../../outside", "../../blobs"])
def test_links_out_of_the_hubs_cache_are_refused(snapshot: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "hub" / "outside").write_bytes((snapshot / "config.json").read_bytes())
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(place)
    with pytest.raises(ArtifactError, match=r"config\.json is (a link that leaves the folder|missing)"):
        CrossEncoder(snapshot)


def test_links_of_a_folder_that_only_looks_like_the_hubs_cache_are_refused(snapshot: Path, tmp_path: Path) -> None:
    other = tmp_path / "hub" / "models--someone--ranker" / "elsewhere"
    snapshot.parent.rename(other)
    with pytest.raises(ArtifactError, match="is a link that leaves the folder"):
        CrossEncoder(other / COMMIT)


def test_part_of_an_artifact_is_used_for_what_it_holds_and_names_what_it_lacks(snapshot: Path, expected: Any) -> None:
    (snapshot / "onnx" / "model_cpu_int8.onnx").unlink()
    np.testing.assert_allclose(scores(snapshot), expected, atol=ATOL)
    with pytest.raises(ArtifactError, match=r"model_cpu_int8\.onnx is absent: .* name the model by its hub id"):
        scores(snapshot, precision="int8")
    with pytest.raises(ModelNotFoundError, match=r"lacks onnx/model_cpu_int8\.onnx"):
        scores(NAME, precision="int8", local_files_only=True)
    _, skipped = verify_artifact(snapshot)
    assert any("cpu int8 did not run here" in reason and "is absent" in reason for reason in skipped)
    (snapshot / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        scores(snapshot)
