"""Damaged folders: no crash, no hang, no unbounded allocation, and only our own errors."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crossrank.export import export_model
from tests.support.artifacts import make_artifact
from tests.support.foreign_graphs import strip_artifact
from tests.support.golden_checkpoints import AdapterCase
from tests.support.stored_checkpoints import as_modules_with_a_folder, as_pytorch, sharded, with_vocabulary_alone
from tests.support.tiny_models import make_checkpoint

ROOT = Path(__file__).parents[2]
FOLDERS = {"checkpoint": "checkpoints", "manifest": "artifacts", "model": "models"}  # the fixture of each kind


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints in many forms."""
    work = tmp_path_factory.mktemp("fuzz-checkpoints")
    (work / "bases").mkdir()
    for architecture in ("bert", "roberta", "distilbert", "xlm-roberta", "mpnet"):
        make_checkpoint(work / "bases" / architecture, architecture)
    for store in (sharded, as_pytorch, with_vocabulary_alone, as_modules_with_a_folder):
        store(Path(shutil.copytree(work / "bases" / "bert", work / "bases" / store.__name__)))
    return work


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("fuzz-artifacts")
    (work / "bases").mkdir()
    make_artifact(work / "made").rename(work / "bases" / "artifact")
    return work


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of three kinds of tokenizer, with one label and with two, and the settings and graph of one."""
    work = tmp_path_factory.mktemp("fuzz-models")
    (work / "bases").mkdir()
    for labels, architecture in enumerate(("bert", "roberta", "xlm-roberta")):
        checkpoint = make_checkpoint(work / architecture, architecture, labels=1 + labels % 2)
        export_model(checkpoint, work / "bases" / architecture, variants=["portable"], precisions=["fp32"])
    strip_artifact(work / "bases" / "bert", work / "bases" / "foreign")
    return work


def run(work: Path, kind: str, *options: str) -> dict[str, Any]:
    """In a process of its own: a crash or the bound on memory must not take the tests with it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fuzz_folders", str(work), "--kind", kind, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.stdout, f"exit {done.returncode}: {done.stderr[-2000:]}"
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(report)
    assert not report["failures"], "\n".join(report["failures"][:20])
    assert report["growth_mb"] < 500
    # Neither all refused nor all read: the injuries are of the kind that matters.
    assert report["folders"] * 0.02 < report["outcomes"]["read"] < report["folders"] * 0.8
    return report


@pytest.mark.parametrize(
    ("kind", "count"), [("checkpoint", 300), ("manifest", 300), ("model", 100)], ids=["checkpoint", "manifest", "model"]
)
def test_damaged_folders_are_read_or_refused(kind: str, count: int, request: pytest.FixtureRequest) -> None:
    run(request.getfixturevalue(FOLDERS[kind]), kind, f"--count={count}", "--seed=0")


@pytest.mark.parametrize("kind", ["checkpoint", "model"])
def test_odd_values_of_settings_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "bases" / "bert", "bert")
    if kind == "model":
        artifact = export_model(checkpoint, tmp_path / "made", variants=["portable"], precisions=["fp32"])
        shutil.rmtree(checkpoint)
        strip_artifact(artifact, checkpoint)
    else:
        for store in (with_vocabulary_alone, as_modules_with_a_folder):
            store(Path(shutil.copytree(checkpoint, tmp_path / "bases" / store.__name__)))
        AdapterCase().write_beside(checkpoint)
    run(tmp_path, kind, "--sweep")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOLDERS)
def test_ten_thousand_damaged_folders_are_read_or_refused(kind: str, request: pytest.FixtureRequest) -> None:
    run(request.getfixturevalue(FOLDERS[kind]), kind, "--count=10000", "--seed=1")
