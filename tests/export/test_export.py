"""From a checkpoint folder to an artifact: what is written, what is refused, and that nothing is half done."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import transformers
from numpy.typing import NDArray

import crossrank
from crossrank import (
    ArtifactError,
    CrossEncoder,
    InputError,
    ModelNotFoundError,
    ProofError,
)
from crossrank._artifact.manifest import read_manifest
from crossrank._cli.main import main as crossrank_main
from crossrank.export import export_model
from crossrank.export._architectures.checkpoint import read_checkpoint
from crossrank.export._cli import main as export_main
from crossrank.export._graphs.graph import save_model
from crossrank.export._graphs.layouts.portable import build_portable
from crossrank.models import load_registry
from tests.support.checkpoint_files import files_of, read_tensors, sha256_of, write_tensors
from tests.support.references import PROVEN_BY
from tests.support.tiny_models import ARCHITECTURES, MAX_LENGTH, PAIRS, make_checkpoint, write_json

# Scores of one graph loaded twice, or in another batch: float32 rounding at logits of standard deviation 1.5.
TOLERANCE = 2e-5
CPU_FP32 = "onnx/model_cpu_fp32.onnx"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny-bert", "bert")


@pytest.fixture(scope="module")
def artifact(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bert` with all the default graphs; tests that change it take `artifact_copy`."""
    return export_model(bert, tmp_path_factory.mktemp("artifacts") / "tiny-bert")


@pytest.fixture
def checkpoint(bert: Path, tmp_path: Path) -> Path:
    """A copy of `bert` to change."""
    return Path(shutil.copytree(bert, tmp_path / "checkpoint"))


@pytest.fixture
def artifact_copy(artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact, tmp_path / "artifact"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CROSSRANK_HOME", str(folder))
    return folder


def export_fp32(source: Path, output: Path, **options: Any) -> Path:
    return export_model(source, output, variants=["cpu"], precisions=["fp32"], **options)


def logits_of(artifact: Path) -> NDArray[np.float32]:
    model = CrossEncoder(artifact, precision="fp32")
    logits: NDArray[np.float32] = model.predict(list(PAIRS), activation_fn="identity")
    return logits


def leftovers(folder: Path) -> list[str]:
    """What an export leaves beside its target, its lock aside."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.suffix != ".lock"]


# What is written.


def test_default_artifact_holds_its_graphs_and_the_files_that_others_read(artifact: Path) -> None:
    assert files_of(artifact) == {
        "config.json",
        "crossrank.json",
        "onnx/model.onnx",
        "onnx/model_cpu_fp32.onnx",
        "onnx/model_cpu_int8.onnx",
        "onnx/model_cuda_fp16.onnx",
        "proof.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_checkpoint_files_are_copied_as_they_are(artifact: Path, bert: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (artifact / name).read_bytes() == (bert / name).read_bytes()


def test_manifest_has_size_and_sha256_of_every_other_file(artifact: Path) -> None:
    manifest = json.loads((artifact / "crossrank.json").read_text(encoding="utf-8"))
    assert set(manifest["files"]) == files_of(artifact) - {"crossrank.json"}
    for name, record in manifest["files"].items():
        assert record == {"size_bytes": (artifact / name).stat().st_size, "sha256": sha256_of(artifact / name)}


def test_manifest_says_what_the_model_is(artifact: Path) -> None:
    manifest = json.loads((artifact / "crossrank.json").read_text(encoding="utf-8"))
    assert manifest["format"] == 1
    assert manifest["crossrank"] == crossrank.__version__
    fingerprint = manifest["source"].pop("fingerprint")
    assert fingerprint.startswith("local--tiny-bert--")
    assert manifest["source"] == {"name": "tiny-bert", "revision": None, "architecture": "bert"}
    assert manifest["head"] == {
        "labels": 1,
        "relevant_label": None,
        "activation": "Sigmoid",
        "activation_origin": "default for 1 label",
        "unknown_activation": None,
    }
    assert manifest["inputs"] == {
        "max_length": MAX_LENGTH,
        "max_length_origin": "the model's positions",
        "pad_id": 0,
        "position_offset": 0,
        "token_types": True,
        "embeddings": None,
    }


def test_manifest_has_the_parity_of_every_graph(artifact: Path) -> None:
    variants = {(v.variant, v.precision): v for v in read_manifest(artifact).variants}
    assert set(variants) == {("cpu", "fp32"), ("cpu", "int8"), ("cuda", "fp16"), ("portable", "fp32")}
    for variant in variants.values():
        parity = variant.parity
        assert parity is not None
        assert parity.reference == PROVEN_BY
        assert parity.onnxruntime == onnxruntime.__version__
        assert parity.machine
        assert parity.pairs >= 64
        assert parity.nan_count == 0
        assert parity.alone_pairs > 0
        assert parity.spread >= 0.5
        # A CUDA graph is proven here by a stand-in that a CPU runs, and the manifest says so.
        assert parity.graph == ("twin" if variant.variant == "cuda" else "graph")
        assert 0 < parity.max_abs <= (1e-4 if variant.precision == "fp32" else 1)


def test_proof_has_pairs_of_all_kinds_and_their_logits(artifact: Path) -> None:
    proof = json.loads((artifact / "proof.json").read_text(encoding="utf-8"))
    assert len(proof["pairs"]) == len(proof["logits"]) >= 64
    assert {len(row) for row in proof["logits"]} == {1}
    documents = [document for _, document in proof["pairs"]]
    assert "" in documents
    assert any(len(document.split()) > 400 for document in documents)
    assert any(ord(letter) > 0x1F000 for document in documents for letter in document)  # emoji
    assert any(0x0400 <= ord(letter) < 0x3000 for document in documents for letter in document)  # not Latin


def test_portable_graph_has_standard_operators_and_transformers_inputs(artifact: Path) -> None:
    model = onnx.load(artifact / "onnx/model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""]
    assert [node.name for node in model.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert {node.type.tensor_type.elem_type for node in model.graph.input} == {onnx.TensorProto.INT64}
    assert [node.name for node in model.graph.output] == ["logits"]


def test_cpu_graph_has_no_mask_and_no_slow_fusion(artifact: Path) -> None:
    model = onnx.load(artifact / CPU_FP32)
    onnx.checker.check_model(model, full_check=True)
    assert [node.name for node in model.graph.input] == ["input_ids", "token_type_ids"]
    assert not {"SkipLayerNormalization", "EmbedLayerNormalization"} & {node.op_type for node in model.graph.node}


def test_export_is_the_same_every_time(artifact: Path, bert: Path, tmp_path: Path) -> None:
    again = export_model(bert, tmp_path / "again")
    for name in files_of(artifact) - {"crossrank.json", "proof.json"}:
        assert sha256_of(again / name) == sha256_of(artifact / name), name


def test_only_the_graphs_asked_for_are_made(bert: Path, tmp_path: Path) -> None:
    folder = export_model(bert, tmp_path / "artifact", variants=["portable"], precisions=["fp32", "fp16"])
    assert {name for name in files_of(folder) if name.startswith("onnx/")} == {
        "onnx/model.onnx",
        "onnx/model_fp16.onnx",
    }


def test_artifact_can_be_moved(artifact: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(artifact, tmp_path / "elsewhere"))
    assert np.array_equal(logits_of(moved), logits_of(artifact))


def test_max_length_of_the_export_is_kept(bert: Path, tmp_path: Path) -> None:
    folder = export_fp32(bert, tmp_path / "artifact", max_length=16)
    assert read_manifest(folder).inputs.max_length == 16
    info = CrossEncoder(folder).info()
    assert (info.max_length, info.max_length_origin) == (16, "as asked at export")


@pytest.mark.parametrize("max_length", [0, 3, -1, True, 12.5])
def test_max_length_without_room_is_refused(bert: Path, tmp_path: Path, max_length: Any) -> None:
    with pytest.raises(InputError, match=r"max_length=.*at least 4"):
        export_fp32(bert, tmp_path / "artifact", max_length=max_length)


def test_portable_file_scores_the_same_in_plain_onnxruntime(artifact: Path) -> None:
    checkpoint = transformers.AutoTokenizer.from_pretrained(artifact)  # the artifact is all that others need
    texts = [list(side) for side in zip(*PAIRS, strict=True)]
    feed = checkpoint(*texts, truncation="longest_first", max_length=MAX_LENGTH, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(artifact / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(None, {name: ids.astype(np.int64) for name, ids in feed.items()})[0]
    assert np.abs(logits[:, 0] - logits_of(artifact)).max() <= TOLERANCE


def test_weights_beyond_the_limit_go_to_a_file_of_their_own(bert: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(bert, max_length=None, relevant_label=None)
    whole, split = tmp_path / "whole.onnx", tmp_path / "split.onnx"
    model = build_portable(checkpoint.weights, checkpoint.config, token_types=True)
    assert save_model(model, whole) == [whole]
    assert save_model(model, split, limit_bytes=10_000) == [split, tmp_path / "split.onnx_data"]
    assert split.stat().st_size < whole.stat().st_size / 2
    feed = {name: np.array([[2, 7, 9, 3]]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    feed["attention_mask"][:] = 1
    feed["token_type_ids"][:] = 0
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (split, tmp_path / "split.onnx_data"):
        path.rename(moved / path.name)  # the graph names its weights relative to itself
    results = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for path in (whole, moved / "split.onnx")
    ]
    assert np.array_equal(*results)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float16_graphs_of_every_architecture_hold_their_bound(tmp_path: Path, architecture: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture)
    folder = export_model(checkpoint, tmp_path / "artifact", variants=["cuda", "portable"], precisions=["fp16"])
    assert [variant.name for variant in read_manifest(folder).variants] == ["cuda fp16", "portable fp16"]


def test_each_stage_is_reported_with_its_seconds(bert: Path, tmp_path: Path) -> None:
    stages: list[tuple[str, float | None]] = []
    export_fp32(bert, tmp_path / "artifact", report=lambda name, seconds: stages.append((name, seconds)))
    started = [name for name, seconds in stages if seconds is None]
    assert started == [
        "find the checkpoint",
        "read config, tokenizer, weights",
        "build cpu fp32",
        "reference logits",
        "prove the graphs",
        "write",
    ]
    assert [name for name, seconds in stages if seconds is not None] == started


# What is refused before a checkpoint is read.


def test_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"Nearest names: .*TinyBERT"):
        export_model("ce-ms-marco-TinyBERT-L-22", tmp_path / "artifact")


def test_hub_id_that_is_not_cached_is_refused_offline(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelNotFoundError, match=r"someone/no-such-ranker could not be had from the hub \(offline"):
        CrossEncoder("someone/no-such-ranker", local_files_only=True)
    assert not [path for path in cache.rglob("*") if path.suffix != ".lock"]


# What fails leaves nothing.


def overflow_float16(folder: Path) -> None:
    """Inner activations of a million: nothing to float32, infinite in float16."""
    tensors = read_tensors(folder)
    tensors["bert.encoder.layer.0.intermediate.dense.weight"] *= 1e5
    tensors["bert.encoder.layer.0.output.dense.weight"] *= 1e-5
    write_tensors(folder, tensors)


def test_graph_that_leaves_its_bound_is_not_written(checkpoint: Path, tmp_path: Path) -> None:
    overflow_float16(checkpoint)
    output = tmp_path / "out" / "artifact"
    with pytest.raises(ProofError, match="is not exported") as caught:
        export_model(checkpoint, output, variants=["portable"], precisions=["fp32", "fp16"])
    *problems, advice = str(caught.value).splitlines()
    assert "portable fp16:" in "".join(problems)  # with its figures, and the healthy graph is not accused
    assert "portable fp32:" not in "".join(problems)
    assert "Within their bounds are portable fp32" in advice
    assert files_of(output.parent) <= {".artifact.lock"}
    assert not output.exists()


def test_bound_does_not_widen_with_what_separates_two_labels(tmp_path: Path) -> None:
    """Logits of about +50 and -50 that vary by 1.5 need the same care as logits around zero."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert", labels=2)
    tensors = read_tensors(checkpoint)
    tensors["classifier.bias"] += np.array([50, -50], np.float32)
    write_tensors(checkpoint, tensors)
    (variant,) = read_manifest(export_fp32(checkpoint, tmp_path / "artifact")).variants
    assert variant.parity is not None
    assert 0.5 <= variant.parity.spread <= 3


def test_failed_proof_keeps_the_older_artifact(artifact_copy: Path, checkpoint: Path) -> None:
    before = {name: sha256_of(artifact_copy / name) for name in files_of(artifact_copy)}
    overflow_float16(checkpoint)
    with pytest.raises(ProofError):
        export_model(checkpoint, artifact_copy, variants=["portable"], precisions=["fp16"], force=True)
    assert {name: sha256_of(artifact_copy / name) for name in files_of(artifact_copy)} == before
    assert leftovers(artifact_copy.parent) == []


@pytest.mark.parametrize("stage", ["build cpu fp32", "reference logits", "prove the graphs", "write"])
@pytest.mark.parametrize("ended", [False, True])
def test_interruption_leaves_nothing(bert: Path, tmp_path: Path, stage: str, ended: bool) -> None:
    def stop(name: str, seconds: float | None) -> None:
        if name == stage and (seconds is not None) == ended:
            raise KeyboardInterrupt

    output = tmp_path / "out" / "artifact"
    with pytest.raises(KeyboardInterrupt):
        export_fp32(bert, output, report=stop)
    assert leftovers(output.parent) == []
    if (stage, ended) != ("write", True):  # then it is done
        assert not output.exists()
        export_fp32(bert, output)
    assert np.isfinite(logits_of(output)).all()


# What is there already.


def test_second_export_finds_the_first(bert: Path, tmp_path: Path) -> None:
    folder = export_fp32(bert, tmp_path / "artifact")
    before = (folder / "crossrank.json").stat()
    assert export_fp32(bert, folder) == folder
    after = (folder / "crossrank.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_force_exports_again(bert: Path, tmp_path: Path) -> None:
    folder = export_fp32(bert, tmp_path / "artifact")
    before = (folder / "crossrank.json").stat()
    export_fp32(bert, folder, force=True)
    after = (folder / "crossrank.json").stat()
    assert (after.st_ino, after.st_mtime_ns) != (before.st_ino, before.st_mtime_ns)
    assert leftovers(tmp_path) == []


def test_force_repairs_a_damaged_artifact(bert: Path, artifact_copy: Path) -> None:
    (artifact_copy / CPU_FP32).write_bytes(b"")
    with pytest.raises(ArtifactError, match="bytes"):
        export_fp32(bert, artifact_copy)
    export_fp32(bert, artifact_copy, force=True)
    assert np.isfinite(logits_of(artifact_copy)).all()


def test_export_with_other_graphs_needs_force(bert: Path, tmp_path: Path) -> None:
    folder = export_fp32(bert, tmp_path / "artifact")
    with pytest.raises(InputError, match="--force"):
        export_model(bert, folder, variants=["portable"])
    export_model(bert, folder, variants=["portable"], force=True)
    assert [variant.name for variant in read_manifest(folder).variants] == ["portable fp32"]


def test_export_of_another_model_into_the_same_folder_needs_force(bert: Path, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", "bert", seed=1)
    folder = export_fp32(bert, tmp_path / "artifact")
    with pytest.raises(InputError, match="--force"):
        export_fp32(other, folder)


def test_foreign_folder_is_left_alone(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("text", encoding="utf-8")
    for force in (False, True):
        with pytest.raises(InputError, match="no crossrank artifact"):
            export_fp32(bert, tmp_path / "thesis", force=force)
    assert files_of(tmp_path / "thesis") == {"chapter.txt"}


def test_checkpoint_folder_is_not_written_over(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="no crossrank artifact"):
        export_fp32(checkpoint, checkpoint, force=True)


# The cache.


def cached(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.rglob("crossrank.json"))


def test_checkpoint_folder_is_exported_once_into_the_cache(bert: Path, cache: Path) -> None:
    first = CrossEncoder(bert)
    (folder,) = cached(cache)
    before = (folder / "crossrank.json").stat()
    second = CrossEncoder(str(bert) + "/")
    assert cached(cache) == [folder]
    after = (folder / "crossrank.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert np.array_equal(first.predict(list(PAIRS)), second.predict(list(PAIRS)))


def test_cache_folder_argument_comes_before_the_environment(bert: Path, cache: Path, tmp_path: Path) -> None:
    CrossEncoder(bert, cache_folder=tmp_path / "mine")
    assert cached(cache) == []
    assert len(cached(tmp_path / "mine")) == 1


def test_export_without_output_is_what_cross_encoder_finds(bert: Path, cache: Path) -> None:
    folder = export_model(bert, variants=["cpu"], precisions=["fp32"])
    assert cached(cache) == [folder]
    assert CrossEncoder(bert).info().folder == folder
    assert cached(cache) == [folder]


def test_cache_is_completed_with_other_graphs(bert: Path, cache: Path) -> None:
    folder = export_model(bert, variants=["cpu"], precisions=["fp32"])
    assert export_model(bert, variants=["portable"]) == folder
    assert {variant.name for variant in read_manifest(folder).variants} == {"cpu fp32", "portable fp32"}


def test_damaged_artifact_in_the_cache_is_made_again(bert: Path, cache: Path) -> None:
    folder = export_model(bert, variants=["cpu"], precisions=["fp32"])
    (folder / "crossrank.json").unlink()
    assert CrossEncoder(str(bert)).info().folder == folder


def test_changed_weights_are_exported_anew(checkpoint: Path, cache: Path) -> None:
    before = CrossEncoder(checkpoint).predict(list(PAIRS))
    tensors = read_tensors(checkpoint)
    tensors["classifier.bias"] += 1
    write_tensors(checkpoint, tensors)
    after = CrossEncoder(checkpoint).predict(list(PAIRS))
    assert len(cached(cache)) == 2
    assert (after > before).all()


# Proven again.


def test_verify_passes_on_what_was_exported(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crossrank_main(["verify", str(artifact)]) == 0
    out = capsys.readouterr().out
    assert "9 files with the right sha256" in out
    assert all(name in out for name in ("cpu fp32", "cpu int8", "portable fp32", "cuda fp16"))
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert "not proven here: cuda fp16" in out


def test_verify_as_json(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crossrank_main(["verify", str(artifact), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {variant["file"] for variant in result["variants"]} <= set(result["files"])


@pytest.mark.parametrize("name", [CPU_FP32, "onnx/model.onnx", "tokenizer.json", "config.json", "proof.json"])
def test_verify_sees_one_changed_byte(artifact_copy: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((artifact_copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (artifact_copy / name).write_bytes(content)
    assert crossrank_main(["verify", str(artifact_copy)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert name in captured.err
    assert "sha256" in captured.err


def test_verify_sees_a_graph_of_other_weights(
    artifact_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file whose hash was made right again is still no proof."""
    other = export_fp32(make_checkpoint(tmp_path / "other", "bert", seed=1), tmp_path / "wrong")
    shutil.copyfile(other / CPU_FP32, artifact_copy / CPU_FP32)
    manifest = json.loads((artifact_copy / "crossrank.json").read_text(encoding="utf-8"))
    size = (artifact_copy / CPU_FP32).stat().st_size
    manifest["files"][CPU_FP32] = {"size_bytes": size, "sha256": sha256_of(artifact_copy / CPU_FP32)}
    write_json(artifact_copy / "crossrank.json", manifest)
    assert crossrank_main(["verify", str(artifact_copy)]) == 1
    assert "cpu fp32: max |Δlogit|" in capsys.readouterr().err


# The command line.


def test_cli_prints_the_parity_table(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "artifact"
    assert export_main([str(bert), "-o", str(output), "--variants", "cpu,portable", "--precision", "fp32"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"tiny-bert -> {output}\n")
    assert "cpu fp32" in captured.out
    assert "portable fp32" in captured.out
    assert PROVEN_BY in captured.out
    assert captured.err == ""  # no terminal, no stages


def test_cli_prints_the_manifest_as_json(artifact: Path, bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_main([str(bert), "-o", str(artifact), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("folder") == str(artifact)
    assert printed == json.loads((artifact / "crossrank.json").read_text(encoding="utf-8"))


def test_cli_lists_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    ids = [model.id for model in load_registry()]
    assert export_main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ids
    assert export_main(["--list", "--json"]) == 0
    assert [model["id"] for model in json.loads(capsys.readouterr().out)] == ids


@pytest.mark.parametrize("arguments", [["no such model"], ["someone/no-such-ranker", "--offline"]])
def test_cli_failure_is_one_message_and_exit_1(
    cache: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("arguments", [[], ["--no-such-option"], ["model", "--max-length", "many"]])
def test_cli_wrong_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        export_main(arguments)
    assert caught.value.code == 2
    assert "usage: export-model" in capsys.readouterr().err


# More than one process, and no torch.

# Hides torch and transformers from a process, so that it starts fast and proves with numpy.
_LEAN = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
_EXPORT = _LEAN + "from crossrank.export._cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def lean_processes() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_two_exports_of_one_model_at_once(
    bert: Path, tmp_path: Path, lean_processes: list[subprocess.Popen[str]]
) -> None:
    """Both succeed, one of them with the other's work, and what they leave is whole."""
    output = tmp_path / "artifact"
    command = [sys.executable, "-c", _EXPORT, str(bert), "-o", str(output), "--json"]
    for _ in range(3):
        lean_processes.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        )
    results = [(*process.communicate(timeout=120), process.returncode) for process in lean_processes]
    assert [(err, code) for _, err, code in results] == [("", 0)] * 3
    manifests = [json.loads(out) for out, _, _ in results]
    assert manifests[0] == manifests[1] == manifests[2]
    assert leftovers(tmp_path) == []
    assert crossrank_main(["verify", str(output)]) == 0


def test_export_without_transformers_is_proven_by_numpy(bert: Path, artifact: Path, tmp_path: Path) -> None:
    output = tmp_path / "artifact"
    command = [sys.executable, "-c", _EXPORT, str(bert), "-o", str(output), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert {variant["parity"]["reference"] for variant in manifest["variants"]} == {"numpy"}
    assert sha256_of(output / CPU_FP32) == sha256_of(artifact / CPU_FP32)
