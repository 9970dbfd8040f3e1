"""``quality``: how well and how fast systems rank judged queries, beside others' runs, and what differs by luck."""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from benchmarks.inputs.collections import Collection
from benchmarks.inputs.files import write_whole
from benchmarks.inputs.models import split_name
from benchmarks.inputs.trec import Run, read_run, run_tag, write_run
from benchmarks.measure.quality import (
    HEADINGS,
    Quality,
    compare_queries,
    first_stage_run,
    mean_quality,
    measure_run,
    scored_run,
)
from benchmarks.measure.speeds import Speed, deal, weigh
from benchmarks.measure.systems import check_distinct, check_names, open_systems
from benchmarks.measure.turns import interleave, on_texts, timed
from benchmarks.options import add_collection_options, add_options, check_output, open_collection, positive
from benchmarks.reporting.plots import Point, draw_tradeoff
from benchmarks.reporting.result import describe_machine, describe_run, write_result
from benchmarks.reporting.tables import format_table, progress, shown, spread_cells
from crossrank import InputError

_PACKAGES = ("crossrank", "onnxruntime", "numpy", "tokenizers", "ir-measures")
_TIMED = "whole calls, texts in and ranking out, tokenizing included; one call is one query with its candidates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_collection_options(parser)
    output = {"help": "write the result, and beside it the plot of quality over documents per second, FILE.png"}
    rounds = {"help": "parts of the queries (default: %(default)s)"}
    add_options(parser, "threads", "output", "rounds", "warm-up", output=output, rounds=rounds, warm_up=3)
    add = parser.add_argument
    add("--cascade", nargs=2, metavar=("SMALL", "BIG"), help="two models, in the first --precision, as a cascade")
    add(
        "--depths",
        nargs="+",
        type=positive,
        default=[5, 10, 20, 30, 40, 50],
        metavar="K",
        help="documents of a query that BIG reads (default: 5 10 20 30 40 50)",
    )
    add(
        "--run-in",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE",
        help="TREC runs of other systems, cut to --documents, measured beside the models",
    )
    add("--run-out", type=Path, metavar="FOLDER", help="write a TREC run of every system")
    add("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace, *, draw: Callable[..., bytes] = draw_tradeoff) -> None:
    """Rank every query with every system in turns, print the figures, and write what is asked for.

    Where matplotlib, which the plot needs, is not installed, the result is written before the error.
    """
    machine, collection = describe_machine(), open_collection(options)
    _check_outputs(options)
    given = _read_runs(options, collection)
    systems = open_systems(options)
    first_stage = f"first stage, {collection.first_stage}"
    check_distinct([run_tag(name) for name in (first_stage, *systems, *given)])
    workload = deal(collection, rounds=options.rounds, warm_up=options.warm_up)
    assert workload.collection is not None, "deal keeps it"
    engines = {name: timed(on_texts(system.score)) for name, system in systems.items()}
    tick = progress(len(workload.rounds) * len(engines), "turns")
    series, _ = interleave(engines, workload.warm_up, workload.rounds, report=tick)
    speeds = weigh(series, workload)
    ours = {name: scored_run(workload.collection, one.all_scores) for name, one in series.items()}
    runs: dict[str, Run] = {first_stage: first_stage_run(collection), **ours, **given}
    found = {name: measure_run(collection, ranking) for name, ranking in runs.items()}
    means = {name: mean_quality(values) for name, values in found.items()}
    baseline = [*runs][min(1, len(runs) - 1)]
    comparisons = {name: _compare(found[name], found[baseline]) for name in runs if name != baseline}
    if options.run_out:
        options.run_out.mkdir(exist_ok=True)
        for name, ranking in runs.items():
            tag = run_tag(name)
            write_run(options.run_out / f"{tag}.run", ranking, tag=tag)
    result = describe_run(options, machine, timed=_TIMED) | {
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "data": collection.name,
        "queries": len(collection.candidates),
        "documents": sum(len(entry.documents) for entry in collection.candidates),
        "mrr_counts_grades_from": collection.relevant_grade,
        "model": ", ".join(split_name(text)[0] for text in options.model),
        "threads": options.threads,
        "rounds": len(workload.rounds),
        "warm_up_calls": len(workload.warm_up),
        "results": {name: asdict(quality) for name, quality in means.items()},
        "systems": {name: {**systems[name].facts, **asdict(speed)} for name, speed in speeds.items()},
        "compared_with": baseline,
        "comparisons": comparisons,
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"{collection.name}: {result['queries']} queries, {result['documents']} documents, {options.threads} "
            f"threads; all but nDCG count grades >= {collection.relevant_grade}\n{_TIMED}\n"
            f"{_format(means, speeds)}"
        )
        if comparisons:
            print(f"\ncompared with {baseline}; p of the paired randomization test, not corrected for their number")
            print(_format_comparisons(comparisons))
    if options.output:
        write_result(options.output, result)
        points = {
            name: Point(speed.docs_per_s.median, means[name].ndcg_at_10, systems[name].label)
            for name, speed in speeds.items()
        }
        image = draw(
            [point for name, point in points.items() if systems[name].facts["kind"] == "model"],
            [point for name, point in points.items() if systems[name].facts["kind"] == "cascade"],
            curve=f"cascade of {' and '.join(split_name(text)[0] for text in options.cascade or ())}",
            line=(collection.first_stage, means[first_stage].ndcg_at_10),
            heading=f"nDCG@10, {collection.name}",
        )
        write_whole(options.output.with_suffix(".png"), image)


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse before hours of scoring what could not be written after them."""
    check_output(options)
    if options.run_out and not options.run_out.parent.is_dir():
        raise InputError(f"--run-out {options.run_out}: there is no folder {options.run_out.parent}")
    if options.run_out and options.run_out.exists() and not options.run_out.is_dir():
        raise InputError(f"--run-out {options.run_out} is a file: name a folder")


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


def _compare(found: Mapping[str, Quality], others: Mapping[str, Quality]) -> dict[str, dict[str, float]]:
    """By measure; both have the same queries."""
    return {
        measure: compare_queries(*([getattr(values[key], measure) for key in found] for values in (found, others)))
        for measure in HEADINGS
    }


def _format(means: Mapping[str, Quality], speeds: Mapping[str, Speed]) -> str:
    rows = [["", "docs/s", "min", "max", "ms a query", "ratio", "min", "max", *HEADINGS.values()]]
    for name, quality in means.items():
        cells = ["-"] * 7
        if speed := speeds.get(name):
            cells = [*spread_cells(speed.docs_per_s, ",.1f"), f"{speed.query_ms.median:,.1f}"]
            cells += spread_cells(speed.ratio, ".2f")
        rows.append([name, *cells, *shown(asdict(quality).values(), ".4f")])
    return format_table(rows)


def _format_comparisons(comparisons: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    rows = [["", "measure", "difference", "p", "better", "worse", "equal"]]
    for name, values in comparisons.items():
        for measure, one in values.items():
            counts = (str(one[count]) for count in ("better", "worse", "equal"))
            rows.append([name, HEADINGS[measure], f"{one['difference']:+.4f}", f"{one['p_value']:.4f}", *counts])
    return format_table(rows)
