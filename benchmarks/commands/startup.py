"""How long a fresh process takes to its first scores: interpreter, import, load and a first call."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict

from benchmarks.engines.registry import ENGINES
from benchmarks.engines.worker import Worker, WorkerError
from benchmarks.inputs.workloads import synthetic_calls
from benchmarks.measure.turns import Spread, spread
from benchmarks.options import add_run_arguments, open_benchmark_model, positive
from benchmarks.reporting.machine import describe_machine
from benchmarks.reporting.result import describe_run, print_unavailable, write_result
from benchmarks.reporting.text import format_table, progress

_TIMED = "a fresh process to its first scores: total is interpreter, import, load and a first call; files are cached"
_STAGES = ("import_s", "load_s", "first_score_s", "total_s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_run_arguments(parser, engines=("crossrank-fp32", "crossrank-int8", "st-torch-fp32"))
    parser.add_argument(
        "--documents", type=positive, default=10, metavar="N", help="of the first call (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=positive, default=7, metavar="N", help="processes of each engine (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    """Start every engine anew, round after round, print the table and write the result.

    Raises:
        WorkerError: If none of the engines could be measured.
    """
    machine, model = describe_machine(), open_benchmark_model(options)
    tick = progress(1 + options.rounds, "processes of each engine")
    workers: dict[str, Worker] = {}
    found: dict[str, list[dict[str, float]]] = {key: [] for key in options.engines}
    unavailable: dict[str, str] = {}
    # The first process makes what the engine needs, brings its files into the system's cache, and does not count.
    for number in range(1 + options.rounds):
        for key in list(found):
            try:
                worker = Worker(ENGINES[key], model.folder, threads=options.threads, scratch=model.scratch)
                stages = _first_score(worker, options.documents)
            except WorkerError as error:
                unavailable[key] = str(error)
                del found[key]
                continue
            workers[key] = worker
            if number > 0:
                found[key].append(stages)
        tick()
    print_unavailable(unavailable)
    if not found:
        raise WorkerError("no engine could be measured")
    figures = {
        key: {stage: spread(stages[stage] for stages in values) for stage in _STAGES} for key, values in found.items()
    }
    print(f"{model.name} ({model.weights} weights), {options.rounds} processes, {options.threads} threads\n{_TIMED}")
    print(format_report(figures))
    if options.output:
        result = describe_run(
            options,
            model,
            timed=_TIMED,
            machine=machine,
            workers=workers,
            figures={
                key: {stage: asdict(values) for stage, values in stages.items()} for key, stages in figures.items()
            },
            unavailable=unavailable,
        )
        data = {"name": "synthetic", "documents_per_call": options.documents}
        write_result(options.output, result | {"data": data, "rounds": options.rounds})


def format_report(figures: Mapping[str, Mapping[str, Spread]]) -> str:
    """The table of a run: medians, and the range of the total.

    Args:
        figures: Engine key -> stage -> seconds.
    """
    rows: list[tuple[str, ...]] = [("", "import s", "load s", "first score s", "total s", "min", "max")]
    for key, stages in figures.items():
        total = stages["total_s"]
        medians = (f"{stages[stage].median:.3f}" for stage in _STAGES)
        rows.append((ENGINES[key].name, *medians, f"{total.min:.3f}", f"{total.max:.3f}"))
    return format_table(rows)


def _first_score(worker: Worker, documents: int) -> dict[str, float]:
    """Seconds per stage of a process that was just started; ends it."""
    (call,) = synthetic_calls([documents])
    with worker:
        first = worker.score(call.query, call.documents).seconds
    return {
        "import_s": worker.import_s,
        "load_s": worker.load_s,
        "first_score_s": first,
        "total_s": worker.opened_s + first,
    }
