"""``throughput``, ``latency``, ``memory`` and ``startup``: engines beside each other, each in a process of its own."""

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import chain
from statistics import median
from typing import Any

import numpy as np

from benchmarks.engines.registry import ENGINES, EngineUnavailable, WorkerError
from benchmarks.engines.worker import Worker
from benchmarks.inputs.collections import Candidates
from benchmarks.inputs.models import BenchmarkModel
from benchmarks.inputs.workloads import LONG, Workload, make_workload, synthetic_calls
from benchmarks.measure.peaks import PEAK_S, Peaks, operations_per_pair
from benchmarks.measure.summary import choose_baseline, summarize
from benchmarks.measure.turns import PAUSE_S, Series, Turns, counted, interleave, on_texts, percentiles, spread
from benchmarks.options import add_load_option, add_options, check_output, open_benchmark_model, open_data
from benchmarks.reporting.result import (
    AFTER_PAUSE,
    describe_run,
    look_at_machine,
    print_unavailable,
    rounded,
    shorten_reasons,
    write_result,
)
from benchmarks.reporting.tables import Rows, format_table, progress, shown, spread_cells
from crossrank import InputError


@dataclass(slots=True)
class Measured:
    """What a command found: engine key -> why it has no figures, or its worker, which may have ended, and its figures.

    The figures and what else the result says are as JSON has them. Heading and note say in words what was measured and
    what is in the table.
    """

    unavailable: dict[str, str]
    workers: Mapping[str, Worker] = field(default_factory=dict)
    figures: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)
    heading: str = ""
    note: str = ""
    rows: Rows = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """One of the commands.

    Attributes:
        timed: What the figures are of, in words.
        measure: Options and model -> what was found.
        options: Those that are its own, and how they differ, as `add_options` takes it.
    """

    timed: str
    measure: Callable[[argparse.Namespace, BenchmarkModel], Measured]
    options: Mapping[str, Any]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        add_options(parser, "model", "engines", "threads", "output", "bench", model={"required": True})
        changes = {name: change for name, change in self.options.items() if change is not None}
        add_options(parser, *(name.replace("_", "-") for name in self.options), **changes)
        add_load_option(parser)

    def run(self, options: argparse.Namespace) -> None:
        """Measure, print the table and write the result."""
        check_output(options)
        model = open_benchmark_model(options, options.model)
        machine, neighbours = look_at_machine(options.threads, allow_load=options.allow_load)
        found = self.measure(options, model)
        unavailable = {ENGINES[key].name: reason for key, reason in found.unavailable.items()}
        print_unavailable(unavailable)
        if busy := neighbours.warning(options.threads):
            print(busy, file=sys.stderr)
        machine["busy_during"] = rounded(neighbours.others())
        if not found.figures:
            raise WorkerError("no engine could be measured")
        heading = (f"{model.name} ({model.weights} weights)", found.heading, f"{options.threads} threads")
        lines = (", ".join(filter(None, heading)), self.timed, found.note, format_table(found.rows))
        print("\n".join(filter(None, lines)))
        if not options.output:
            return
        versions, engines = {}, {}
        for key, figures in found.figures.items():
            spec, worker = ENGINES[key], found.workers[key]
            versions[spec.name] = dict(sorted(worker.versions.items()))
            engines[spec.name] = {"kind": spec.kind, **worker.facts, **figures}
        result = describe_run(options, machine, timed=self.timed) | {
            "threads": options.threads,
            "model": model.describe(),
            "versions": versions,
            "unavailable": shorten_reasons(unavailable),
            "engines": engines,
        }
        write_result(options.output, {**result, **found.more})


def _open(key: str, model: BenchmarkModel, threads: int) -> Worker:
    return Worker(ENGINES[key], model.folder, threads=threads, scratch=model.scratch)


def _open_workload(options: argparse.Namespace) -> Workload:
    amounts = {"warm_up": options.warm_up, "rounds": options.rounds, "calls": options.calls}
    long = options.data == LONG
    return make_workload(open_data(options), documents=options.documents, long=long, **amounts)


def _in_turns(
    options: argparse.Namespace, model: BenchmarkModel, workload: Workload, between: Callable[[], None] = lambda: None
) -> tuple[dict[str, Worker], dict[str, Series], dict[str, str]]:
    """Workers, what those gave that did not fail, and why the others did."""
    turns = Turns(options.engines, catch=EngineUnavailable)
    with ExitStack() as stack:
        tick = progress(len(turns.names), "engines opened")

        def open_one(key: str) -> Worker:
            worker = stack.enter_context(_open(key, model, options.threads))
            tick()
            return worker

        workers = turns.each(open_one)
        report = progress(len(workload.rounds) * len(workers), "turns")
        engines = {key: on_texts(worker.score) for key, worker in workers.items()}

        def shorten(key: str, call: Candidates) -> Candidates:
            few = None if ENGINES[key].by_shape else options.warm_up_documents
            return call.cut(0, few) if few else call

        series, failed = interleave(
            engines, workload.warm_up, workload.rounds, between=between, report=report, shorten=shorten
        )
    return workers, series, turns.failed | failed


def _more(workload: Workload, data: Mapping[str, object]) -> dict[str, object]:
    rounds = workload.rounds
    amounts = {"warm_up_calls": len(workload.warm_up), "rounds": len(rounds), "calls_of_a_turn": len(rounds[0])}
    return {"data": data, **amounts}


def _calls(data: Mapping[str, object]) -> str:
    return f"{data['name']}, {data['calls']} calls of {data['documents_per_call']} documents"


def _measure_throughput(options: argparse.Namespace, model: BenchmarkModel) -> Measured:
    workload = _open_workload(options)
    lengths = [np.concatenate(model.pair_lengths(counted(timed))) for timed in workload.rounds]
    peaks = Peaks(model.config, options.threads, batch_s=options.peak_seconds)
    workers, series, unavailable = _in_turns(options, model, workload, peaks.measure)
    if not series:
        return Measured(unavailable)
    gflops = {precision: round(median(values), 1) for precision, values in peaks.gflops.items()}
    baseline, reference = choose_baseline(list(series))
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
    compared = {"baseline": ENGINES[baseline].name, "reference": ENGINES[reference].name}
    return Measured(
        unavailable,
        workers,
        summaries,
        more=_more(workload, data) | {"peaks_gflops": gflops, **compared},
        heading=f"{_calls(data)}, {data['mean_pair_tokens']} tokens a pair",
        note=f"ratio to {compared['baseline']} in the same round; Δ and tau to {compared['reference']}; "
        f"peaks {gflops['fp32']} GFLOP/s fp32, {gflops['int8']} int8",
        rows=_throughput_rows(summaries),
    )


def _throughput_rows(summaries: Mapping[str, Mapping[str, Any]]) -> Rows:
    rows = [
        [
            *("", "docs/s", "min", "max", "ratio", "min", "max", "CPU ms/doc", "GFLOP/s", "of peak"),
            *("max |Δ|", "mean |Δ|", "tau", "nDCG@10", "MRR@10"),
        ]
    ]
    for key, found in summaries.items():
        quality = found["quality"] or {}
        rows.append(
            [
                *(
                    ENGINES[key].name,
                    *shown(found["docs_per_s"].values(), ".1f"),
                    *shown(found["ratio"].values(), ".2f"),
                ),
                *(f"{found['cpu_ms_per_doc']['median']:.3g}", f"{found['gflops']:.1f}"),
                *shown([found["share_of_peak"]], ".0%"),
                *(*shown((found["max_abs_delta"], found["mean_abs_delta"]), ".1e"), f"{found['kendall_tau']:.4f}"),
                *shown((quality.get("ndcg_at_10"), quality.get("mrr_at_10")), ".4f"),
            ]
        )
    return rows


def _measure_latency(options: argparse.Namespace, model: BenchmarkModel) -> Measured:
    if options.calls < 2:
        raise InputError("--calls 1: 2 or more of a turn are needed, since the first comes after a pause")
    workload = _open_workload(options)
    workers, series, unavailable = _in_turns(options, model, workload)
    figures = {}
    for key, found in series.items():
        first = percentiles([seconds[0] for seconds in found.seconds])["p50_ms"]
        figures[key] = percentiles(list(chain.from_iterable(map(counted, found.seconds)))) | {AFTER_PAUSE: first}
    names = ("p50_ms", "p95_ms", "p99_ms", AFTER_PAUSE)
    rows = [(ENGINES[key].name, *shown((found[name] for name in names), ".2f")) for key, found in figures.items()]
    data = workload.describe()
    headings = ("", *(name.replace("_", " ") for name in names))
    return Measured(unavailable, workers, figures, _more(workload, data), _calls(data), rows=[headings, *rows])


# Memory

_CALLS, _DOCUMENTS = 3, 100


def _measure_memory(options: argparse.Namespace, model: BenchmarkModel) -> Measured:
    workload = make_workload(open_data(options), documents=_DOCUMENTS, warm_up=0, rounds=1, calls=_CALLS)
    workers: dict[str, Worker] = {}

    def look(key: str) -> dict[str, float]:
        # One process at a time: memory needs no neighbours.
        with _open(key, model, options.threads) as workers[key]:
            for call in workload.rounds[0]:
                workers[key].score(call.query, call.documents)
            return {name: round(value, 1) for name, value in workers[key].memory().items()}

    turns = Turns(options.engines)
    found = turns.each(look)
    rows = [["", f"MiB after {_CALLS * _DOCUMENTS} documents", "peak"]]
    rows += [[ENGINES[key].name, *shown(memory.values(), ".0f")] for key, memory in found.items()]
    return Measured(turns.failed, workers, found, {"data": workload.describe()}, rows=rows)


# Startup

_STAGES = ("import_s", "load_s", "first_score_s", "total_s")


def _measure_startup(options: argparse.Namespace, model: BenchmarkModel) -> Measured:
    tick = progress(1 + options.rounds, "processes of each engine")
    workers: dict[str, Worker] = {}
    found: dict[str, list[dict[str, float]]] = {}
    (call,) = synthetic_calls([options.documents])

    def start(key: str) -> dict[str, float]:
        with _open(key, model, options.threads) as worker:
            first_s = worker.score(call.query, call.documents).seconds
        workers[key] = worker
        return worker.stages | {"first_score_s": first_s, "total_s": worker.stages["opened_s"] + first_s}

    turns = Turns(options.engines)
    # The first process makes what the engine needs, brings its files into the system's cache, and does not count.
    turns.each(start)
    tick()
    for _ in range(options.rounds):
        for key, stages in turns.each(start).items():
            found.setdefault(key, []).append(stages)
        tick()
    figures = {key: {stage: spread(stages[stage] for stages in found[key]) for stage in _STAGES} for key in turns.names}
    rows = [["", "import s", "load s", "first score s", "total s", "min", "max"]]
    for key, spreads in figures.items():
        medians = shown((spreads[stage].median for stage in _STAGES[:-1]), ".3f")
        rows.append([ENGINES[key].name, *medians, *spread_cells(spreads["total_s"], ".3f")])
    return Measured(
        turns.failed,
        workers,
        {key: {stage: asdict(values) for stage, values in spreads.items()} for key, spreads in figures.items()},
        {"data": {"name": "synthetic", "documents_per_call": options.documents}, "rounds": options.rounds},
        f"{options.rounds} processes",
        rows=rows,
    )


_WHOLE = "texts in and scores out, tokenizing included; one call is one query with its documents"
_TURN = "in turns of calls one after the other, of which the first does not count"
_CALL_OPTIONS = dict.fromkeys(("data", "documents", "calls", "rounds", "warm_up", "warm_up_documents"))
throughput = Comparison(
    f"whole calls, {_WHOLE}; {_TURN} unless it is alone",
    _measure_throughput,
    {
        **_CALL_OPTIONS,
        "documents": 100,
        "calls": {"help": "of a turn (default: 8 synthetic ones, or what judged queries give, at most 100)"},
        "warm_up": 2,
        "peak_seconds": PEAK_S,
    },
)
latency = Comparison(
    f"one call at a time, {_WHOLE}; {_TURN}: it is the one after a pause of {PAUSE_S * 1e3:.0f} ms and others' turns",
    _measure_latency,
    {
        **_CALL_OPTIONS,
        "documents": 10,
        "calls": {"default": 8, "help": "of a turn (default: %(default)s)"},
        "rounds": 12,
        "warm_up": 5,
    },
)
memory = Comparison(
    "resident memory of an engine's process in MiB, interpreter and libraries included", _measure_memory, {"data": None}
)
startup = Comparison(
    "a fresh process to its first scores: total is interpreter, import, load and a first call; files are cached",
    _measure_startup,
    {"documents": 10, "rounds": {"default": 10, "help": "processes of each engine (default: %(default)s)"}},
)
