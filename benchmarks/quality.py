"""nDCG@10 and MRR@10 of an artifact, beside its first stage's."""

import argparse
import json
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from crossrank import CrossEncoder

from ._machine import describe_machine, git_commit
from ._measures import Quality, measure_first_stage, measure_scores
from ._options import ROOT, add_collection_arguments, command_line, open_collection, positive
from ._text import format_table, progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_collection_arguments(parser)
    parser.add_argument("--model", required=True, help="an artifact folder, a checkpoint folder or a hub name")
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["auto"],
        choices=["auto", "fp32", "fp16", "int8"],
        help="one or more (default: auto, the device's own)",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all this process may use)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    """Score the collection with each precision and print the figures."""
    collection = open_collection(options)
    found: dict[str, Quality] = {f"first stage, {collection.first_stage}": measure_first_stage(collection)}
    for precision in options.precision:
        model = CrossEncoder(options.model, precision=precision, threads=options.threads)
        info = model.info()
        tick = progress(len(collection.candidates), "queries")
        scores = []
        for entry in collection.candidates:
            scores.append(model.score(entry.query, entry.documents))
            tick()
        found[f"{info.variant} {info.precision}, {info.provider}"] = measure_scores(collection, scores)
    facts = {
        "benchmark": "quality",
        "commit": git_commit(ROOT),
        "command": command_line(options),
        "machine": describe_machine(),
        "versions": {name: metadata.version(name) for name in ("crossrank", "onnxruntime", "numpy", "tokenizers")},
        "data": collection.name,
        "queries": len(collection.candidates),
        "documents": sum(len(entry.documents) for entry in collection.candidates),
        "mrr_counts_grades_from": collection.relevant_grade,
        "model": Path(options.model).name,
    }
    if options.json:
        print(json.dumps(facts | {"results": {name: asdict(quality) for name, quality in found.items()}}, indent=2))
        return
    print(
        f"{facts['data']}: {facts['queries']} queries, {facts['documents']} documents; "
        f"MRR counts grades >= {collection.relevant_grade}\nmodel: {options.model}"
    )
    rows = [(name, f"{quality.ndcg_at_10:.4f}", f"{quality.mrr_at_10:.4f}") for name, quality in found.items()]
    print(format_table([("", "nDCG@10", "MRR@10"), *rows]))
