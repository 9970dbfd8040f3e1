"""The model that comes with crossrank: the default, everywhere, and in nobody's way."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crossrank import ArtifactError, CrossEncoder, ModelNotFoundError
from crossrank._artifact.locate import locate_model
from crossrank._artifact.manifest import read_manifest
from crossrank._artifact.origin import EMBEDDED_MODEL, EMBEDDED_NAME, repair
from crossrank._cli.main import main
from crossrank._machine.onnxruntime import ort
from crossrank._proof import read_proof, verify_artifact
from crossrank.export import export_model
from tests.support.artifacts import make_artifact
from tests.support.offline import OFFLINE

QUERY = "how many people live in berlin"
PASSAGES = [
    "Berlin is well known for its museums.",
    "Bread dough rises.",
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "Many people live in small towns around the lake.",
]
# What an environment without the exporter and without the registry imports.
ALONE = "import sys; sys.modules['crossrank.export'] = sys.modules['crossrank.models'] = None\n"


@pytest.fixture
def tiny_namesake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another artifact in the current folder, in the places and under the name of the embedded one."""
    artifact = make_artifact(tmp_path / "made")
    work = tmp_path / "work"
    for place in (EMBEDDED_NAME, f"models/{EMBEDDED_NAME}", f"crossrank/models/{EMBEDDED_NAME}"):
        shutil.copytree(artifact, work / place)
    monkeypatch.chdir(work)
    return work / EMBEDDED_NAME


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "passages.txt").write_text("\n".join(PASSAGES))
    return str(tmp_path / "passages.txt")


def test_default_ranks_without_exporter_registry_cache_and_network(tmp_path: Path) -> None:
    code = (
        f"{ALONE}{OFFLINE}import json\nfrom crossrank import CrossEncoder\nmodel = CrossEncoder()\n"
        f"print(json.dumps([model.info().source, model.rank({QUERY!r}, {PASSAGES!r})[0]['corpus_id']]))"
    )
    home = {name: str(tmp_path / "home") for name in ("HOME", "CROSSRANK_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | home, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [EMBEDDED_NAME, 2]


def test_scores_are_those_that_the_proof_measures() -> None:
    manifest, skipped = verify_artifact(EMBEDDED_MODEL)
    (variant,) = manifest.variants
    assert not skipped
    assert variant.parity is not None
    proof = read_proof(EMBEDDED_MODEL)
    logits = CrossEncoder().predict(proof.pairs, activation_fn="identity")
    difference = np.abs(logits - proof.logits[:, 0])
    # Batches of other shapes round floats differently, which a quantizer may turn into a step of int8.
    assert difference.max() == pytest.approx(variant.parity.max_abs, abs=2e-3)
    assert difference.mean() == pytest.approx(variant.parity.mean_abs, abs=1e-4)


def test_info_says_what_verify_measures() -> None:
    recorded, measured = (
        manifest.variants[0].parity for manifest in (read_manifest(EMBEDDED_MODEL), verify_artifact(EMBEDDED_MODEL)[0])
    )
    assert recorded is not None
    assert measured is not None
    # Other processors' int8 products and other onnxruntimes' floats move a few pairs.
    assert recorded.kendall_tau == pytest.approx(measured.kendall_tau, abs=8e-3)


def test_its_name_is_the_same_model() -> None:
    named = CrossEncoder(EMBEDDED_NAME)
    assert named.info().folder == CrossEncoder().info().folder == EMBEDDED_MODEL
    np.testing.assert_array_equal(named.score(QUERY, PASSAGES), CrossEncoder().score(QUERY, PASSAGES))


def test_no_folder_takes_the_place_of_the_default(tiny_namesake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert CrossEncoder().info().folder == EMBEDDED_MODEL
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(EMBEDDED_MODEL)
    # A folder that is named goes before a name, as with every model.
    assert CrossEncoder(EMBEDDED_NAME).info().folder == tiny_namesake


def test_auto_is_int8_and_another_precision_names_what_there_is() -> None:
    info = CrossEncoder(device="cpu").info()
    assert (info.variant, info.precision, info.file) == ("cpu", "int8", "onnx/model_cpu_int8.onnx")
    with pytest.raises(ArtifactError, match=r"there is cpu int8 alone; take that, or name the ONNX file itself$"):
        CrossEncoder(precision="fp32")


def test_a_damaged_one_comes_with_the_package_again() -> None:
    assert repair(EMBEDDED_MODEL).startswith("install crossrank again (pip install --force-reinstall crossrank")


def test_a_gpu_that_it_has_no_graph_for_is_no_reason_to_warn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert CrossEncoder().info().device == "cpu"
    assert not caplog.records
    with pytest.raises(ArtifactError, match=r"no graph for device cuda:0 .* there is cpu int8 alone; take that"):
        CrossEncoder(device="cuda")


def test_export_of_its_name_says_that_there_is_nothing_to_export() -> None:
    with pytest.raises(ModelNotFoundError, match="artifact that comes with crossrank"):
        export_model(EMBEDDED_NAME)


def test_no_name_at_all_is_still_refused() -> None:
    for name in ("", None):  # a setting that is absent must not choose a model
        with pytest.raises(ValueError, match="the model's name is"):
            CrossEncoder(name)  # type: ignore[arg-type]


def test_an_installation_without_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="the embedded model is part of crossrank: install crossrank again"):
        locate_model(EMBEDDED_NAME, embedded=tmp_path / EMBEDDED_NAME)


def test_folder_holds_the_artifact_its_card_and_scripts_and_nothing_else() -> None:
    manifest = read_manifest(EMBEDDED_MODEL)
    assert [variant.name for variant in manifest.variants] == ["cpu int8"]
    assert manifest.source.name == EMBEDDED_NAME
    files = {path.relative_to(EMBEDDED_MODEL).as_posix() for path in EMBEDDED_MODEL.rglob("*") if path.is_file()}
    rest = {file for file in files if not file.endswith((".py", ".pyc"))}
    assert rest == {*manifest.files, "crossrank.json", "README.md"}


def test_rank_needs_no_model(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", QUERY, file, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    ranking = CrossEncoder().rank(QUERY, PASSAGES, return_documents=True)
    assert [json.loads(line) for line in out.splitlines()] == ranking
    assert ranking[0]["corpus_id"] == 2


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["info"], [EMBEDDED_NAME, "cpu int8", "parity"]),
        (["bench", "--documents", "1", "--seconds", "0.05"], [EMBEDDED_NAME, "cpu int8", "\nint8 "]),
        (["verify"], [f"{EMBEDDED_MODEL}: ", "files with the right sha256", "cpu int8"]),
        (["verify", EMBEDDED_NAME], [f"{EMBEDDED_MODEL}: ", "cpu int8"]),
        (["info", "--model", EMBEDDED_NAME], [f"{EMBEDDED_MODEL}\n", "cpu int8"]),
    ],
    ids=lambda value: value[0],
)
def test_the_other_commands_need_none_either(
    capsys: pytest.CaptureFixture[str], arguments: list[str], facts: list[str]
) -> None:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for fact in facts:
        assert fact in out
