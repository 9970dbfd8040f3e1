"""`make test-rig`: where there is no emulation of CUDA it says why and passes; where one is broken it fails."""

import platform
import shutil
import sys
from pathlib import Path

import pytest

from tests.support import emulated


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the emulation in which nothing is yet, on a machine that has all tools."""
    monkeypatch.setattr(emulated, "SOURCE", tmp_path / "cuda-rig")
    monkeypatch.setattr(emulated, "BUILT", tmp_path / "built")
    monkeypatch.setattr(sys, "argv", ["emulated"])
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    return tmp_path / "cuda-rig"


def write_make(source: Path, script: str) -> None:
    source.mkdir()
    (source / "make.sh").write_text(script)


def test_without_its_folder_it_is_skipped(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert emulated.main() == 0
    assert capsys.readouterr().out.startswith(f"skipped, no emulation of CUDA: there is no {source}: set CROSSRANK_")


@pytest.mark.parametrize(
    ("where", "name", "value", "reason"),
    [
        (shutil, "which", None, "g++, nm, readelf not found: install g++ 12 or newer, and binutils"),
        (platform, "machine", "aarch64", "it is for Linux on x86-64, and this is Linux on aarch64"),
    ],
)
def test_where_it_cannot_be_built_it_is_skipped(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    where: object, name: str, value: object, reason: str,
) -> None:  # fmt: skip
    write_make(source, "exit 1")
    monkeypatch.setattr(where, name, lambda *_: value)
    assert emulated.main() == 0
    assert reason in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_where_there_is_no_package_index_it_is_skipped(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_make(source, "echo 'download onnxruntime-gpu==1.31.1'; echo 'no index' >&2; exit 1")
    assert emulated.main() == 0
    assert "download onnxruntime-gpu==1.31.1 failed: no index" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_where_it_is_broken_it_fails(source: Path) -> None:
    write_make(source, "echo 'compile runtime.cpp'; echo 'error: no such type' >&2; exit 1")
    with pytest.raises(SystemExit, match="error: no such type"):
        emulated.main()
