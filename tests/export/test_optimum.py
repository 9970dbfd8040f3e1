"""Models that the native builder does not know, exported by optimum and scored without it.

Optimum needs an older transformers, so it gets an environment of its own, which takes a minute or two to fill. What
is exported there is held against this environment's transformers.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from crossrank import CrossEncoder, InputError, MissingDependencyError, UnsupportedModelError
from crossrank._artifact.manifest import read_manifest
from crossrank._proof import verify_artifact
from crossrank.export import export_model
from tests.support import tiny_models
from tests.support.checkpoint_files import change_config, files_of
from tests.support.optimum_models import make_checkpoint
from tests.support.references import needs_torch
from tests.support.tiny_models import MAX_LENGTH, PAIRS, transformers_logits

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).parents[1] / "support" / "optimum_exports.py"
# A traced float32 graph and another version's forward pass, at logits of standard deviation 1.5: 5e-6 was seen.
ATOL = 2e-5
ARCHITECTURES = ("squeezebert", "albert")

# Without optimum, as here.


@needs_torch
def test_an_unknown_architecture_says_what_to_install(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "albert")
    for exporter in ("auto", "native"):
        with pytest.raises(UnsupportedModelError) as caught:
            export_model(checkpoint, tmp_path / "artifact", exporter=exporter)
        message = str(caught.value)
        for words in ("model_type is 'albert'; supported are bert, ernie", "'crossrank[cpu,export,optimum]'"):
            assert words in message
    with pytest.raises(MissingDependencyError, match=r"'crossrank\[cpu,export,optimum\]' in an environment of its own"):
        export_model(checkpoint, tmp_path / "artifact", exporter="optimum")


def test_an_artifact_is_kept_for_the_exporter_that_made_it(tmp_path: Path) -> None:
    checkpoint = tiny_models.make_checkpoint(tmp_path / "checkpoint", "bert")
    portable: dict[str, Any] = {"output": tmp_path / "artifact", "variants": ["portable"]}
    export_model(checkpoint, **portable)
    before = (tmp_path / "artifact" / "crossrank.json").stat().st_mtime_ns
    for exporter in ("auto", "native"):
        export_model(checkpoint, exporter=exporter, **portable)
    assert (tmp_path / "artifact" / "crossrank.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds another export"):
        export_model(checkpoint, exporter="optimum", **portable)


def test_every_torch_is_the_same_version() -> None:
    # pip takes the CPU build for an exact version only; a range would bring CUDA.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    (torch,) = extras["torch"]
    assert torch.startswith("torch==")
    assert torch in extras["optimum"]
    assert torch in groups["test"]


# With optimum, elsewhere.


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with this package's optimum extra, and sentence-transformers 5."""
    folder = tmp_path_factory.mktemp("optimum")
    code = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, check=True)
    (archive,) = folder.glob("*.tar.gz")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    requirements = [f"crossrank[cpu,export,optimum] @ {archive.as_uri()}", "sentence-transformers>=5,<6"]
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return python


def _run(python: Path, jobs: list[dict[str, Any]], **environment: str) -> list[Any]:
    """What optimum_exports.py gives for each job, all of them in one process."""
    done = subprocess.run(
        [str(python), str(SCRIPT)],
        input=json.dumps({"jobs": jobs, "pairs": PAIRS}, default=str),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
    )
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return results


def _cli(python: Path, command: str, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of a command of that environment."""
    line = [str(python.with_name(command)), *map(str, arguments)]
    env = os.environ | {"HF_HUB_OFFLINE": "1"} | environment
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, env=env)
    return done.returncode, done.stdout, done.stderr


def _logits(model: Path) -> Any:
    scores = CrossEncoder(model, device="cpu").predict(list(PAIRS), activation_fn="identity")
    return scores.reshape(len(PAIRS), -1)


@pytest.mark.slow
def test_an_artifact_of_optimum_scores_here_as_transformers_does(python: Path, tmp_path: Path) -> None:
    # Longer than the default positions and than what is traced, so that nothing of either is baked in.
    kinds = [(architecture, labels, MAX_LENGTH) for architecture in ARCHITECTURES for labels in (1, 2)]
    kinds += [(architecture, 1, 600) for architecture in ARCHITECTURES]
    checkpoints = {
        kind: make_checkpoint(tmp_path / "-".join(map(str, kind)), kind[0], labels=kind[1], max_length=kind[2])
        for kind in kinds
    }
    outputs = {kind: tmp_path / "artifacts" / checkpoint.name for kind, checkpoint in checkpoints.items()}
    jobs = [{"export": checkpoint, "output": outputs[kind]} for kind, checkpoint in checkpoints.items()]
    assert _run(python, jobs) == [None] * len(jobs)
    for kind, folder in outputs.items():
        architecture, labels, max_length = kind
        expected = transformers_logits(checkpoints[kind], PAIRS, max_length=max_length)
        np.testing.assert_allclose(_logits(folder), expected, atol=ATOL, err_msg=str(kind))
        manifest, skipped = verify_artifact(folder)  # the proof, with the figures of this environment
        assert [variant.name for variant in manifest.variants] == ["portable fp32"]
        assert skipped == []
        assert (manifest.exporter, manifest.source.architecture) == ("optimum", architecture)
        assert (manifest.head.labels, manifest.inputs.max_length) == (labels, max_length)
        parity = read_manifest(folder).variants[0].parity
        assert parity is not None
        assert parity.reference.startswith("transformers 4.")
        assert parity.max_abs < ATOL
        assert parity.alone_max_abs < ATOL  # padding reaches no score


@pytest.mark.slow
def test_optimum_exports_what_the_native_builder_knows_too(python: Path, tmp_path: Path) -> None:
    checkpoints = [tiny_models.make_checkpoint(tmp_path / name, name) for name in ("bert", "roberta")]
    outputs = [tmp_path / f"{checkpoint.name}-artifact" for checkpoint in checkpoints]
    jobs: list[dict[str, Any]] = [
        {"export": checkpoint, "output": output, "exporter": "optimum"}
        for checkpoint, output in zip(checkpoints, outputs, strict=True)
    ]
    # auto is the native exporter, whatever else is installed.
    jobs.append({"export": checkpoints[0], "output": tmp_path / "auto", "precisions": ["fp32"]})
    assert _run(python, jobs) == [None] * 3
    for checkpoint, output in zip(checkpoints, outputs, strict=True):
        np.testing.assert_allclose(_logits(output), transformers_logits(checkpoint, PAIRS), atol=ATOL)
    manifests = [read_manifest(folder) for folder in (outputs[0], tmp_path / "auto")]
    assert [manifest.exporter for manifest in manifests] == ["optimum", "native"]
    assert [manifest.inputs for manifest in manifests] == [manifests[0].inputs] * 2  # token types and all


@pytest.mark.slow
def test_a_folder_of_optimum_or_sentence_transformers_is_used_as_it_is(python: Path, tmp_path: Path) -> None:
    kinds = {"squeezebert": make_checkpoint, "bert": tiny_models.make_checkpoint}
    checkpoints = {name: make(tmp_path / name, name, labels=2) for name, make in kinds.items()}
    saved = tiny_models.make_checkpoint(tmp_path / "saved", "bert")
    jobs: list[dict[str, Any]] = [
        {"optimum": folder, "output": tmp_path / "out" / name} for name, folder in checkpoints.items()
    ]
    jobs.append({"sentence_transformers": saved, "output": tmp_path / "out" / "saved"})
    theirs = _run(python, jobs)[-1]
    for name, checkpoint in checkpoints.items():
        folder = tmp_path / "out" / name
        info = CrossEncoder(folder, device="cpu").info()
        assert (info.exporter, info.file, info.labels) == ("foreign", "model.onnx", 2)
        np.testing.assert_allclose(_logits(folder), transformers_logits(checkpoint, PAIRS), atol=ATOL)
    folder = tmp_path / "out" / "saved"
    np.testing.assert_allclose(_logits(folder), transformers_logits(saved, PAIRS), atol=ATOL)
    assert sorted(theirs) == ["model.onnx", "model_O3.onnx", "model_qint8_avx512_vnni.onnx"]
    for name, scores in theirs.items():
        model = CrossEncoder(folder / "onnx" / name, device="cpu")
        # Alone, since quantized scores depend on the batch. The same graph; only sums may be ordered otherwise.
        ours = [model.predict([pair], activation_fn="identity")[0] for pair in PAIRS]
        np.testing.assert_allclose(ours, scores, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_large_weights_lie_beside_their_graph(python: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "albert")
    job = {"export": checkpoint, "output": tmp_path / "artifact"}
    assert _run(python, [job], FORCE_ONNX_EXTERNAL_DATA="1") == [None]  # as beyond 2 GB
    moved = (tmp_path / "artifact").rename(tmp_path / "moved")
    assert {"onnx/model.onnx", "onnx/model.onnx_data"} <= files_of(moved)
    verify_artifact(moved)
    assert {"onnx/model.onnx", "onnx/model.onnx_data"} <= read_manifest(moved).files.keys()
    np.testing.assert_allclose(_logits(moved), transformers_logits(checkpoint, PAIRS), atol=ATOL)


@pytest.mark.slow
def test_the_commands_print_results_only(python: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "albert")
    home = {"CROSSRANK_HOME": str(tmp_path / "home")}
    status, out, err = _cli(python, "export-model", checkpoint, "-o", tmp_path / "artifact", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["exporter"] == "optimum"
    # A checkpoint that is named to the engine is exported into the cache, once.
    for _ in range(2):
        status, out, err = _cli(python, "crossrank", "info", "--model", checkpoint, "--json", **home)
        assert (status, err) == (0, "")
        info = json.loads(out)
        assert (info["exporter"], info["precision"]) == ("optimum", "fp32")
        assert Path(info["folder"]).parent == tmp_path / "home"
    status, out, err = _cli(python, "export-model", checkpoint, "--variants", "cpu", **home)
    assert (status, out) == (1, "")
    assert "cpu leads to no graph; the optimum exporter makes portable: fp32" in err


def _without_head(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("classifier.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _with_code(folder: Path) -> None:
    code = "from pathlib import Path\nPath(__file__).with_name('was_run').touch()\n"
    (folder / "own.py").write_text(code, encoding="utf-8")
    change_config(folder, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})


def _without_files(folder: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).unlink()


REFUSALS: dict[str, tuple[Callable[[Path], object], str, list[str]]] = {
    "no head": (_without_head, "CheckpointError", ["the weights lack classifier.weight", "at random"]),
    "own code": (_with_code, "UnsupportedModelError", ["model_type is 'own'", "does not export"]),
    "other kind": (
        lambda folder: change_config(folder, model_type="whisper"),
        "UnsupportedModelError",
        ["model_type is 'whisper'", "does not export"],
    ),
    "other shapes": (
        lambda folder: change_config(folder, intermediate_size=48),
        "CheckpointError",
        ["transformers cannot load it", "size mismatch"],
    ),
    "no weights, no tokenizer": (
        _without_files,
        "CheckpointError",
        ["2 problems", "no weights", "tokenizer.json"],
    ),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100]),
        "CheckpointError",
        ["model.safetensors", "weights cannot be read"],
    ),
    "small vocabulary": (lambda folder: change_config(folder, vocab_size=9), "CheckpointError", ["the model 9"]),
}


@pytest.mark.slow
def test_what_optimum_cannot_export_is_refused_and_nothing_is_written(python: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "albert")
    jobs: list[dict[str, Any]] = []
    for name, (change, _, _) in REFUSALS.items():
        folder = shutil.copytree(checkpoint, tmp_path / name)
        change(folder)
        jobs.append({"export": folder, "output": tmp_path / "out" / name})
    jobs.append({"export": checkpoint, "output": tmp_path / "out" / "native", "exporter": "native"})
    results = _run(python, jobs)
    for (name, (_, kind, words)), result in zip(REFUSALS.items(), results, strict=False):
        assert result is not None, name
        assert result[0] == kind, result
        for word in words:
            assert word in result[1], name
    assert results[-1][0] == "UnsupportedModelError"
    assert 'ask for it: export_model(exporter="optimum") (in a shell export-model --exporter optimum)' in results[-1][1]
    assert not (tmp_path / "own code" / "was_run").exists()
    assert not [path for path in files_of(tmp_path / "out") if not path.endswith(".lock")]
