"""Documents per second of whole calls, texts in and scores out: ours and others', and how near the scores are."""

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from statistics import median

import numpy as np

from benchmarks.engines.registry import ENGINES
from benchmarks.engines.worker import WorkerError
from benchmarks.measure.peaks import Peaks, operations_per_pair
from benchmarks.measure.summary import Summary, choose_baseline, summarize
from benchmarks.measure.turns import interleave, open_engines
from benchmarks.options import add_run_arguments, add_workload_arguments, open_benchmark_model, open_workload
from benchmarks.reporting.machine import describe_machine
from benchmarks.reporting.result import describe_run, headline, print_unavailable, write_result
from benchmarks.reporting.text import format_table, progress

_TIMED = "whole calls, texts in and scores out, tokenizing included; one call is one query with its documents"

_COLUMNS = (
    *("", "docs/s", "min", "max", "ratio", "min", "max", "tokenize ms", "model ms", "GFLOP/s", "of peak"),
    *("max |Δ|", "mean |Δ|", "tau", "nDCG@10", "MRR@10"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_run_arguments(parser, engines=("crossrank-fp32", "crossrank-int8", "st-torch-fp32"))
    add_workload_arguments(parser, documents=100, calls=None, warm_up=2)
    parser.add_argument(
        "--baseline",
        choices=ENGINES,
        default="st-torch-fp32",
        metavar="KEY",
        help="what ratios are to; where it does not run, the first engine that does (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Time the engines in turns, print the table and write the result.

    Raises:
        WorkerError: If none of them could be measured.
    """
    machine, model, workload = describe_machine(), open_benchmark_model(options), open_workload(options)
    lengths = [np.concatenate(model.pair_lengths(timed)) for timed in workload.rounds]
    with ExitStack() as stack:
        workers, unavailable = open_engines(options.engines, model, threads=options.threads, stack=stack)
        peaks = Peaks(options.threads)
        tick = progress(sum(map(len, workload.rounds)), "calls of each engine")
        series, failed = interleave(workers, workload, between=peaks.measure, report=tick)
    unavailable |= failed
    print_unavailable(unavailable)
    if not series:
        raise WorkerError("no engine could be measured")
    gflops = {precision: round(median(values), 1) for precision, values in peaks.gflops.items()}
    baseline, reference = choose_baseline(list(series), options.baseline)
    summaries = summarize(
        series,
        workload,
        baseline=baseline,
        reference=reference,
        operations=[float(operations_per_pair(model.config, tokens).sum()) for tokens in lengths],
        peaks=gflops,
        trained=model.trained,
    )
    data = workload.describe() | {"mean_pair_tokens": round(float(np.concatenate(lengths).mean()), 1)}
    print(
        f"{headline(options, model, data)}, {data['mean_pair_tokens']} tokens a pair\n{_TIMED}\n"
        f"ratio to {ENGINES[baseline].name} in the same round; Δ and tau to {ENGINES[reference].name}; "
        f"peaks {gflops['fp32']} GFLOP/s fp32, {gflops['int8']} int8\n{format_report(summaries)}"
    )
    if options.output:
        result = describe_run(
            options,
            model,
            timed=_TIMED,
            machine=machine,
            workers=workers,
            figures={key: _flat(summary) for key, summary in summaries.items()},
            unavailable=unavailable,
        )
        how = {
            "data": data,
            "peaks_gflops": gflops,
            "warm_up_calls": len(workload.warm_up),
            "rounds": len(workload.rounds),
            "baseline": ENGINES[baseline].name,
            "reference": ENGINES[reference].name,
        }
        write_result(options.output, result | how)


def format_report(summaries: Mapping[str, Summary]) -> str:
    """The table of a run.

    Args:
        summaries: Engine key -> figures.
    """
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for key, summary in summaries.items():
        speed, ratio, near, quality = summary.docs_per_s, summary.ratio, summary.agreement, summary.quality
        rows.append(
            (
                ENGINES[key].name,
                *(f"{value:.1f}" for value in (speed.median, speed.min, speed.max)),
                *(f"{value:.2f}" for value in (ratio.median, ratio.min, ratio.max)),
                *("-" if value is None else f"{value:.2f}" for value in (summary.tokenize_ms, summary.model_ms)),
                f"{summary.gflops:.1f}",
                "-" if summary.share_of_peak is None else f"{summary.share_of_peak:.0%}",
                *(f"{value:.1e}" for value in (near.max_abs_delta, near.mean_abs_delta)),
                f"{near.kendall_tau:.4f}",
                *(("-", "-") if quality is None else (f"{quality.ndcg_at_10:.4f}", f"{quality.mrr_at_10:.4f}")),
            )
        )
    return format_table(rows)


def _flat(summary: Summary) -> dict[str, object]:
    """As JSON has it: the agreement's figures beside the others."""
    values: dict[str, object] = asdict(summary)
    near: dict[str, object] = asdict(summary.agreement)
    del values["agreement"]
    return values | near
