"""The suite: the measurements that the documents show, one after the other, to go on where an earlier run was stopped.

They are cells, each one command on one model at one size. Their rounds and calls are so many that no cell takes much
longer than ten minutes on two cores, and none is over before its figures settle.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.engines.registry import ENGINES, WorkerError
from benchmarks.inputs.workloads import TREC_DL19
from benchmarks.options import add_options, find_test_data
from benchmarks.reporting.result import RESULTS, code_hash, read_result
from crossrank import CrossrankError

from .jobs import in_words, run_command, run_jobs, say

_OURS = ("crossrank-fp32", "crossrank-int8")
_ENCODED = ("crossrank-fp32-encoded", "crossrank-int8-encoded")
# For cells that would take too long with all: the fastest of each kind, and what most people have.
_LEADING = (
    *_OURS,
    *("st-torch-fp32", "st-torch-bf16", "st-onnx-qint8", "st-openvino", "st-openvino-fp32"),
    *("fastembed-fp32", "fastembed-qint8"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One process of ``python -m benchmarks``, and one result.

    Attributes:
        size: Documents per call; None where the result's name has none.
        estimate_s: A guess of its time on two cores.
        judged: Whether judged queries are scored where there are any; else texts are made up.
    """

    command: str
    model: str
    size: int | None
    engines: tuple[str, ...]
    options: tuple[str, ...]
    estimate_s: float
    judged: bool = True

    @property
    def name(self) -> str:
        """Of its result, without the ending."""
        return f"{self.command}-{self.model}" + ("" if self.size is None else f"-{self.size}")


def all_cells() -> list[Cell]:
    """Those that the tables and the goals need, the most wanted first."""
    every = tuple(ENGINES)
    on_texts = tuple(key for key in every if key not in _ENCODED)  # where a document takes long, they are the same
    return [
        _timed("throughput", "tinybert-l2", 100, every, (2, 5, 5), 140),
        _timed("throughput", "minilm-l12", 100, every, (1, 3, 1), 350),
        _timed("throughput", "bert-base", 100, on_texts, (1, 2, 1), 590),
        # A query has 100 judged candidates; longer calls would have to mix those of several.
        _timed("throughput", "tinybert-l2", 1000, _OURS, (1, 3, 5), 25, judged=False),
        _timed("throughput", "tinybert-l2", 100_000, _OURS, (1, 2, 1), 245, judged=False),
        Cell("memory", "minilm-l12", None, _LEADING, (), 130),
        Cell("startup", "tinybert-l2", None, _LEADING, ("--rounds", "3"), 180, judged=False),
        *(_timed("latency", "tinybert-l2", size, _LEADING, (2, 5, 15), 70) for size in (1, 10, 100)),
        _timed("latency", "minilm-l12", 1, _LEADING, (2, 5, 15), 70),
        _timed("latency", "minilm-l12", 10, _LEADING, (2, 5, 6), 140),
        _timed("latency", "minilm-l12", 100, _LEADING, (1, 3, 1), 165),
    ]


def _timed(
    command: str,
    model: str,
    size: int,
    engines: Sequence[str],
    amounts: tuple[int, int, int],
    estimate_s: float,
    *,
    judged: bool = True,
) -> Cell:
    """A cell of so many warm-up calls, rounds, and calls of a round."""
    options = [
        f"--{name}={n}" for name, n in zip(("documents", "warm-up", "rounds", "calls"), (size, *amounts), strict=True)
    ]
    return Cell(command, model, size, tuple(engines), tuple(options), estimate_s, judged)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--keep", action="store_true", help="do not take again what was measured with other code")
    add_options(parser, "minutes")


def run(options: argparse.Namespace) -> None:
    """Run every cell that is not done yet."""
    test_data = find_test_data()
    cells, code = all_cells(), None if options.keep else code_hash(ROOT)
    todo = [cell for cell in cells if not is_done(cell, RESULTS / f"{cell.name}.json", code)]
    total_s, done = sum(cell.estimate_s for cell in todo), len(cells) - len(todo)
    say(f"{len(todo)} cells to run, about {in_words(total_s)}; {done} are done")
    judged = (test_data / "data" / TREC_DL19).is_dir()
    if not judged:
        say(f"no judged queries in {test_data}: texts are made up")

    def launch(cell: Cell, _: float | None) -> int:
        return run_command(arguments_of(cell, RESULTS / f"{cell.name}.json", judged=judged))

    failed = run_jobs(todo, launch, minutes=options.minutes).failed
    if failed:
        names = ", ".join(f"{name} (exit status {status})" for name, status in failed.items())
        raise WorkerError(f"{len(failed)} of {len(todo)} cells failed: {names}; run the suite again for these")


def is_done(cell: Cell, file: Path, code: str | None) -> bool:
    """Whether a cell's result is there, with all of its engines, and of this code, as `code_hash` has it; None: any."""
    try:
        result = read_result(file)
    except CrossrankError:  # absent, or written to the half
        return False
    if result is None or not {ENGINES[key].name for key in cell.engines} <= {*result.engines, *result.unavailable}:
        return False
    return code in (None, result.code)


def arguments_of(cell: Cell, output: Path, *, judged: bool) -> list[str]:
    """What follows ``python -m benchmarks`` to run a cell, where there are judged queries or not."""
    data = ("--data", TREC_DL19) if cell.judged and judged else ()
    return [
        *(cell.command, "--model", cell.model, "--engines", *cell.engines),
        *(*cell.options, *data, "--output", str(output.resolve())),
    ]
