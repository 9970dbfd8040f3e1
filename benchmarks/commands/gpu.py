"""A GPU machine checked and timed, in parts that go on where an earlier run was stopped; the targets come last.

Each part is a process of its own, since a fault on a GPU ends it, and leaves a JSON file that says what was done.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import ROOT
from benchmarks.engines.worker import WorkerError
from benchmarks.measure.gpu.models import Place
from benchmarks.measure.gpu.parts import Part, choose_parts, identify, is_done, missing_data, run_part
from benchmarks.options import command_line, find_test_data, positive
from benchmarks.reporting.gpu_tables import markdown_report, read_parts, short_tables
from crossrank._machine.device import check_device

RESULTS = ROOT / "benchmarks" / "results" / "gpu"
_REHEARSAL = "gpu-rehearsal"
_LONGEST_S = 540.0  # of a part: some GPU services end a command after ten minutes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    bench = ROOT / ".bench"
    add = parser.add_argument
    add("--parts", nargs="+", metavar="NAME", help="of facts, model-KEY, quality, kernels and tuning (default: all)")
    add(
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"where results are written, and found that need not be taken again (default: benchmarks/results/gpu, of "
        f"a rehearsal .bench/{_REHEARSAL}/results)",
    )
    add("--minutes", type=positive, metavar="N", help="begin no part that would probably end later, and end one then")
    add("--again", action="store_true", help="take parts again that are done")
    add("--keep", action="store_true", help="do not take again what was measured with other code")
    add("--no-graphs", action="store_true", help="capture no CUDA graph: for a machine where that breaks the others")
    add("--rehearse", action="store_true", help="tiny models on the CPU provider: shows that it runs, measures nothing")
    add("--report", action="store_true", help="measure nothing, print what was measured as Markdown")
    add("--commit", metavar="HASH", help="what results say of the code where the checkout came without its history")
    add("--here", action="store_true", help="run the parts in this process (a rehearsal does)")
    add(
        "--bench",
        type=Path,
        default=bench,
        metavar="FOLDER",
        help="what is made once and kept: drawn checkpoints (default: .bench)",
    )


def run(options: argparse.Namespace) -> None:
    """Run every part that is not done, and print the tables of all that are.

    Raises:
        InputError: If the options are not what they can be.
        DeviceError: If the installed onnxruntime has no CUDA provider.
        WorkerError: If a part failed; the others have run then.
    """
    place = Place(options.rehearse, options.bench, find_test_data(), graphs=not options.no_graphs)
    folder = options.output or (options.bench / _REHEARSAL / "results" if options.rehearse else RESULTS)
    if options.report:
        print(markdown_report(folder))
        return
    parts = choose_parts(options.parts)
    check_device(place.device)
    folder.mkdir(parents=True, exist_ok=True)
    if options.here and not options.rehearse:
        for part in parts:
            _run_here(part, place, folder, options)
        return
    failed = _run_all(parts, place, folder, options)
    print(short_tables(read_parts(folder)), flush=True)
    if failed:
        raise WorkerError(f"{', '.join(failed)} failed; what they did is in {folder}; run again for these")


def _run_all(parts: list[Part], place: Place, folder: Path, options: argparse.Namespace) -> list[str]:
    """Run those parts that are not done; returns the names of those that failed."""
    begin, failed = time.monotonic(), []
    for part in parts:
        reason = missing_data(part, place)
        if reason:
            _say(f"skipped: {part.name}: {reason}")
            continue
        if not options.again and is_done(folder / f"{part.name}.json", identify(part, place), keep=options.keep):
            _say(f"done before: {part.name}")
            continue
        left = _LONGEST_S if options.minutes is None else 60 * options.minutes - (time.monotonic() - begin)
        if not place.rehearse and left < part.estimate_s:
            _say(f"left for the next run: {part.name}")
            continue
        _say(f"{part.name}: about {part.estimate_s:.0f} s, {time.monotonic() - begin:.0f} s gone")
        try:
            if place.rehearse:
                _run_here(part, place, folder, options)
            else:
                _run_apart(part, folder, options, min(left, _LONGEST_S))
        except Exception as error:  # one part that fails leaves the others to be measured
            _say(f"{part.name} failed: {error}")
            failed.append(part.name)
    return failed


def _run_apart(part: Part, folder: Path, options: argparse.Namespace, limit_s: float) -> None:
    arguments = ["--parts", part.name, "--here", "--output", str(folder.resolve()), "--bench", str(options.bench)]
    if options.commit:
        arguments += ["--commit", options.commit]
    if options.no_graphs:
        arguments.append("--no-graphs")
    subprocess.run([sys.executable, "-m", "benchmarks", "gpu", *arguments], cwd=ROOT, check=True, timeout=limit_s)


def _run_here(part: Part, place: Place, folder: Path, options: argparse.Namespace) -> None:
    file = folder / f"{part.name}.json"
    run_part(part, place, file, command=command_line(options), commit=options.commit)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
