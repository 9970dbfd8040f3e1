"""Calls as an expert of any runtime arranges them: few padded tokens, and every core busy with batches of its own."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from benchmarks import ROOT

from ._scores import relevance

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_BUDGET = 1024  # tokens of a batch, padding included

Batch = tuple[list[int], list[Encoding]]  # the documents' places in the call, and their pairs
Rows = list[NDArray[Any]]


def open_tokenizer(folder: Path) -> Tokenizer:
    """A checkpoint's own, in Rust; pairs are cut as transformers cuts them."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer.enable_truncation(config["max_position_embeddings"])
    return tokenizer


def scorer(
    tokenizer: Tokenizer, threads: int, run: Callable[[list[Batch]], Iterable[Any]], *, multiple: int = 1
) -> Callable[[str, list[str]], Any]:
    """A function from a query and documents to a score for each, where ``run`` gives the logits of each batch."""

    def score(query: str, documents: list[str]) -> Any:
        pairs = tokenizer.encode_batch_fast([(query, document) for document in documents])
        batches = list(plan(pairs, threads, multiple))
        scores = np.empty(len(documents))
        for (places, _), logits in zip(batches, run(batches), strict=True):
            scores[places] = relevance(logits)
        return scores

    return score


def plan(pairs: list[Encoding], threads: int, multiple: int = 1) -> Iterator[Batch]:
    """Batches of pairs of like length, the longest first, which all threads get their share of."""
    tokens = sum(map(len, pairs))
    budget = min(_BUDGET, -(-tokens // threads))
    order = sorted(range(len(pairs)), key=lambda place: -len(pairs[place]))
    while order:
        size = max(1, budget // width_of(pairs[order[0]], multiple))
        yield order[:size], [pairs[place] for place in order[:size]]
        order = order[size:]


def width_of(longest: Encoding, multiple: int) -> int:
    """Columns of a batch."""
    return -(-len(longest) // multiple) * multiple


def pad(pairs: list[Encoding], names: Iterable[str], multiple: int = 1) -> dict[str, NDArray[np.int64]]:
    """What a graph with these inputs takes for a batch, whose longest pair comes first: int64 [pairs, tokens]."""
    shape = (len(pairs), width_of(pairs[0], multiple))
    arrays = {name: np.zeros(shape, np.int64) for name in INPUTS if name in names}
    for row, pair in enumerate(pairs):
        for name, values in zip(INPUTS, (pair.ids, pair.attention_mask, pair.type_ids), strict=True):
            if name in arrays:
                arrays[name][row, : len(values)] = values
    return arrays


def calibration_pairs(tokenizer: Tokenizer) -> list[Encoding]:
    """The texts that our own int8 is calibrated on, of which none is measured."""
    lines = (ROOT / "export" / "texts" / "calibration.jsonl").read_text(encoding="utf-8").splitlines()
    entries = map(json.loads, lines)
    return tokenizer.encode_batch([(entry["query"], entry["document"]) for entry in entries])


def copy_settings(source: Path, output: Path) -> None:
    """What `open_tokenizer` and others read, into a new folder."""
    output.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, output / name)
