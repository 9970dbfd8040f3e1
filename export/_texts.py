"""The texts that are shipped with the exporter, to prove graphs on and to calibrate int8 with."""

import json
from importlib import resources


def load_pairs(name: str) -> list[tuple[str, str]]:
    """The pairs "proof" or "calibration", as (query, document)."""
    lines = (resources.files("crossrank.export") / "texts" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return [(pair["query"], pair["document"]) for pair in map(json.loads, filter(None, lines))]
