"""A licence that allows no commercial use is said at export."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from crossrank.export import export_model
from crossrank.export._read.licence import say_licence
from crossrank.models import find_model
from tests.support.tiny_models import make_checkpoint


def said(folder: Path, card: str | None, caplog: pytest.LogCaptureFixture) -> str:
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        say_licence("someone/ranker", folder, None)
    return caplog.text


@pytest.mark.parametrize(
    "card",
    [
        "---\nlanguage: en\nlicense: cc-by-nc-4.0\n---\n# A reranker\n",
        '---\nlicense: "cc-by-nc-sa-4.0"\n---\n',
        "---\nlicense: other\nlicense_name: nvidia-non-commercial-license\n---\n",
        "---\r\nlicense: cc-by-nc-4.0\r\n---\r\n",
        "---\nlicense: cc-by-nc-4.0 # as its base\n---\n",
        "---\nlicense:\n- apache-2.0\n- cc-by-nc-4.0\ntags:\n- reranker\n---\n",
        "---\r\nlicense:\r\n  - cc-by-nc-4.0\r\n---\r\n",
        '---\nlicense: [apache-2.0, "cc-by-nc-4.0"]\n---\n',
        "---\nlicense: [apache-2.0,\n  cc-by-nc-4.0]\n---\n",
    ],
)
def test_restricted_licence_of_the_model_card_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, card: str
) -> None:
    text = said(tmp_path, card, caplog)
    assert "someone/ranker: its licence is " in text
    assert "no commercial use" in text


@pytest.mark.parametrize(
    "card",
    [
        None,
        "---\nlicense: apache-2.0\n---\n",
        "# No YAML\nlicense: cc-by-nc-4.0\n",
        "---\ntags:\n- nc\n---\nlicense: cc-by-nc-4.0\n",
        "---\nlicense:\n- apache-2.0\n- mit\ntags:\n- nc\n---\n",
        "---\nlicense: mit # and not cc-by-nc-4.0\n---\n",
        "---\nlicense: mit\nlicense_name: sync\n---\n",
        "---\nlicense: cc-by-nc-4.0\n",  # which has no end
    ],
)
def test_any_other_model_card_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture, card: str | None) -> None:
    assert said(tmp_path, card, caplog) == ""


def test_registry_says_it_where_there_is_no_model_card(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = find_model("ms-marco-MiniLM-L6-v2")
    assert known is not None
    say_licence(known.id, tmp_path, replace(known, licence="CC-BY-NC-4.0"))
    assert f"{known.id}: its licence is CC-BY-NC-4.0" in caplog.text


def test_export_says_it_and_ships_no_card(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_checkpoint(tmp_path / "ranker", "bert")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n", encoding="utf-8")
    artifact = export_model(folder, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    assert "ranker: its licence is cc-by-nc-4.0" in caplog.text
    assert not list(artifact.rglob("README*"))
