"""Documents per second of whole calls, texts in and scores out, ours against others', and their quality."""

import argparse
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from crossrank import InputError
from crossrank.export import export_model

from ._data import Collection
from ._engines import PEERS, Opener, Precision, our_engines
from ._interleave import Summary, interleave, summarize
from ._machine import describe_machine
from ._measures import measure_first_stage
from ._options import add_collection_arguments, command_line, open_collection, positive
from ._text import format_table, progress
from ._worker import Worker

_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
_TIMED = "whole calls, texts in and scores out, tokenizing included; one call is one query with its documents"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_collection_arguments(parser)
    parser.add_argument("--model", type=Path, required=True, metavar="CHECKPOINT", help="a checkpoint folder")
    parser.add_argument("--against", choices=sorted(PEERS), help="a peer, the baseline (default: our own fp32)")
    parser.add_argument(
        "--threads", type=positive, default=2, metavar="N", help="threads of every engine (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=positive, default=5, metavar="N", help="passes over all queries (default: %(default)s)"
    )
    parser.add_argument(
        "--warm-up", type=positive, default=3, metavar="N", help="calls before the first that counts (default: 3)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the report")


def run(options: argparse.Namespace) -> None:
    """Export the checkpoint anew, time all engines in turns, print and write the report."""
    if not options.model.is_dir():
        raise InputError(f"--model {options.model}: a checkpoint folder is needed, since all engines load the same one")
    if options.output and not options.output.parent.is_dir():
        raise InputError(f"--output {options.output}: there is no folder {options.output.parent}")
    collection = open_collection(options)
    machine = describe_machine()
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        # Not from the cache: what is measured is what this checkout exports.
        artifact = export_model(options.model, Path(scratch) / "artifact", variants=["cpu"], precisions=_PRECISIONS)
        openers = our_engines(artifact, _PRECISIONS, options.threads)
        if options.against:
            openers[options.against] = partial(PEERS[options.against], options.model, threads=options.threads)
        workers = _start(openers, options.threads, stack)
        series = interleave(
            workers,
            collection.candidates,
            warm_up=options.warm_up,
            repeats=options.repeats,
            report=progress(options.repeats * len(collection.candidates), "calls of each engine"),
        )
    baseline = options.against or next(iter(openers))
    summaries = summarize(series, collection, baseline=baseline)
    print(format_report(summaries, collection, baseline=baseline, threads=options.threads))
    if options.output:
        report = _report(options, collection, machine, workers, summaries, baseline)
        options.output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _report(
    options: argparse.Namespace,
    collection: Collection,
    machine: dict[str, object],
    workers: Mapping[str, Worker],
    summaries: Mapping[str, Summary],
    baseline: str,
) -> dict[str, object]:
    return {
        "benchmark": "throughput",
        "date": datetime.now(UTC).date().isoformat(),
        "command": command_line(options),
        "timed": _TIMED,
        "machine": machine,
        "threads": options.threads,
        "versions": {name: v for worker in workers.values() for name, v in sorted(worker.versions.items())},
        "model": options.model.resolve().name,
        "data": {
            "name": collection.name,
            "queries": len(collection.candidates),
            "documents": sum(len(entry.documents) for entry in collection.candidates),
            "mrr_counts_grades_from": collection.relevant_grade,
            "first_stage": collection.first_stage,
            "first_stage_quality": asdict(measure_first_stage(collection)),
        },
        "warm_up_calls": options.warm_up,
        "repeats": options.repeats,
        "baseline": baseline,
        "engines": {name: workers[name].facts | asdict(summary) for name, summary in summaries.items()},
    }


def format_report(summaries: Mapping[str, Summary], collection: Collection, *, baseline: str, threads: int) -> str:
    """The table of a run, and a line that says what was timed."""
    rows: list[tuple[str, ...]] = [
        ("", "docs/s", "min", "max", "ratio", "min", "max", "max |Δ|", "mean |Δ|", "nDCG@10", "MRR@10")
    ]
    for name, summary in summaries.items():
        speed, ratio, quality = summary.docs_per_s, summary.ratio, summary.quality
        rows.append(
            (
                name,
                *(f"{value:.1f}" for value in (speed.median, speed.min, speed.max)),
                *(f"{value:.2f}" for value in (ratio.median, ratio.min, ratio.max)),
                *(f"{value:.1e}" for value in (summary.max_abs_delta, summary.mean_abs_delta)),
                *(f"{value:.4f}" for value in (quality.ndcg_at_10, quality.mrr_at_10)),
            )
        )
    first = measure_first_stage(collection)
    figures = (f"{first.ndcg_at_10:.4f}", f"{first.mrr_at_10:.4f}")
    rows.append((f"first stage, {collection.first_stage}", *("",) * 8, *figures))
    return (
        f"{collection.name}, {len(collection.candidates)} queries, {threads} threads: {_TIMED}\n"
        f"ratio and Δ are to {baseline}, in the same repeat\n{format_table(rows)}"
    )


def _start(openers: Mapping[str, Opener], threads: int, stack: ExitStack) -> dict[str, Worker]:
    return {name: stack.enter_context(Worker(opener, threads=threads)) for name, opener in openers.items()}
