"""How much memory an engine's process takes, and whether ours grows with the documents that it has seen."""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random

from benchmarks.engines.registry import ENGINES
from benchmarks.engines.worker import Worker, WorkerError
from benchmarks.inputs.collections import Candidates
from benchmarks.inputs.workloads import Calls, make_workload
from benchmarks.options import add_data_argument, add_run_arguments, find_test_data, open_benchmark_model, positive
from benchmarks.reporting.machine import describe_machine
from benchmarks.reporting.result import describe_run, print_unavailable, write_result
from benchmarks.reporting.text import format_table, progress
from crossrank._text.sample_texts import sample_texts

_TIMED = "resident memory of an engine's process in MiB, interpreter and libraries included"
_CALLS, _DOCUMENTS = 3, 100
_FIRST_LOOK = 2000  # documents after which memory should have grown to what it needs
_MOST_WORDS = 400  # of a document of random length: what 512 tokens hold, at least


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in MiB.

    Attributes:
        rss_mb: After the calls.
        peak_rss_mb: The most until then, loading included.
        rss_after_mb: Documents seen -> memory then; empty for engines not ours.
    """

    rss_mb: float
    peak_rss_mb: float
    rss_after_mb: dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_run_arguments(parser, engines=("crossrank-fp32", "crossrank-int8", "st-torch-fp32"))
    add_data_argument(parser)
    parser.add_argument(
        "--documents",
        type=positive,
        default=20_000,
        metavar="N",
        help=f"of random lengths, after which ours is looked at again; first after {_FIRST_LOOK} (default: 20000)",
    )


def run(options: argparse.Namespace) -> None:
    """Measure one engine after the other, print the table and write the result.

    Raises:
        WorkerError: If none of the engines could be measured.
    """
    machine, model = describe_machine(), open_benchmark_model(options)
    workload = make_workload(
        options.data, documents=_DOCUMENTS, warm_up=0, rounds=1, calls=_CALLS, test_data=find_test_data()
    )
    looks = sorted({min(_FIRST_LOOK, options.documents), options.documents})
    workers: dict[str, Worker] = {}
    found: dict[str, Memory] = {}
    unavailable: dict[str, str] = {}
    for key in dict.fromkeys(options.engines):
        try:
            # One process at a time: memory needs no turns, and large models no neighbours.
            with Worker(ENGINES[key], model.folder, threads=options.threads, scratch=model.scratch) as worker:
                ours = ENGINES[key].adapter == "crossrank"
                found[key], workers[key] = _measure(worker, workload.rounds[0], looks if ours else ()), worker
        except WorkerError as error:
            unavailable[key] = str(error)
    print_unavailable(unavailable)
    if not found:
        raise WorkerError("no engine could be measured")
    print(f"{model.name} ({model.weights} weights), {options.threads} threads\n{_TIMED}\n{format_report(found, looks)}")
    if options.output:
        result = describe_run(
            options,
            model,
            timed=_TIMED,
            machine=machine,
            workers=workers,
            figures={key: asdict(memory) for key, memory in found.items()},
            unavailable=unavailable,
        )
        write_result(options.output, result | {"data": workload.describe()})


def format_report(found: Mapping[str, Memory], looks: Sequence[int]) -> str:
    """The table of a run.

    Args:
        found: Engine key -> its memory.
        looks: After how many documents ours was looked at again.
    """
    columns = ("", f"after {_CALLS * _DOCUMENTS} documents", "peak", *(f"after {look:,}" for look in looks))
    rows: list[tuple[str, ...]] = [columns]
    for key, memory in found.items():
        later = (memory.rss_after_mb.get(str(look)) for look in looks)
        values = ("-" if value is None else f"{value:.0f}" for value in (memory.rss_mb, memory.peak_rss_mb, *later))
        rows.append((ENGINES[key].name, *values))
    return format_table(rows)


def random_length_calls(calls: int) -> Iterator[Candidates]:
    """Calls of 100 documents of 1 to 400 words, all lengths alike often, with words that no call before had; seeded."""
    draw = Random(0)
    for i in range(calls):
        words = " ".join(sample_texts(4 * _DOCUMENTS, kind="document", seed=i)).split()
        lengths = [draw.randint(1, _MOST_WORDS) for _ in range(_DOCUMENTS)]
        starts = [draw.randrange(len(words) - length) for length in lengths]
        texts = (" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True))
        (query,) = sample_texts(1, kind="query", seed=i)
        yield Candidates(str(i), query, tuple(map(str, range(_DOCUMENTS))), tuple(texts))


def _measure(worker: Worker, calls: Calls, looks: Sequence[int]) -> Memory:
    for call in calls:
        worker.score(call.query, call.documents)
    now = worker.memory()
    later: dict[str, float] = {}
    steps = {math.ceil(look / _DOCUMENTS): str(look) for look in looks}
    calls_in_all = max(steps, default=0)
    tick = progress(calls_in_all, "calls of random lengths")
    for number, call in enumerate(random_length_calls(calls_in_all), 1):
        worker.score(call.query, call.documents)
        tick()
        if number in steps:
            later[steps[number]] = round(worker.memory()["rss_mb"], 1)
    return Memory(round(now["rss_mb"], 1), round(now["peak_rss_mb"], 1), later)
