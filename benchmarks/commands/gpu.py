"""A GPU machine checked and timed, in parts that go on where an earlier run was stopped; the goals come last.

What measures is a process of its own, since a fault on a GPU ends it: one for each part, or one for all of a quick run,
which has no time to start several. Each part leaves a JSON file that grows with what is done.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.engines.registry import WorkerError, reason_of
from benchmarks.measure.gpu.contenders import Keep
from benchmarks.measure.gpu.models import GOAL_MODELS, GPU_MODELS, Place, draw_models, size_of
from benchmarks.options import add_options, find_test_data
from benchmarks.reporting.gpu import MODEL, PARITY, QUICK, read_part, short_tables
from benchmarks.reporting.result import RESULTS, code_hash, describe_machine, describe_run, shorten_reason, write_result
from crossrank import InputError
from crossrank._machine.device import check_device
from crossrank._machine.gpu import read_gpu_facts

from .jobs import run_command, run_jobs, say

_REHEARSAL = "gpu-rehearsal"
_LONGEST_S = 540.0  # of a part: some GPU services end a command after ten minutes
_ESTIMATES_S = {"small": 60.0, "base": 70.0, "large": 110.0}
_QUICK_ESTIMATES_S = {"small": 40.0, "base": 50.0, "large": 50.0}  # their weights are drawn before


@dataclass(frozen=True, slots=True)
class Part:
    """What leaves one JSON file of its name; with the models whose weights it needs, and a guess of its time."""

    name: str
    estimate_s: float
    measure: Callable[[Place, Keep], None]
    models: tuple[str, ...] = ()


def all_parts(*, quick: bool = False) -> list[Part]:
    """The parts by what is wanted first where time is short."""
    facts = Part("facts", 15, _late("machine", "measure_facts"))
    name, keys, guesses = (QUICK, GOAL_MODELS, _QUICK_ESTIMATES_S) if quick else (MODEL, GPU_MODELS, _ESTIMATES_S)
    figures = partial(_late, "figures", "measure_model", quick=quick)
    models = [Part(f"{name}{key}", guesses[size_of(key)], figures(key), (key,)) for key in keys]
    if quick:
        return [facts, *models]
    parity = Part(PARITY, 120, _late("figures", "measure_parity"), GPU_MODELS)
    return [facts, parity, *models]


def _late(module: str, name: str, *arguments: str, **options: bool) -> Callable[[Place, Keep], None]:
    """A function that is imported where it runs: not every machine has what all of them need."""

    def measure(place: Place, keep: Keep) -> None:
        getattr(import_module(f"benchmarks.measure.gpu.{module}"), name)(*arguments, place, keep, **options)

    return measure


def choose_parts(names: Sequence[str] | None, *, quick: bool = False) -> list[Part]:
    """The parts of these names, in the order of `all_parts`; None for all.

    Raises:
        InputError: For a name that none has.
    """
    parts = all_parts(quick=quick)
    known = [part.name for part in parts]
    wrong = [name for name in names or () if name not in known]
    if wrong:
        raise InputError(f"--parts {' '.join(wrong)}: known are {', '.join(known)}")
    return [part for part in parts if names is None or part.name in names]


def identify(part: Part, place: Place) -> dict[str, object]:
    """What a result must have been taken with to stand for a part: its code and its GPU."""
    gpus = read_gpu_facts().gpus
    gpu = "CPU" if place.rehearse else gpus[place.device.index].name if gpus else "unknown"
    return {"part": part.name, "rehearsal": place.rehearse, "code": code_hash(ROOT), "gpu": gpu}


def is_done(part: Part, place: Place, file: Path) -> bool:
    """Whether a part's result is there, complete, and of what runs now."""
    content = read_part(file)
    return bool(content and content.get("complete") and content["identity"] == identify(part, place))


def run_part(part: Part, place: Place, file: Path, options: argparse.Namespace) -> None:
    """Run a part here. Its file holds what was done, section by section, also where it is stopped or fails.

    Raises:
        InputError: If the file is a measured result and this is a rehearsal.
    """
    before = read_part(file)
    if place.rehearse and before is not None and not before["rehearsal"]:
        raise InputError(f"{file.name} was measured on a GPU, a rehearsal would replace it: choose another --output")
    start = time.monotonic()
    sections: dict[str, object] = {}
    result: dict[str, Any] = describe_run(options, describe_machine()) | {
        "rehearsal": place.rehearse,
        "complete": False,
        "identity": identify(part, place),
        "sections": sections,
    }
    if options.commit and result["commit"] == "unknown":
        result["commit"] = options.commit

    def write() -> None:
        result["seconds"] = round(time.monotonic() - start, 1)
        write_result(file, result)

    def keep(name: str, content: object) -> None:
        sections[name] = content
        write()
        say(f"  {part.name}: {name}, {result['seconds']} s")

    write()  # of what ends without a word, there is a file that says that it began
    try:
        part.measure(place, keep)
        result["complete"] = True
    except Exception as error:
        result["failed"] = shorten_reason(reason_of(error))
        raise
    finally:
        write()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("--parts", nargs="+", metavar="NAME", help="of facts, parity and model-KEY (default: all)")
    add(
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"where results are written, and found that need not be taken again (default: benchmarks/results/gpu, of "
        f"a rehearsal .bench/{_REHEARSAL}/results)",
    )
    add(
        "--quick", action="store_true", help="a first look in minutes: facts and quick-KEY, for the models of the goals"
    )
    add("--rehearse", action="store_true", help="tiny models on the CPU provider: shows that it runs, measures nothing")
    add("--commit", metavar="HASH", help="what results say of the code where the checkout came without its history")
    add("--here", action="store_true", help="run the parts in this process (a rehearsal does)")
    minutes = {"help": "begin no part that would probably end later, and end one then"}
    add_options(parser, "bench", "minutes", minutes=minutes)


def run(options: argparse.Namespace) -> None:
    """Run every part that is not done, and print the tables of all that are."""
    place = Place(options.rehearse, options.bench, find_test_data())
    folder = options.output or (options.bench / _REHEARSAL / "results" if options.rehearse else RESULTS / "gpu")
    parts = choose_parts(options.parts, quick=options.quick)
    check_device(place.device)
    folder.mkdir(parents=True, exist_ok=True)
    if options.here:
        run_here(parts, place, folder, options)
        return
    todo = [part for part in parts if not is_done(part, place, folder / f"{part.name}.json")]
    if len(todo) < len(parts):
        say(f"done before: {', '.join(part.name for part in parts if part not in todo)}")
    if place.rehearse:
        run_here(todo, place, folder, options)
    elif options.quick:
        run_apart(todo, folder, options, None if options.minutes is None else 60 * options.minutes)
    else:

        def launch(part: Part, left_s: float | None) -> int:
            return run_apart([part], folder, options, min(left_s or _LONGEST_S, _LONGEST_S))

        run_jobs(todo, launch, minutes=options.minutes)
    print(short_tables(folder), flush=True)
    begun = {part.name: read_part(folder / f"{part.name}.json") for part in todo}
    if failed := [name for name, content in begun.items() if content and not content["complete"]]:
        raise WorkerError(f"{', '.join(failed)} failed; what they did is in {folder}; run again for these")


def run_here(parts: Sequence[Part], place: Place, folder: Path, options: argparse.Namespace) -> None:
    """Run parts in this process, after the weights that they need were drawn; one that fails leaves the others."""
    begin = time.monotonic()
    keys = dict.fromkeys(key for part in parts for key in part.models)
    if len(keys) > 1 and not place.rehearse:
        drawn = draw_models(list(keys), place)
        say(f"weights after {time.monotonic() - begin:.0f} s: {', '.join(f'{key} {s}' for key, s in drawn.items())}")

    def launch(part: Part, _: float | None) -> int:
        try:
            run_part(part, place, folder / f"{part.name}.json", options)
        except Exception as error:
            say(f"{part.name}: {reason_of(error)}")
            return 1
        return 0

    left = None if options.minutes is None else options.minutes - (time.monotonic() - begin) / 60
    run_jobs(parts, launch, minutes=left)


def run_apart(parts: Sequence[Part], folder: Path, options: argparse.Namespace, limit_s: float | None) -> int:
    """Run parts in one process of their own, which ends at the limit; returns its exit status."""
    arguments = ["--parts", *(part.name for part in parts), "--here", "--output", str(folder.resolve())]
    arguments += ["--bench", str(options.bench)]
    if options.commit:
        arguments += ["--commit", options.commit]
    if options.quick:
        arguments += ["--quick", *(["--minutes", str(options.minutes)] if options.minutes is not None else [])]
    return run_command(["gpu", *arguments], limit_s=limit_s)
