"""Test data that is too large, or too restricted, for the repository: further cases of tests that run without it.

CROSSRANK_TEST_DATA names its folder, by default ../shared beside the checkout. Each test or case that wants some of it
bears the mark ``data`` with the paths; where they are absent it is deselected, as pytest's first lines say.
``pytest -m data`` runs what a checkout with nothing beside it leaves out.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("CROSSRANK_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared").resolve()

MINILM = "models/ms-marco-MiniLM-L12-v2"
MULTILINGUAL_BERT = "tokenizers/bert-base-multilingual-cased"
XLM_ROBERTA = "tokenizers/xlm-roberta"
TREC_DL19 = "data/trec-dl19"
SCIFACT = "data/scifact"
XQUAD = "data/xquad"


def case(path: str, value: Any = None) -> Any:
    """A parameter that needs ``path`` below the folder: ``value``, or by default the whole path."""
    place = FOLDER / path
    return pytest.param(place if value is None else value, id=place.name, marks=pytest.mark.data(path))


def is_absent(item: pytest.Item) -> bool:
    """Whether a test or a case needs what is not there."""
    return any(not (FOLDER / path).exists() for mark in item.iter_markers("data") for path in mark.args)


def read_run() -> list[tuple[str, list[str]]]:
    """The queries of TREC Deep Learning 2019 with the passages that BM25 found for each, best first."""
    run = json.loads((FOLDER / TREC_DL19 / "bm25-top100.json").read_text("utf-8"))
    return [(query["query"], [hit["content"] for hit in query["hits"]]) for query in run]


def read_abstracts() -> list[str]:
    """SciFact's abstracts."""
    lines = (FOLDER / SCIFACT / "corpus.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def read_xquad() -> dict[str, list[tuple[str, list[str]]]]:
    """Paragraphs with their questions, by language."""
    return {
        path.suffixes[0][1:]: [
            (paragraph["context"], [entry["question"] for entry in paragraph["qas"]])
            for article in json.loads(path.read_text("utf-8"))["data"]
            for paragraph in article["paragraphs"]
        ]
        for path in sorted((FOLDER / XQUAD).glob("*.json"))
    }
