"""A GPU machine checked and timed, in parts that go on where an earlier run was stopped; the goals come last.

Each part is a process of its own, since a fault on a GPU ends it, and leaves a JSON file that says what was done.
"""

import argparse
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.engines.registry import WorkerError, reason_of
from benchmarks.inputs.workloads import TREC_DL19
from benchmarks.measure.gpu.contenders import Keep
from benchmarks.measure.gpu.models import MODELS, QUALITY_MODEL, Place, trained_checkpoint
from benchmarks.options import add_options, find_test_data
from benchmarks.reporting.gpu import markdown_report, read_part, short_tables
from benchmarks.reporting.result import RESULTS, describe_machine, describe_run, shorten_reason, write_result
from crossrank import InputError
from crossrank._machine.device import check_device
from crossrank._machine.gpu import read_gpu_facts

from .jobs import run_command, run_jobs, say

_REHEARSAL = "gpu-rehearsal"
_LONGEST_S = 540.0  # of a part: some GPU services end a command after ten minutes
_CODE = ("engine", "export", "models", "benchmarks")
_MODEL = "model-"
_WITHOUT_GRAPHS = ("facts", "kernels")  # capture none anyhow
_ESTIMATES_S = {"small": 95.0, "base": 95.0, "large": 140.0}


@dataclass(frozen=True, slots=True)
class Part:
    """What runs in one go, and leaves one JSON file of its name; with a guess of its time on an H100."""

    name: str
    estimate_s: float
    measure: Callable[[Place, Keep], None]


def all_parts() -> list[Part]:
    """The parts by what is wanted first where time is short."""
    models = [
        Part(f"{_MODEL}{key}", _ESTIMATES_S[shape.size], _late("gpu.figures", "measure_model", key))
        for key, shape in MODELS.items()
    ]
    return [
        Part("facts", 25, _late("gpu.machine", "measure_facts")),
        Part("tuning", 150, _late("gpu.tuning", "measure_tuning")),
        *models[:2],
        Part("kernels", 120, _late("kernels", "measure_kernels")),
        Part("quality", 60, _late("gpu.quality", "measure_quality")),
        *models[2:],
    ]


def _late(module: str, name: str, *arguments: str) -> Callable[[Place, Keep], None]:
    """A function that is imported where it runs: not every machine has what all of them need."""

    def measure(place: Place, keep: Keep) -> None:
        getattr(import_module(f"benchmarks.measure.{module}"), name)(*arguments, place, keep)

    return measure


def choose_parts(names: Sequence[str] | None) -> list[Part]:
    """The parts of these names, in the order of `all_parts`; None for all.

    Raises:
        InputError: For a name that none has.
    """
    parts = all_parts()
    known = [part.name for part in parts]
    wrong = [name for name in names or () if name not in known]
    if wrong:
        raise InputError(f"--parts {' '.join(wrong)}: known are {', '.join(known)}")
    return [part for part in parts if names is None or part.name in names]


def missing_data(part: Part, place: Place) -> str | None:
    """Why a part cannot run with the test data at hand, None if it can."""
    if part.name != "quality":
        return None
    if not (place.test_data / "data" / TREC_DL19).is_dir():
        return f"no judged queries {TREC_DL19} in the test data; set CROSSRANK_TEST_DATA"
    if not place.rehearse and trained_checkpoint(QUALITY_MODEL, place.test_data) is None:
        return "no trained checkpoint in the test data; set CROSSRANK_TEST_DATA"
    return None


def identify(part: Part, place: Place) -> dict[str, object]:
    """All that a result must have been taken with to stand for a part: its code, its weights and its GPU."""
    gpus = read_gpu_facts().gpus
    model = QUALITY_MODEL if part.name == "quality" else part.name.removeprefix(_MODEL)
    trained = trained_checkpoint(model, place.test_data)
    return {
        "part": part.name,
        "rehearsal": place.rehearse,
        "code": code_hash(ROOT),
        "gpu": "CPU" if place.rehearse else gpus[place.device.index].name if gpus else "unknown",
        "weights": "published" if trained and not place.rehearse else "random, seed 0",
        "graphs": place.graphs or part.name in _WITHOUT_GRAPHS,
    }


def code_hash(root: Path) -> str:
    """A hash of the code of a checkout, which may have come without its history."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in _CODE for path in (root / folder).rglob("*")):
        if path.suffix in (".py", ".toml", ".jsonl") and "results" not in path.parts:
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def is_done(file: Path, identity: Mapping[str, object], *, keep: bool) -> bool:
    """Whether a part's result is there, complete, and of what runs now, as `identify` says, or of any code (``keep``).

    One with CUDA graphs stands for one without too.
    """
    content = read_part(file)
    if content is None or not content.get("complete"):
        return False
    found = content["identity"]
    ignored = [*(["code"] if keep else []), *(["graphs"] if found.get("graphs") else [])]
    return all(found.get(name) == value for name, value in identity.items() if name not in ignored)


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
    add("--parts", nargs="+", metavar="NAME", help="of facts, model-KEY, quality, kernels and tuning (default: all)")
    add(
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"where results are written, and found that need not be taken again (default: benchmarks/results/gpu, of "
        f"a rehearsal .bench/{_REHEARSAL}/results)",
    )
    add("--again", action="store_true", help="take parts again that are done")
    add("--keep", action="store_true", help="do not take again what was measured with other code")
    add("--no-graphs", action="store_true", help="capture no CUDA graph: for a machine where that breaks the others")
    add("--rehearse", action="store_true", help="tiny models on the CPU provider: shows that it runs, measures nothing")
    add("--report", action="store_true", help="measure nothing, print what was measured as Markdown")
    add("--commit", metavar="HASH", help="what results say of the code where the checkout came without its history")
    add("--here", action="store_true", help="run the parts in this process (a rehearsal does)")
    add_options(
        parser, "bench", "minutes", minutes={"help": "begin no part that would probably end later, and end one then"}
    )


def run(options: argparse.Namespace) -> None:
    """Run every part that is not done, and print the tables of all that are."""
    place = Place(options.rehearse, options.bench, find_test_data(), graphs=not options.no_graphs)
    folder = options.output or (options.bench / _REHEARSAL / "results" if options.rehearse else RESULTS / "gpu")
    if options.report:
        print(markdown_report(folder))
        return
    parts = choose_parts(options.parts)
    check_device(place.device)
    folder.mkdir(parents=True, exist_ok=True)
    if options.here and not options.rehearse:
        for part in parts:
            run_part(part, place, folder / f"{part.name}.json", options)
        return
    failed = run_parts(parts, place, folder, options)
    print(short_tables(folder), flush=True)
    if failed:
        raise WorkerError(f"{', '.join(failed)} failed; what they did is in {folder}; run again for these")


def run_parts(parts: Sequence[Part], place: Place, folder: Path, options: argparse.Namespace) -> list[str]:
    """Run those parts that are not done; returns the names of those that failed."""
    todo = []
    for part in parts:
        if reason := missing_data(part, place):
            say(f"skipped: {part.name}: {reason}")
        elif not options.again and is_done(folder / f"{part.name}.json", identify(part, place), keep=options.keep):
            say(f"done before: {part.name}")
        else:
            todo.append(part)

    def launch(part: Part, left_s: float | None) -> int:
        if not place.rehearse:
            return run_apart(part, folder, options, min(left_s or _LONGEST_S, _LONGEST_S))
        try:
            run_part(part, place, folder / f"{part.name}.json", options)
        except Exception as error:  # one part that fails leaves the others to be measured
            say(f"{part.name}: {reason_of(error)}")
            return 1
        return 0

    return list(run_jobs(todo, launch, minutes=None if place.rehearse else options.minutes).failed)


def run_apart(part: Part, folder: Path, options: argparse.Namespace, limit_s: float) -> int:
    """Run a part in a process of its own; returns its exit status."""
    arguments = ["--parts", part.name, "--here", "--output", str(folder.resolve()), "--bench", str(options.bench)]
    if options.commit:
        arguments += ["--commit", options.commit]
    if options.no_graphs:
        arguments.append("--no-graphs")
    return run_command(["gpu", *arguments], limit_s=limit_s)
