"""How long one call takes, texts in and scores out: its median and its tail, ours and others'."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain

import numpy as np

from benchmarks.engines.registry import ENGINES
from benchmarks.engines.worker import WorkerError
from benchmarks.measure.turns import interleave, open_engines
from benchmarks.options import add_run_arguments, add_workload_arguments, open_benchmark_model, open_workload
from benchmarks.reporting.machine import describe_machine
from benchmarks.reporting.result import describe_run, headline, print_unavailable, write_result
from benchmarks.reporting.text import format_table, progress

_TIMED = "one call at a time, texts in and scores out, tokenizing included; one call is one query with its documents"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_run_arguments(parser, engines=("crossrank-fp32", "crossrank-int8", "st-torch-fp32"))
    add_workload_arguments(parser, documents=10, calls=20, warm_up=5)


def run(options: argparse.Namespace) -> None:
    """Time single calls of the engines in turns, print the table and write the result.

    Raises:
        WorkerError: If none of the engines could be measured.
    """
    machine, model, workload = describe_machine(), open_benchmark_model(options), open_workload(options)
    with ExitStack() as stack:
        workers, unavailable = open_engines(options.engines, model, threads=options.threads, stack=stack)
        tick = progress(sum(map(len, workload.rounds)), "calls of each engine")
        series, failed = interleave(workers, workload, report=tick)
    unavailable |= failed
    print_unavailable(unavailable)
    if not series:
        raise WorkerError("no engine could be measured")
    figures = {key: percentiles(list(chain.from_iterable(found.seconds))) for key, found in series.items()}
    data = workload.describe()
    print(f"{headline(options, model, data)}\n{_TIMED}")
    columns = ("p50_ms", "p95_ms", "p99_ms")
    rows = [(ENGINES[key].name, *(f"{found[name]:.2f}" for name in columns)) for key, found in figures.items()]
    print(format_table([("", *(name.replace("_", " ") for name in columns)), *rows]))
    if options.output:
        result = describe_run(
            options,
            model,
            timed=_TIMED,
            machine=machine,
            workers=workers,
            figures=figures,
            unavailable=unavailable,
        )
        how = {"data": data, "warm_up_calls": len(workload.warm_up), "rounds": len(workload.rounds)}
        write_result(options.output, result | how)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in ms, linear between two calls, and how many calls there were.

    >>> percentiles([0.001 * i for i in range(101)])
    {'p50_ms': 50.0, 'p95_ms': 95.0, 'p99_ms': 99.0, 'calls': 101}
    """
    values = {f"p{p}_ms": round(float(np.percentile(seconds, p)) * 1e3, 3) for p in (50, 95, 99)}
    return values | {"calls": len(seconds)}
