"""The texts that are shipped with the exporter, to prove graphs on and to calibrate int8 with."""

import json
from collections.abc import Sequence
from importlib import resources

from crossrank._errors import InputError
from crossrank._text.tokenizer import PairTokenizer


def load_pairs(name: str, tokenizer: PairTokenizer | None = None) -> list[tuple[str, str]]:
    """The pairs "proof" or "calibration", as (query, document).

    Args:
        name: Of one of the two.
        tokenizer: Pairs that it refuses are left out: their special tokens are none of its model's.
    """
    lines = (resources.files("crossrank.export") / "texts" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    pairs = [(pair["query"], pair["document"]) for pair in map(json.loads, filter(None, lines))]
    return pairs if tokenizer is None else [pair for pair in pairs if _takes(tokenizer, pair)]


def _takes(tokenizer: PairTokenizer, texts: Sequence[str]) -> bool:
    try:
        tokenizer.encode(texts, "text")
    except InputError:
        return False
    return True
