"""The benchmark of the server: a run to its end, and what it counts."""

import json
from pathlib import Path

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

from benchmarks.__main__ import main
from tests.support.tiny_models import make_checkpoint


def test_a_short_run_measures_all_three_and_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "cache"))
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert")
    output = tmp_path / "serve.json"
    arguments = ["serve", "--model", str(checkpoint), "--rounds", "1", "--seconds", "0.2", "--soak", "1000"]
    assert main([*arguments, "--output", str(output), "--bench", str(tmp_path / "bench")]) == 0
    result = json.loads(output.read_text())
    assert set(result["loads"]["16 closed"]) == {"in process", "crossrank serve", "FastAPI + sentence-transformers"}
    for servers in result["loads"].values():
        for figures in servers.values():
            assert figures["failed"]["median"] == 0
            assert figures["docs_per_s"]["median"] > 0
    assert result["soak"]["documents"] >= 1_000
    assert "16 closed" in capsys.readouterr().out
