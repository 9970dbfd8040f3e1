"""The program of ``make demo``."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from crossrank.export import export_model
from tests.support.tiny_models import make_checkpoint


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = spec_from_file_location("demo", Path(__file__).parents[2] / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "tiny-bert", "bert")


def test_demo_without_a_model_ranks_with_the_embedded_one(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([]) == 0
    out, ranking = capsys.readouterr().out.split(demo.QUERY)
    for fact in ("crossrank-mini-en", "cpu int8", " ms, ", " docs/s"):
        assert fact in out
    best = [line[16:40] for line in ranking.splitlines() if line[:3] in ("  1", "  2")]
    assert set(best) == {demo.PASSAGES[1][:24], demo.PASSAGES[4][:24]}


def test_demo_ranks_every_passage_with_a_checkpoint_and_its_artifact(
    demo: ModuleType,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "cache"))
    # Fewer graphs than a first use makes: the demo takes what the cache has.
    artifact = export_model(checkpoint, variants=["cpu"], precisions=["fp32"])
    manifest = (artifact / "crossrank.json").read_bytes()
    for model in (checkpoint, artifact):
        assert demo.main([str(model)]) == 0
        out = capsys.readouterr().out
        assert demo.QUERY in out
        assert all(passage[:20] in out for passage in demo.PASSAGES)
        assert "cpu fp32" in out
    assert (artifact / "crossrank.json").read_bytes() == manifest


def test_demo_of_an_unknown_model_fails_with_a_message(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["no/such/model/here"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_demo_exports_a_trained_checkpoint_and_puts_the_answers_first(
    demo: ModuleType,
    trained_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path))
    assert demo.main([str(trained_checkpoint)]) == 0
    ranking = capsys.readouterr().out.partition(demo.QUERY)[2].split("\n")
    assert {line[16:40] for line in ranking if line[:3] in ("  1", "  2")} == {
        demo.PASSAGES[1][:24],
        demo.PASSAGES[4][:24],
    }
