"""The suite: all measurements one after the other, to go on where an earlier run was stopped.

They are cells, each one command on one model at one size. The counts of rounds and calls follow from a guess of how
long a call takes, so that no cell of a large model takes an hour and none of a small one is over before its figures
settle.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import ROOT
from benchmarks.engines.registry import ENGINES, WorkerError
from benchmarks.inputs.models import MODELS, find_registered
from benchmarks.inputs.random_checkpoint import make_config
from benchmarks.inputs.workloads import TREC_DL19
from benchmarks.measure.peaks import operations_per_pair
from benchmarks.options import add_options, find_test_data
from benchmarks.reporting.goals import LONG_CALLS
from benchmarks.reporting.result import RESULTS, Result, git_commit, read_result
from crossrank import CrossrankError, InputError
from crossrank.export._architectures.config import read_config

from .jobs import in_words, run_command, run_jobs, say

_UNSURE = ("-dirty", "unknown")  # ends of a commit that do not say which code it is
_CODE = ("engine", "export", "models", "benchmarks")

_PAIR_TOKENS = 95  # the mean of MS MARCO's passages with their queries
_OPERATIONS_PER_S = 110e9  # of a typical engine on two cores; with more cores the guess is too long
_TOKENIZE_S = 0.0004
_OPEN_S = 5.0
_RANDOM_LENGTH = 3.3  # what a document of `memory`'s random lengths costs, beside one of MS MARCO

_ALL = tuple(ENGINES)
_OURS = ("crossrank-fp32", "crossrank-int8")
# For cells that would take too long with all: the fastest of each kind, and what most people have.
_LEADING = (
    *_OURS,
    *("st-torch-fp32", "st-torch-bf16", "st-onnx-qint8", "st-openvino", "st-openvino-fp32"),
    *("fastembed-fp32", "fastembed-qint8"),
)
# For calls of minutes.
_CORE = (*_OURS, "st-torch-fp32", "st-openvino")
_LONG_CALL_S = 60.0
# They run another one's graph and differ in tokenizing, which shows where a document takes few milliseconds.
_SAME_GRAPH = (
    *("crossrank-fp32-encoded", "crossrank-int8-encoded"),
    *("transformers-slow", "transformers-fast", "optimum-onnx"),
)
_TOKENIZING_HIDDEN_S = 0.1  # of a document

_THROUGHPUT_S, _LATENCY_S, _MEMORY_S = 20.0, 12.0, 30.0  # of one engine's timed calls
_MOST_THROUGHPUT_CALLS = 5  # a round; with warm-up, 27 of 43 judged queries
_MOST_LATENCY_CALLS = 15
_STARTUP_ROUNDS = 3
_SMALL = 5  # models whose memory and startup are looked at: of larger ones it is the weights' size


@dataclass(frozen=True, slots=True)
class Cell:
    """One process of ``python -m benchmarks``, and one result.

    Attributes:
        command: The command.
        model: Short name.
        size: Documents per call; None where the result's name has none.
        engines: Their keys.
        options: Further options of the command.
        judged: Whether judged queries are scored where there are any; else texts are made up.
        estimate_s: A guess of its time on two cores.
    """

    command: str
    model: str
    size: int | None
    engines: tuple[str, ...]
    options: tuple[str, ...]
    judged: bool
    estimate_s: float

    @property
    def name(self) -> str:
        """Of its result, without the ending."""
        return f"{self.command}-{self.model}" + ("" if self.size is None else f"-{self.size}")


def main_cells() -> list[Cell]:
    """Those that README's table and the goals need."""
    model, *sizes = LONG_CALLS
    return [
        *(_throughput(model, 100, _ALL) for model in ("tinybert-l2", "minilm-l12", "bert-base")),
        *(_throughput(model, size, _OURS) for size in sizes),
        _memory("minilm-l12"),
        _startup("tinybert-l2"),
        *(_latency(model, size) for model in ("tinybert-l2", "minilm-l12") for size in (1, 10, 100)),
    ]


def full_cells() -> list[Cell]:
    """Those of `main_cells`, some with more engines, and every model at 1, 10, 100 and 1000 documents."""
    models = sorted(MODELS, key=_document_s)
    cells = [
        *main_cells(),
        *(_throughput(model, 100, _ALL) for model in models),
        *(_latency(model, size) for model in models for size in (1, 10, 100)),
        *(make(model) for model in models[:_SMALL] for make in (_memory, _startup)),
        *(_throughput(model, 1000, _LEADING) for model in models),
    ]
    return list({cell.name: cell for cell in cells}.values())


def _document_s(model: str) -> float:
    """Seconds that a typical engine takes for one document; a guess."""
    sizes = read_config(make_config(find_registered(model)))
    (operations,) = operations_per_pair(sizes, np.array([_PAIR_TOKENS], np.int32))
    return float(operations) / _OPERATIONS_PER_S + _TOKENIZE_S


def _cost(engine: str) -> float:
    """Of an engine beside the typical one; a guess."""
    return 1 / 3 if engine in _OURS else 1.0


def _throughput(model: str, size: int, engines: Sequence[str]) -> Cell:
    call_s = size * _document_s(model)
    if call_s > _TOKENIZING_HIDDEN_S * size:
        engines = [key for key in engines if key not in _SAME_GRAPH]
    if call_s > _LONG_CALL_S:
        engines = [key for key in engines if key in _CORE]
    return _timed("throughput", model, size, engines, _THROUGHPUT_S, _MOST_THROUGHPUT_CALLS)


def _latency(model: str, size: int) -> Cell:
    return _timed("latency", model, size, _LEADING, _LATENCY_S, _MOST_LATENCY_CALLS)


def _timed(command: str, model: str, size: int, engines: Sequence[str], budget_s: float, most: int) -> Cell:
    call_s = size * _document_s(model)
    warm_up, rounds, calls = _amounts(call_s, budget_s, most)
    options = ("--documents", size, "--warm-up", warm_up, "--rounds", rounds, "--calls", calls)
    estimate_s = sum(_OPEN_S + (warm_up + rounds * calls) * call_s * _cost(key) for key in engines)
    # A query has 100 judged candidates; longer calls would have to mix those of several.
    return Cell(command, model, size, tuple(engines), tuple(map(str, options)), size <= 100, estimate_s)


def _amounts(call_s: float, budget_s: float, most: int) -> tuple[int, int, int]:
    """Warm-up calls, rounds and calls of a round, for calls of so many seconds.

    >>> _amounts(0.1, 30, 5), _amounts(4, 30, 5), _amounts(50, 30, 5)
    ((2, 5, 5), (1, 3, 2), (1, 2, 1))
    """
    rounds = 5 if call_s < 1 else 3 if call_s < 10 else 2
    calls = max(1, min(most, int(budget_s / (rounds * call_s))))
    return 2 if call_s < 1 else 1, rounds, calls


def _memory(model: str) -> Cell:
    document_s = _document_s(model)
    documents = max(100, min(20_000, round(_MEMORY_S / (_RANDOM_LENGTH * document_s))))
    estimate_s = sum(_OPEN_S + 300 * document_s * _cost(key) for key in _LEADING)
    estimate_s += sum(documents * _RANDOM_LENGTH * document_s * _cost(key) for key in _OURS)
    return Cell("memory", model, None, _LEADING, ("--documents", str(documents)), True, estimate_s)


def _startup(model: str) -> Cell:
    estimate_s = len(_LEADING) * (1 + _STARTUP_ROUNDS) * _OPEN_S
    return Cell("startup", model, None, _LEADING, ("--rounds", str(_STARTUP_ROUNDS)), False, estimate_s)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--full", action="store_true", help="every model at 1, 10, 100 and 1000 documents: takes hours")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FOLDER",
        help="where results are written, and found that need not be taken again (default: benchmarks/results)",
    )
    parser.add_argument("--keep", action="store_true", help="do not take again what was measured at another commit")
    add_options(parser, "minutes")


def run(options: argparse.Namespace) -> None:
    """Run every cell that is not done yet."""
    if not options.results.is_dir():
        raise InputError(f"--results {options.results}: there is no such folder; make it first")
    test_data = find_test_data()
    cells, commit = full_cells() if options.full else main_cells(), git_commit(ROOT)
    todo = [c for c in cells if not is_done(c, options.results / f"{c.name}.json", commit=commit, keep=options.keep)]
    total_s, done = sum(cell.estimate_s for cell in todo), len(cells) - len(todo)
    say(f"{len(todo)} cells to run, about {in_words(total_s)}; {done} are done")
    judged = (test_data / "data" / TREC_DL19).is_dir()
    if not judged:
        say(f"no judged queries in {test_data}: texts are made up")

    def launch(cell: Cell, _: float | None) -> int:
        return run_command(arguments_of(cell, options.results / f"{cell.name}.json", judged=judged))

    failed = run_jobs(todo, launch, minutes=options.minutes).failed
    if failed:
        names = ", ".join(f"{name} (exit status {status})" for name, status in failed.items())
        raise WorkerError(f"{len(failed)} of {len(todo)} cells failed: {names}; run the suite again for these")


def is_done(cell: Cell, file: Path, *, commit: str, keep: bool) -> bool:
    """Whether a cell's result is there, complete, with all of its engines, and of this commit, or of any (``keep``).

    Where that is dirty or unknown, no code may be younger than the result either.
    """
    try:
        result = read_result(file)
    except CrossrankError:
        return False  # absent, or written to the half
    if not isinstance(result, Result):
        return False
    names = {ENGINES[key].name for key in cell.engines}
    if not names <= {*result.engines, *result.unavailable}:
        return False
    if keep:
        return True
    return result.commit == commit and (not commit.endswith(_UNSURE) or file.stat().st_mtime > _newest_code())


def arguments_of(cell: Cell, output: Path, *, judged: bool) -> list[str]:
    """What follows ``python -m benchmarks`` to run a cell, where there are judged queries or not."""
    data = ("--data", TREC_DL19) if cell.judged and judged else ()
    return [
        *(cell.command, "--model", cell.model, "--engines", *cell.engines),
        *(*cell.options, *data, "--output", str(output.resolve())),
    ]


def _newest_code() -> float:
    """When code or an engine's requirements were changed last, in seconds since 1970."""
    files = (path for folder in _CODE for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".toml", ".txt"))
    return max(path.stat().st_mtime for path in files)
