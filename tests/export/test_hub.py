"""Models by name: the hub library's cache, downloads, what goes wrong, and what the published models score.

The last part downloads (`make test-hub`). The others need no network: they lay out the hub's cache by hand, or
serve a hub of their own on this machine.
"""

import hashlib
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants, get_session
from numpy.typing import NDArray

from crossrank import CrossEncoder, InputError, ModelNotFoundError
from crossrank._artifact.manifest import read_manifest
from crossrank._machine.device import Device
from crossrank.export import ensure_artifact, export_model
from crossrank.export._architectures.registry import architectures
from crossrank.export._read.source import describe_source, fetch_checkpoint
from crossrank.models import find_model
from tests.support.fake_hub import COMMIT, Hub, cached_files, closed_port, environment, serving
from tests.support.references import reference
from tests.support.tiny_models import PAIRS, make_checkpoint, transformers_logits

torch = reference("torch")
torch_files = reference("safetensors.torch")

OTHER_COMMIT, ABSENT_COMMIT = "b" * 40, "c" * 40
# Against transformers' float32 logits, as in tests/export/test_export.py.
TOLERANCE = 2e-5


def logits_of(model: CrossEncoder) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = model.predict(list(PAIRS), activation_fn="identity")
    return scores.reshape(len(PAIRS), -1)


def lay_out(cache: Path, name: str, commits: dict[str, Path], refs: dict[str, str]) -> None:
    """A model in the hub's cache as the hub library leaves it: blobs, snapshots of links, refs.

    Args:
        cache: The cache.
        name: Hub id.
        commits: The folder of each commit's files, to which the blobs are links.
        refs: The commit of each branch or pull request.
    """
    root = cache / f"models--{name.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True)
    for commit, source in commits.items():
        snapshot = root / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for file in filter(Path.is_file, source.iterdir()):
            blob = hashlib.sha1(f"{commit} {file.name}".encode()).hexdigest()
            (root / "blobs" / blob).symlink_to(file)
            (snapshot / file.name).symlink_to(Path("../../blobs", blob))
    for ref, commit in refs.items():
        (root / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (root / "refs" / ref).write_text(commit, encoding="utf-8")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny"), "bert")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("other"), "bert", seed=1)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub library's own; what HF_HUB_CACHE says when it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


# From the cache, offline.


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "distilbert"])
def test_cached_model_is_exported_by_its_name_and_equals_transformers(
    architecture: str, hub_cache: Path, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture)
    lay_out(hub_cache, "someone/tiny-ranker", {COMMIT: checkpoint}, {"main": COMMIT})
    artifact = export_model(
        "someone/tiny-ranker", tmp_path / "artifact", variants=["cpu"], precisions=["fp32"], local_files_only=True
    )
    source = read_manifest(artifact).source
    assert (source.name, source.revision) == ("someone/tiny-ranker", COMMIT)
    ours = logits_of(CrossEncoder(artifact, device="cpu"))
    np.testing.assert_allclose(ours, transformers_logits(checkpoint, PAIRS), rtol=0, atol=TOLERANCE)


def test_graph_that_nobody_makes_is_taken_from_a_repository_that_has_it(
    tiny: Path, hub_cache: Path, tmp_path: Path
) -> None:
    """As from a folder of it: an int8 graph for a GPU."""
    folder = Path(shutil.copytree(tiny, tmp_path / "repository"))
    (folder / "model.safetensors").unlink()
    (folder / "model_quantized.onnx").touch()
    lay_out(hub_cache, "someone/graphs", {COMMIT: folder}, {"main": COMMIT})
    lay_out(hub_cache, "someone/weights", {COMMIT: tiny}, {"main": COMMIT})

    def find(name: str) -> Path:
        return ensure_artifact(
            *(name,), cache_folder=tmp_path / "cache", revision=None, local_files_only=True, token=None,
            precision="int8", device=Device("cuda"),
        )  # fmt: skip

    assert find("someone/graphs") == hub_cache / "models--someone--graphs" / "snapshots" / COMMIT
    for other in ("someone/weights", "cross-encoder/ms-marco-TinyBERT-L2", str(tiny)):
        with pytest.raises(InputError, match="precision='int8' on cuda:0: the native exporter makes no such graph"):
            find(other)


def test_registered_model_is_taken_at_its_pinned_commit_by_any_of_its_names(
    tiny: Path, other: Path, hub_cache: Path, tmp_path: Path
) -> None:
    registered = find_model("cross-encoder/ms-marco-TinyBERT-L2")
    assert registered is not None
    assert registered.revision is not None
    lay_out(hub_cache, registered.id, {registered.revision: tiny, OTHER_COMMIT: other}, {"main": OTHER_COMMIT})
    model = CrossEncoder(
        "sentence-transformers/ce-ms-marco-TinyBERT-L-2", local_files_only=True, cache_folder=tmp_path, device="cpu"
    )
    assert read_manifest(model.info().folder).source.revision == registered.revision
    np.testing.assert_allclose(logits_of(model), transformers_logits(tiny, PAIRS), rtol=0, atol=TOLERANCE)


def test_branches_pull_requests_and_commits_choose_the_revision(tiny: Path, other: Path, hub_cache: Path) -> None:
    name, folders = "someone/tiny-ranker", {COMMIT: tiny, OTHER_COMMIT: other}
    lay_out(hub_cache, name, folders, {"main": COMMIT, "experiment": OTHER_COMMIT, "refs/pr/1": OTHER_COMMIT})
    for revision in (None, "experiment", "refs/pr/1", COMMIT, OTHER_COMMIT):
        commit = COMMIT if revision in (None, COMMIT) else OTHER_COMMIT
        folder, found = fetch_checkpoint(describe_source(name, revision), local_files_only=True, token=None)
        assert found == commit
        assert (folder / "model.safetensors").resolve().parent == folders[commit]


def test_commit_that_is_not_cached_is_refused_offline_with_the_cache_that_was_searched(
    tiny: Path, hub_cache: Path, tmp_path: Path
) -> None:
    lay_out(hub_cache, "someone/tiny-ranker", {COMMIT: tiny}, {"main": COMMIT})
    with pytest.raises(ModelNotFoundError) as caught:
        export_model("someone/tiny-ranker", tmp_path / "artifact", revision=ABSENT_COMMIT, local_files_only=True)
    assert str(caught.value) == (
        f"someone/tiny-ranker at revision {ABSENT_COMMIT} could not be had from the hub (offline: at this revision it "
        f'is not in its cache {hub_cache}, which has it at main ({COMMIT})). Take that: revision="main" (in a shell '
        f"--revision main); or allow downloads"
    )


@pytest.mark.parametrize(
    ("refs", "shown", "first"),
    [
        ({"main": COMMIT}, f"main ({COMMIT})", "main"),
        ({"v2": OTHER_COMMIT, "main": COMMIT}, f"main ({COMMIT}), v2 ({OTHER_COMMIT})", "main"),
        ({}, f"{COMMIT}, {OTHER_COMMIT}", COMMIT),
    ],
)
def test_registered_name_that_is_cached_at_other_revisions_names_them(
    tiny: Path, other: Path, hub_cache: Path, tmp_path: Path, refs: dict[str, str], shown: str, first: str
) -> None:
    """As sentence-transformers leaves it, which takes the newest where the registry pins one."""
    name = "cross-encoder/ms-marco-MiniLM-L6-v2"
    folders = {COMMIT: tiny, OTHER_COMMIT: other} if len(refs) != 1 else {COMMIT: tiny}
    lay_out(hub_cache, name, folders, refs)
    with pytest.raises(ModelNotFoundError) as caught:
        CrossEncoder(name, local_files_only=True, cache_folder=tmp_path / "cache")
    assert f'which has it at {shown}). Take that: revision="{first}" (in a shell --revision {first})' in str(
        caught.value
    )
    model = CrossEncoder(name, local_files_only=True, cache_folder=tmp_path / "cache", revision=first, device="cpu")
    np.testing.assert_allclose(logits_of(model), transformers_logits(tiny, PAIRS), rtol=0, atol=TOLERANCE)


def test_graph_that_is_added_is_of_the_commit_of_the_others(
    tiny: Path, other: Path, hub_cache: Path, tmp_path: Path
) -> None:
    """The branch moved on between two loads."""
    lay_out(hub_cache, "someone/tiny-ranker", {COMMIT: tiny, OTHER_COMMIT: other}, {"main": COMMIT})
    options: dict[str, Any] = {"local_files_only": True, "cache_folder": tmp_path / "cache", "device": "cpu"}
    CrossEncoder("someone/tiny-ranker", **options)
    (hub_cache / "models--someone--tiny-ranker" / "refs" / "main").write_text(OTHER_COMMIT, encoding="utf-8")
    model = CrossEncoder("someone/tiny-ranker", precision="int8", **options)
    assert read_manifest(model.info().folder).source.revision == COMMIT
    np.testing.assert_allclose(logits_of(model), transformers_logits(tiny, PAIRS), rtol=0, atol=0.3)  # int8's


@pytest.mark.parametrize("name", ["no/such/folder", "./reranker", "/no/such/folder", "~/reranker", "../models", "a\\b"])
def test_what_can_only_be_a_folder_is_called_a_missing_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ModelNotFoundError, match=f"^{re.escape(name)}: no such folder"):
        CrossEncoder(name)


def test_missing_folder_that_could_be_a_hub_id_is_called_both(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "ranker-1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError) as caught:
        CrossEncoder("models/reranker", local_files_only=True)
    assert str(caught.value).startswith(
        f"there is no folder {tmp_path}/models/reranker (models holds ranker-1), and as a hub id models/reranker could "
        f"not be had from the hub (offline: it is not in its cache {hub_cache}). "
    )
    with pytest.raises(ModelNotFoundError) as caught:
        CrossEncoder("someone/reranker", local_files_only=True)
    assert str(caught.value).endswith(f"; if a folder is meant: there is no {tmp_path}/someone/reranker")


@pytest.mark.parametrize(
    "name",
    ["vocab.txt", "pytorch_model.bin", "spm.model", "modules.json", "a/b/model.safetensors", "a/b/config.json"],
)
def test_change_of_any_file_that_is_read_gives_a_folder_another_place_in_the_cache(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    transformer = '[{"type": "sentence_transformers.models.Transformer", "path": "a/b"}]'
    (tmp_path / "modules.json").write_text(transformer if "/" in name else "[]", encoding="utf-8")
    (tmp_path / name).write_text("one", encoding="utf-8")
    before = describe_source(str(tmp_path), None).cache_key
    (tmp_path / name).write_text("another", encoding="utf-8")
    assert describe_source(str(tmp_path), None).cache_key != before


# From a hub of our own.


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        yield server


_FETCH = """
import json, sys
from crossrank import CrossrankError
from crossrank.export._read.source import describe_source, fetch_checkpoint
name, revision, token = json.loads(sys.argv[1])
try:
    print(fetch_checkpoint(describe_source(name, revision), local_files_only=False, token=token)[0])
except CrossrankError as error:
    print(error)
"""


def fetch(
    home: Path, endpoint: str, name: str, revision: str | None = None, *, token: str | None = None, prefix: str = ""
) -> str:
    """The folder of a checkpoint, or why it cannot be had, as another process sees a hub and a cache."""
    command = [*prefix.split(), sys.executable, "-c", _FETCH, json.dumps([name, revision, token])]
    run = subprocess.run(command, env=environment(home, endpoint), capture_output=True, text=True, check=True)
    return run.stdout.strip()


def with_torch_weights(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint as it was published before there were safetensors."""
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(torch_files.load_file(checkpoint / "model.safetensors"), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_download_takes_what_an_export_reads_and_the_export_equals_transformers(
    weights: str, tiny: Path, hub: Hub, hub_cache: Path, tmp_path: Path
) -> None:
    name, old = "someone/tiny-ranker", weights == "pytorch_model.bin"
    hub.add(name, with_torch_weights(tiny, tmp_path / "old") if old else tiny)
    wanted = set(hub.files)
    for path in (
        *("LICENSE", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "training_args.bin"),
        *("onnx/model.onnx", "onnx/model_O4.onnx", "openvino/openvino_model.bin", "openvino/openvino_model.xml"),
    ):
        hub.files.setdefault(f"{name}/{path}", b"not asked for")
    folder = fetch(hub_cache.parent, hub.url, name)
    assert Path(folder) == hub_cache / "models--someone--tiny-ranker" / "snapshots" / COMMIT
    assert {f"{name}/{path}" for path in cached_files(folder)} == wanted
    assert sorted(hub.fetched) == sorted(wanted)
    artifact = export_model(name, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"], local_files_only=True)
    ours = logits_of(CrossEncoder(artifact, device="cpu"))
    np.testing.assert_allclose(ours, transformers_logits(tiny, PAIRS), rtol=0, atol=TOLERANCE)


def test_sharded_pytorch_files_and_old_vocabularies_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    wanted = {"config.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json"}
    wanted |= {"sentencepiece.bpe.model", "spm.model", "spiece.model"}
    wanted |= {"pytorch_model.bin.index.json", *(f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2))}
    for path in {*wanted, "tf_model.h5", "onnx/model.onnx", "openvino/openvino_model.bin"}:
        hub.files[f"someone/old-ranker/{path}"] = b"{}"
    assert cached_files(fetch(tmp_path, hub.url, "someone/old-ranker")) == wanted


def test_what_changes_scores_beside_the_weights_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    wanted = {"config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors"}
    wanted |= {"adapter_model.bin", "chat_template.jinja", "additional_chat_templates/rerank.jinja"}
    for path in {*wanted, "LICENSE", "adapter_model.msgpack"}:
        hub.files[f"someone/adapted/{path}"] = b"{}"
    assert cached_files(fetch(tmp_path, hub.url, "someone/adapted")) == wanted


def add_modules(hub: Hub, files: Collection[str], *folders: str) -> None:
    """Files of someone/modules, whose modules.json names these folders."""
    kinds = ["Transformer", "Pooling", *(["LayerNorm"] * (len(folders) - 3)), "Dense"]
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": path}
        for kind, path in zip(kinds, folders, strict=True)
    ]
    hub.files |= {f"someone/modules/{path}": b"{}" for path in files}
    hub.files["someone/modules/modules.json"] = json.dumps(modules).encode()


@pytest.mark.parametrize(
    "folders",
    [
        ("0_Transformer", "1_Pooling", "2_LayerNorm", "10_Dense"),
        ("encoder", "pooling", "head/norm [1]", "head/scores"),
        ("", "1_Pooling", "2_LayerNorm", "3_Dense"),
    ],
)
def test_modules_are_downloaded_from_where_modules_json_says(
    folders: tuple[str, ...], hub: Hub, tmp_path: Path
) -> None:
    weights = {Path(folder, "model.safetensors").as_posix() for folder in folders if "ooling" not in folder}
    wanted = {"modules.json", *weights, *(Path(folder, "config.json").as_posix() for folder in folders)}
    wanted |= {Path(folders[0], "tokenizer.json").as_posix()}
    other = {Path(folders[0], "pytorch_model.bin").as_posix(), f"{folders[-1]}/pytorch_model.bin", "9_Old/config.json"}
    add_modules(hub, {*wanted, *other, f"{folders[1]}/README.md"}, *folders)
    folder = fetch(tmp_path, hub.url, "someone/modules")
    assert cached_files(folder) == wanted
    assert fetch(tmp_path, closed_port(), "someone/modules") == folder


@pytest.mark.parametrize("old", [("0_Transformer",), ("2_Dense",), ("0_Transformer", "2_Dense")])
def test_each_folder_is_downloaded_in_the_form_that_it_has(old: tuple[str, ...], hub: Hub, tmp_path: Path) -> None:
    folders = ("0_Transformer", "1_Pooling", "2_Dense")
    wanted = {"modules.json", *(f"{folder}/config.json" for folder in folders)}
    for folder in ("0_Transformer", "2_Dense"):
        wanted.add(f"{folder}/{'pytorch_model.bin' if folder in old else 'model.safetensors'}")
    second = {f"{folder}/pytorch_model.bin" for folder in ("0_Transformer", "2_Dense") if folder not in old}
    add_modules(hub, wanted | second, *folders)
    assert cached_files(fetch(tmp_path, hub.url, "someone/modules")) == wanted


def test_reranker_of_another_kind_is_refused_before_its_weights_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    hub.files |= {"Qwen/Reranker/config.json": json.dumps(config).encode(), "Qwen/Reranker/model.safetensors": b"large"}
    assert "this is a causal language model (Qwen3ForCausalLM)" in fetch(tmp_path, hub.url, "Qwen/Reranker")
    assert hub.fetched == ["Qwen/Reranker/config.json"]


def test_what_was_downloaded_once_is_found_when_the_hub_is_gone(hub: Hub, tmp_path: Path) -> None:
    for path in ("config.json", "model.safetensors"):
        hub.files[f"someone/ranker/{path}"] = b"{}"
    folder = fetch(tmp_path, hub.url, "someone/ranker")
    fetched = len(hub.fetched)
    assert fetch(tmp_path, hub.url, "someone/ranker") == folder
    assert len(hub.fetched) == fetched
    assert fetch(tmp_path, closed_port(), "someone/ranker") == folder


def test_interrupted_download_is_refused_offline(hub: Hub, hub_cache: Path) -> None:
    for path in ("config.json", "model.safetensors"):
        hub.files[f"someone/ranker/{path}"] = b"{}"
    (Path(fetch(hub_cache.parent, hub.url, "someone/ranker")) / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"\(offline: only a part of it is in its cache"):
        fetch_checkpoint(describe_source("someone/ranker", None), local_files_only=True, token=None)


@pytest.mark.parametrize(
    ("name", "revision", "token", "message"),
    [
        (
            "cross-encoder/ms-macro-MiniLM-L6-v2",
            None,
            None,
            "cross-encoder/ms-macro-MiniLM-L6-v2 could not be had from the hub (no such repository, or a private one). "
            "Check the name (nearest registered: cross-encoder/ms-marco-MiniLM-L6-v2, ",
        ),
        (
            "someone/ranker",
            "v7",
            None,
            "someone/ranker at revision v7 could not be had from the hub (no such revision). "
            "{hub}/someone/ranker/commits/main lists them; main is the newest",
        ),
        (
            "someone/ranker",
            ABSENT_COMMIT,
            None,
            f"someone/ranker at revision {ABSENT_COMMIT} could not be had from the hub (no such revision). ",
        ),
        (
            "someone/gated",
            None,
            None,
            "someone/gated could not be had from the hub (it is gated). Ask for access at {hub}/someone/gated, then "
            "log in with hf auth login, or set HF_TOKEN",
        ),
        (
            "someone/private",
            None,
            None,
            "someone/private could not be had from the hub (access refused, HTTP 403). Log in anew with hf auth login, "
            "or set another HF_TOKEN",
        ),
        (
            "someone/ranker",
            None,
            "hf_expired",
            "someone/ranker could not be had from the hub (access refused, HTTP 401). Log in anew with hf auth login, "
            "or set another HF_TOKEN",
        ),
    ],
    ids=["absent", "branch", "commit", "gated", "private", "token"],
)
def test_each_refusal_of_the_hub_says_what_to_do(
    name: str, revision: str | None, token: str | None, message: str, hub: Hub, tmp_path: Path
) -> None:
    hub.files |= {"someone/ranker/config.json": b"{}", "someone/gated/config.json": b"{}"}
    assert fetch(tmp_path, hub.url, name, revision, token=token).startswith(message.format(hub=hub.url))
    assert hub.fetched == []


def test_hub_that_does_not_answer_is_named(tmp_path: Path) -> None:
    endpoint = closed_port()
    message = fetch(tmp_path, endpoint, "someone/ranker")
    assert message.startswith(f"someone/ranker could not be had from the hub (no answer from {endpoint}: ")
    assert "Check the connection, or pass a checkpoint folder" in message
    assert message.count("\n") == 0


def test_hub_that_is_silent_is_given_up_within_seconds(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and says nothing, as behind some firewalls; the hub library would ask five times."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        start = time.perf_counter()
        with pytest.raises(ModelNotFoundError, match=r"no answer from http://127\.0\.0\.1") as caught:
            fetch_checkpoint(describe_source("someone/ranker", None), local_files_only=False, token=None)
        assert time.perf_counter() - start < 5
    assert f"it is not in its cache {hub_cache}" in str(caught.value)


def test_hub_that_must_not_be_asked_is_not(hub: Hub, tmp_path: Path) -> None:
    hub.files["someone/ranker/config.json"] = b"{}"
    message = subprocess.run(
        [sys.executable, "-c", _FETCH, json.dumps(["someone/ranker", None, None])],
        env=environment(tmp_path, hub.url) | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert message.startswith("someone/ranker could not be had from the hub (offline: it is not in its cache")
    assert hub.asked == []


def test_full_disk_is_named_with_the_cache(hub: Hub, tmp_path: Path) -> None:
    """On a file system of 200 KB, which a process may mount for itself where it is allowed to."""
    (tmp_path / "home").mkdir()
    (tmp_path / "mount.sh").write_text(f'mount -t tmpfs -o size=200k none {tmp_path}/home && exec "$@"\n', "utf-8")
    apart = f"unshare --mount --map-root-user sh {tmp_path}/mount.sh"
    if shutil.which("unshare") is None or subprocess.run([*apart.split(), "true"], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs unshare (Linux) and user namespaces")
    hub.files |= {"someone/ranker/config.json": b"{}", "someone/ranker/model.safetensors": bytes(1_000_000)}
    message = fetch(tmp_path / "home", hub.url, "someone/ranker", prefix=apart)
    assert message == (
        f"someone/ranker at revision {COMMIT} could not be had from the hub (no space left in {tmp_path}/home/hub). "
        f"Free some, or set HF_HOME to a folder on another disk"
    )


# What the published models score.

PUBLISHED = json.loads(Path(__file__).with_name("published_scores.json").read_text(encoding="utf-8"))
# The tests that the float32 figures come from compare within 0.01; another machine and order of sums add far less.
FLOAT32_TOLERANCE = 0.02


def bfloat16_tolerance(figures: list[float]) -> float:
    """How far from the bfloat16 figures an exact score may lie: 0.02, of logits a step of bfloat16 more.

    A logit of 9.69 has neighbours at a distance of 0.0625 in 8 bits, and the layers before it are rounded as well:
    the two sets of figures differ by up to 0.054 where they are logits, by up to 0.0103 where they are probabilities.
    """
    largest = max(map(abs, figures))
    return 0.02 if largest <= 1 else 0.02 + 2.0 ** (math.frexp(largest)[1] - 8)


def scores_of(name: str, folder: Path, *, local_files_only: bool = False) -> NDArray[np.float32]:
    """A published model's scores of the published query and documents, float32 [documents]; leaves nothing behind."""
    artifact = export_model(
        name, folder / "artifact", variants=["cpu"], precisions=["fp32"], local_files_only=local_files_only
    )
    try:
        return CrossEncoder(artifact, device="cpu").score(PUBLISHED["query"], PUBLISHED["documents"])
    finally:
        shutil.rmtree(artifact)  # the next one may be as large


def scores_or_skip(name: str, folder: Path) -> NDArray[np.float32]:
    """As `scores_of`; skips what the cache does not hold where HF_HUB_OFFLINE lets nothing else be had."""
    try:
        return scores_of(name, folder)
    except ModelNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def a_hub() -> None:
    """Skip where no hub answers; with HF_HUB_OFFLINE what the cache holds is tested."""
    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().get(f"{constants.ENDPOINT}/api/models?limit=1", timeout=10).raise_for_status()
    except Exception as error:  # of the HTTP library, which is another one in each generation of the hub library
        pytest.skip(f"no hub answers at {constants.ENDPOINT}: {type(error).__name__}: {error}")


@pytest.mark.hub
@pytest.mark.parametrize("name", PUBLISHED["models"])
@pytest.mark.usefixtures("a_hub")
def test_scores_are_the_published_ones(name: str, tmp_path: Path) -> None:
    figures = PUBLISHED["models"][name]
    if figures["architecture"] not in architectures() and util.find_spec("optimum") is None:
        pytest.skip(f"{figures['architecture']} needs the exporter of optimum, which is not installed")
    scores = scores_or_skip(name, tmp_path)
    np.testing.assert_allclose(scores, figures["float32"], rtol=0, atol=FLOAT32_TOLERANCE)
    np.testing.assert_allclose(scores, figures["bfloat16"], rtol=0, atol=bfloat16_tolerance(figures["bfloat16"]))


# Of the kinds that none of the published scores are of, the smallest.
UNPUBLISHED = (
    *("cross-encoder/ettin-reranker-17m-v1", "cross-encoder/nli-deberta-v3-xsmall"),
    *("jinaai/jina-reranker-v2-base-multilingual", "Alibaba-NLP/gte-multilingual-reranker-base"),
    "ibm-granite/granite-embedding-reranker-english-r2",
)


@pytest.mark.hub
@pytest.mark.parametrize("name", UNPUBLISHED)
@pytest.mark.usefixtures("a_hub")
def test_registered_model_without_published_scores_holds_in_its_proof(name: str, tmp_path: Path) -> None:
    registered = find_model(name)
    assert registered is not None
    scores = scores_or_skip(name, tmp_path)
    assert scores.shape == (
        (len(PUBLISHED["documents"]),) if registered.labels == 1 else (len(scores), registered.labels)
    )
    assert len(np.unique(scores)) > 1


@pytest.mark.parametrize("name", PUBLISHED["models"])
def test_published_figures_of_two_precisions_are_of_the_same_model(name: str) -> None:
    exact, coarse = (PUBLISHED["models"][name][precision] for precision in ("float32", "bfloat16"))
    np.testing.assert_allclose(exact, coarse, rtol=0, atol=bfloat16_tolerance(coarse))


def test_published_models_of_known_architectures_are_registered_with_their_activation() -> None:
    for name, figures in PUBLISHED["models"].items():
        registered = find_model(name)
        if registered is None:
            assert figures["architecture"] not in architectures(), name
            continue
        assert registered.architecture == figures["architecture"], name
        probabilities = all(0 <= score <= 1 for score in figures["float32"])
        assert registered.activation == ("Sigmoid" if probabilities else "Identity"), name


@pytest.mark.slow
def test_hub_tests_fail_by_name_where_a_repository_is_gone_and_skip_where_no_hub_answers(
    hub: Hub, tmp_path: Path
) -> None:
    def run(endpoint: str) -> str:
        command = [sys.executable, "-m", "pytest", __file__, "-m", "hub", "-k", "MiniLM-L6-v2 or qnli-electra"]
        root = Path(__file__).parents[2]
        return subprocess.run(
            command, env=environment(tmp_path, endpoint), cwd=root, capture_output=True, text=True
        ).stdout

    gone = run(hub.url)
    assert "2 failed" in gone
    for name in ("cross-encoder/ms-marco-MiniLM-L6-v2", "cross-encoder/qnli-electra-base"):
        assert f"FAILED tests/export/test_hub.py::test_scores_are_the_published_ones[{name}]" in gone
        assert f"ModelNotFoundError: {name}" in gone
    endpoint = closed_port()
    silent = run(endpoint)
    assert "2 skipped" in silent
    assert f"no hub answers at {endpoint}" in silent


def test_published_models_are_scored_as_a_hub_test_does_it(
    trained_checkpoint: Path, hub_cache: Path, tmp_path: Path
) -> None:
    """A trained model in the hub's cache, at the commit that the registry pins, and the code of the hub tests."""
    name = "cross-encoder/ms-marco-MiniLM-L12-v2"
    registered = find_model(name)
    assert registered is not None
    assert registered.revision is not None
    lay_out(hub_cache, name, {registered.revision: trained_checkpoint}, {})
    scores = scores_of(name, tmp_path, local_files_only=True)
    pairs = [(PUBLISHED["query"], document) for document in PUBLISHED["documents"]]
    expected = transformers_logits(trained_checkpoint, pairs, max_length=512)[:, 0]  # Identity: scores are logits
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)
    # The test data's copy of the weights was rounded to int8 once, which moves its logits by up to 0.75; the embedded
    # model was made of the published one, and is 1.2 off.
    tolerance = {"ms-marco-MiniLM-L12-v2": 1, "crossrank-mini-en": 1.5}[trained_checkpoint.name]
    np.testing.assert_allclose(scores, PUBLISHED["models"][name]["float32"], rtol=0, atol=tolerance)
    assert not list(tmp_path.rglob("*.onnx*"))
