"""``quality``: artifacts rank judged queries, beside other systems' runs, and what differs by luck."""

import argparse
import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.inputs.collections import Collection
from benchmarks.inputs.files import write_whole
from benchmarks.inputs.models import split_name
from benchmarks.inputs.trec import Run, read_run, run_tag, write_run
from benchmarks.measure.quality import (
    HEADINGS,
    Comparison,
    Quality,
    compare_queries,
    first_stage_run,
    mean_quality,
    measure_run,
    scored_run,
)
from benchmarks.measure.systems import System, check_distinct, check_names, open_systems
from benchmarks.measure.turns import Floats
from benchmarks.options import add_collection_options, add_options, open_collection
from benchmarks.reporting.result import describe_evaluation, describe_machine
from benchmarks.reporting.tables import format_table, progress, shown
from crossrank import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_collection_options(parser)
    add_options(parser, "threads", threads=None)
    parser.add_argument(
        "--run-in",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE",
        help="TREC runs of other systems, cut to --documents, measured beside the models",
    )
    parser.add_argument("--run-out", type=Path, metavar="FOLDER", help="write a TREC run of every system")
    parser.add_argument("--per-query", type=Path, metavar="FILE.csv", help="write the measures of every query")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    """Score the collection with each model and precision, and print the figures."""
    machine, collection = describe_machine(), open_collection(options)
    _check_outputs(options)
    given = _read_runs(options, collection)
    first_stage = f"first stage, {collection.first_stage}"
    runs: dict[str, Run] = {first_stage: first_stage_run(collection)}
    for system in open_systems(options):
        # With one model the name says how it runs; that it is the model, the result says once.
        name = system.name if len(options.model) > 1 else system.name.removeprefix(f"{system.label}, ")
        if name not in runs:  # "auto" may be one of the other precisions
            runs[name] = scored_run(collection, _score(system, collection))
    check_distinct([run_tag(name) for name in (*runs, *given)])
    runs |= given
    found = {name: measure_run(collection, run) for name, run in runs.items()}
    means = {name: mean_quality(values) for name, values in found.items()}
    baseline = [*runs][min(1, len(runs) - 1)]
    comparisons = {name: _compare(found[name], found[baseline]) for name in runs if name != baseline}
    if options.run_out:
        options.run_out.mkdir(exist_ok=True)
        for name, run in runs.items():
            tag = run_tag(name)
            write_run(options.run_out / f"{tag}.run", run, tag=tag)
    if options.per_query:
        write_whole(options.per_query, _format_csv(found))
    facts = describe_evaluation(options, collection, machine)
    facts |= {"model": ", ".join(split_name(text)[0] for text in options.model)}
    if options.json:
        compared = {
            name: {measure: asdict(one) for measure, one in values.items()} for name, values in comparisons.items()
        }
        results = {name: asdict(quality) for name, quality in means.items()}
        print(json.dumps(facts | {"results": results, "compared_with": baseline, "comparisons": compared}, indent=2))
        return
    table = [["", *HEADINGS.values()], *([name, *shown(asdict(one).values(), ".4f")] for name, one in means.items())]
    print(
        f"{facts['data']}: {facts['queries']} queries, {facts['documents']} documents; "
        f"all but nDCG count grades >= {collection.relevant_grade}\nmodel: {facts['model'] or 'none'}\n"
        f"{format_table(table)}"
    )
    if comparisons:
        print(f"\ncompared with {baseline}; p of the paired randomization test, not corrected for their number")
        print(_format_comparisons(comparisons))


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse before hours of scoring what could not be written after them."""
    for option, path in (("--run-out", options.run_out), ("--per-query", options.per_query)):
        if path and not path.parent.is_dir():
            raise InputError(f"{option} {path}: there is no folder {path.parent}")
    if options.run_out and options.run_out.exists() and not options.run_out.is_dir():
        raise InputError(f"--run-out {options.run_out} is a file: name a folder")
    if options.per_query and options.per_query.is_dir():
        raise InputError(f"--per-query {options.per_query} is a folder: name a file")


def _read_runs(options: argparse.Namespace, collection: Collection) -> dict[str, Run]:
    named = [split_name(text) for text in options.run_in]
    check_names([name for name, _ in named])
    runs: dict[str, Run] = {}
    for name, path in named:
        run = read_run(Path(path))
        kept = {query_id: hits[: options.documents] for query_id, hits in run.items() if query_id in collection.qrels}
        if not kept:
            raise InputError(f"run {path}: none of its {len(run)} queries is among those of {collection.name}")
        runs[name] = kept
    return runs


def _score(system: System, collection: Collection) -> list[Floats]:
    tick = progress(len(collection.candidates), "queries")
    scores = []
    for entry in collection.candidates:
        scores.append(system.encoder.score(entry.query, entry.documents))
        tick()
    return scores


def _compare(found: Mapping[str, Quality], others: Mapping[str, Quality]) -> dict[str, Comparison]:
    """By measure; both have the same queries."""
    return {
        measure: compare_queries(*([getattr(values[key], measure) for key in found] for values in (found, others)))
        for measure in HEADINGS
    }


def _format_csv(found: Mapping[str, Mapping[str, Quality]]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["query_id", "system", *HEADINGS])
    for name, values in found.items():
        rows.writerows([query_id, name, *asdict(quality).values()] for query_id, quality in values.items())
    return text.getvalue()


def _format_comparisons(comparisons: Mapping[str, Mapping[str, Comparison]]) -> str:
    rows = [["", "measure", "difference", "p", "better", "worse", "equal"]]
    for name, values in comparisons.items():
        for measure, one in values.items():
            counts = (str(count) for count in (one.better, one.worse, one.equal))
            rows.append([name, HEADINGS[measure], f"{one.difference:+.4f}", f"{one.p_value:.4f}", *counts])
    return format_table(rows)
