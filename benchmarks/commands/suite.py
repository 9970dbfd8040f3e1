"""All measurements one after the other, each in a process of its own, to go on where an earlier run was stopped."""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.engines.registry import ENGINES
from benchmarks.engines.worker import WorkerError
from benchmarks.inputs.models import CHECKPOINTS
from benchmarks.inputs.workloads import TREC_DL19
from benchmarks.options import find_test_data, positive
from benchmarks.reporting.machine import git_commit
from benchmarks.reporting.read_results import Result, read_result
from crossrank import CrossrankError, InputError

from .cells import Cell, full_cells, main_cells

RESULTS = ROOT / "benchmarks" / "results"

_UNSURE = ("-dirty", "unknown")  # ends of a commit that do not say which code it is
_CODE = ("engine", "export", "models", "benchmarks")

Launch = Callable[[Cell, Path], int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the cells, by name.

    Attributes:
        failed: With the command's exit status.
        left: Not begun, for want of time.
    """

    failed: dict[str, int]
    left: list[str]


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
    parser.add_argument(
        "--minutes", type=positive, metavar="N", help="begin no cell that would probably end later (default: no limit)"
    )


def run(options: argparse.Namespace) -> None:
    """Run every cell that is not done yet.

    Raises:
        InputError: If the results have no folder.
        WorkerError: If a cell failed; the others have run then.
    """
    if not options.results.is_dir():
        raise InputError(f"--results {options.results}: there is no such folder; make it first")
    test_data = find_test_data()
    cells, skipped = split_by_data(full_cells() if options.full else main_cells(), test_data)
    commit = git_commit(ROOT)
    todo = [c for c in cells if not is_done(c, options.results / f"{c.name}.json", commit=commit, keep=options.keep)]
    done = len(cells) - len(todo)
    _say(f"{len(todo)} cells to run, about {_minutes(sum(cell.estimate_s for cell in todo))}; {done} are done")
    for name in skipped:
        _say(f"skipped: {name}: its checkpoint is not in {test_data}; set CROSSRANK_TEST_DATA")
    judged = has_judged_queries(test_data)
    if not judged:
        _say(f"no judged queries in {test_data}: texts are made up")

    def launch(cell: Cell, output: Path) -> int:
        arguments = [sys.executable, "-m", "benchmarks", *arguments_of(cell, output, judged=judged)]
        return subprocess.run(arguments, cwd=ROOT, check=False).returncode

    outcome = run_cells(todo, options.results, launch, minutes=options.minutes)
    for name in outcome.left:
        _say(f"left for the next run: {name}")
    if outcome.failed:
        names = ", ".join(f"{name} (exit status {status})" for name, status in outcome.failed.items())
        raise WorkerError(f"{len(outcome.failed)} of {len(todo)} cells failed: {names}; run the suite again for these")


def run_cells(todo: Sequence[Cell], folder: Path, launch: Launch, *, minutes: float | None = None) -> Outcome:
    """Run cells in their order; one that fails does not stop the others.

    Args:
        todo: The cells.
        folder: Gets a result for each.
        launch: Runs one cell, which writes the given file, and returns its exit status.
        minutes: Begin none that would probably end later; None for no limit.
    """
    begin = time.monotonic()
    guessed = measured = 0.0  # of the cells that have run; their quotient corrects the guesses of the others
    failed: dict[str, int] = {}
    for i, cell in enumerate(todo):
        elapsed = time.monotonic() - begin
        pace = measured / guessed if guessed else 1.0
        if minutes is not None and elapsed + pace * cell.estimate_s > 60 * minutes:
            return Outcome(failed, [left.name for left in todo[i:]])
        remaining = pace * sum(left.estimate_s for left in todo[i:])
        _say(f"[{i + 1}/{len(todo)}] {cell.name}: {_minutes(elapsed)} gone, about {_minutes(remaining)} to go")
        start = time.monotonic()
        status = launch(cell, folder / f"{cell.name}.json")
        measured, guessed = measured + time.monotonic() - start, guessed + cell.estimate_s
        if status:
            failed[cell.name] = status
            _say(f"{cell.name} failed with exit status {status}")
    return Outcome(failed, [])


def is_done(cell: Cell, file: Path, *, commit: str, keep: bool) -> bool:
    """Whether a cell's result is there, complete, with all of its engines, and of this code.

    Args:
        cell: The cell.
        file: Its result.
        commit: Of the checkout now; where that is dirty or unknown, no code may be younger than the result either.
        keep: Take results of any commit.
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


def split_by_data(cells: Iterable[Cell], test_data: Path) -> tuple[list[Cell], list[str]]:
    """The cells that can run with the test data at hand, and the names of the others."""
    absent = {model for model, (_, place) in CHECKPOINTS.items() if not (test_data / place).is_dir()}
    can, cannot = [], []
    for cell in cells:
        if cell.model in absent:
            cannot.append(cell.name)
        else:
            can.append(cell)
    return can, cannot


def has_judged_queries(test_data: Path) -> bool:
    """Whether the test data has what `Cell.judged` asks for."""
    return (test_data / "data" / TREC_DL19).is_dir()


def arguments_of(cell: Cell, output: Path, *, judged: bool) -> list[str]:
    """What follows ``python -m benchmarks`` to run a cell.

    Args:
        cell: The cell.
        output: Gets its result.
        judged: Whether there are judged queries.
    """
    data = ("--data", TREC_DL19) if cell.judged and judged else ()
    return [
        *(cell.command, "--model", cell.model, "--engines", *cell.engines),
        *(*cell.options, *data, "--output", str(output.resolve())),
    ]


def _newest_code() -> float:
    """When code or an engine's requirements were changed last, in seconds since 1970."""
    files = (path for folder in _CODE for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".toml", ".txt"))
    return max(path.stat().st_mtime for path in files)


def _minutes(seconds: float) -> str:
    """A time in words.

    >>> _minutes(200), _minutes(3 * 3600)
    ('3 min', '3.0 h')
    """
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
