"""The suite: the measurements that the documents show, one after the other, to go on where an earlier run was stopped.

They are cells, each one command on one model at one size. A turn is a single call where that takes a tenth of a second
on any engine, else so many calls that it takes as long on the fastest.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.engines.conversions import model_folder
from benchmarks.engines.registry import ENGINES, EngineUnavailable, WorkerError
from benchmarks.inputs.workloads import LONG, TREC_DL19
from benchmarks.options import add_load_option, add_options, find_test_data, open_benchmark_model
from benchmarks.reporting.result import RESULTS, code_hash, read_result, read_service
from crossrank import CrossrankError

from .jobs import in_words, run_command, run_jobs, say

_OURS = ("crossrank-fp32", "crossrank-int8")
_BY_KERNELS = (*_OURS, "crossrank-int8-kernels")
_TORCH = "st-torch-fp32"  # what ratios are to, and what most people have
_EXPERTS = tuple(key for key, spec in ENGINES.items() if spec.expert and key != "openvino-genai")
# For cells that would take too long with all: the fastest of the experts' reduced precisions, or one that came near.
_BEST_EXPERTS = ("expert-onnxruntime-int8", "expert-openvino-bf16", "expert-openvino-int8", "expert-ctranslate2-int8")
_BESIDE_EXPERTS = (*_BY_KERNELS, _TORCH, *_BEST_EXPERTS)
_NEWER = (*_OURS, _TORCH, "st-torch-bf16", *_EXPERTS[:5])  # CTranslate2 has none of them


@dataclass(frozen=True, slots=True)
class Cell:
    """One process of ``python -m benchmarks``, and one result.

    Attributes:
        size: Documents per call; None where the result's name has none.
        engines: Who is measured; `service` takes these two by itself.
        estimate_s: A guess of its time on two cores.
        judged: Whether judged queries are scored where there are any; else texts are made up.
        texts: Of which other kind they are made up, as ``--data`` has it.
    """

    command: str
    model: str
    size: int | None
    engines: tuple[str, ...]
    options: tuple[str, ...]
    estimate_s: float
    judged: bool = True
    texts: str = ""

    @property
    def name(self) -> str:
        """Of its result, without the ending."""
        parts = (self.command, self.model, self.texts, "" if self.size is None else str(self.size))
        return "-".join(filter(None, parts))


def all_cells() -> list[Cell]:
    """Those that the tables and the goals need, the most wanted first: all nine shapes within half an hour."""
    every = tuple(ENGINES)
    on_texts = tuple(key for key in every if not ENGINES[key].options.get("encoded"))
    starting = (*_BY_KERNELS, "fastembed-fp32", "fastembed-qint8", _TORCH)
    packaged = (*_BY_KERNELS, "fastembed-fp32", "fastembed-qint8", "st-torch-fp32", "st-onnx-qint8", "st-openvino")
    few, one = ("--warm-up-documents=10",), ("--warm-up-documents=1",)
    with_fp32 = (*_BESIDE_EXPERTS, "expert-ctranslate2-fp32")
    return [
        # A query has 100 judged candidates, and there are 43. Short calls are of many shapes, which OpenVINO prepares.
        _timed("throughput", "tinybert-l2", 100, every, (3, 4, 10), 160),
        _timed("throughput", "minilm-l12", 100, on_texts, (1, 4, 1), 240),
        _timed("throughput", "minilm-l6", 100, _BESIDE_EXPERTS, (1, 4, 3), 80),
        _timed("latency", "tinybert-l2", 10, (*packaged, *_BEST_EXPERTS), (40, 12, 8), 70),
        _timed("latency", "minilm-l12", 1, _BESIDE_EXPERTS, (2, 5, 6), 50, texts=LONG),
        Cell("startup", "tinybert-l2", None, starting, ("--rounds", "10"), 90, judged=False),
        _timed("throughput", "tinybert-l4", 100, _BESIDE_EXPERTS, (1, 3, 4), 60),
        _timed("throughput", "pt-tinybert", 100, _BESIDE_EXPERTS, (1, 3, 4), 60),
        _timed("throughput", "tinybert-l6", 100, _BESIDE_EXPERTS, (1, 2, 1), 80, more=few),
        _timed("throughput", "bert-base", 100, with_fp32, (1, 2, 1), 130, more=few),
        _timed("throughput", "electra-base", 100, _BESIDE_EXPERTS, (1, 2, 1), 100, more=few),
        _timed("throughput", "bert-large", 100, _BESIDE_EXPERTS, (1, 1, 1), 220, more=one),
        _timed("throughput", "capreolus-electra-base", 100, _BESIDE_EXPERTS, (1, 2, 1), 100, more=few),
        _timed("throughput", "bert-multilingual", 100, _BESIDE_EXPERTS, (1, 2, 1), 120, more=few),
        Cell("service", "tinybert-l2", None, (_OURS[0], _TORCH), ("--minutes", "4"), 240, judged=False),
        Cell("memory", "minilm-l12", None, (*packaged, *_BEST_EXPERTS), (), 130),
        _timed("throughput", "ettin-17m", 100, _NEWER, (1, 3, 2), 70),
        _timed("throughput", "ettin-32m", 100, _NEWER, (1, 3, 1), 80),
        _timed("throughput", "gte-modernbert-base", 100, (*_OURS, _TORCH), (1, 2, 1), 80, more=few),
        _timed("throughput", "mxbai-xsmall", 100, (*_OURS, _TORCH), (1, 3, 1), 50),
        _timed("latency", "minilm-l12", 10, _BESIDE_EXPERTS, (10, 6, 4), 100),
        _timed("latency", "tinybert-l2", 1, _BESIDE_EXPERTS, (40, 12, 8), 50),
        # Longer calls than queries have candidates would have to mix those of several.
        _timed("throughput", "tinybert-l2", 1000, _OURS, (1, 3, 4), 30, judged=False),
        _timed("throughput", "tinybert-l2", 100_000, _OURS, (1, 2, 1), 160, judged=False, more=few),
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
    texts: str = "",
    more: Sequence[str] = (),
) -> Cell:
    """A cell of so many warm-up calls, rounds, and calls of a turn."""
    options = [
        f"--{name}={n}" for name, n in zip(("documents", "warm-up", "rounds", "calls"), (size, *amounts), strict=True)
    ]
    return Cell(command, model, size, tuple(engines), (*options, *more), estimate_s, judged, texts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--keep", action="store_true", help="do not take again what was measured with other code")
    help_ = "make all that the engines open, which takes hours with nothing made, and measure nothing"
    parser.add_argument("--prepare", action="store_true", help=help_)
    parser.add_argument("--list", action="store_true", help="name the cells, whom each measures and how long; run none")
    add_options(parser, "minutes", "bench")
    add_load_option(parser)


def run(options: argparse.Namespace) -> None:
    """Run every cell that is not done yet."""
    test_data = find_test_data()
    cells, code = all_cells(), None if options.keep else code_hash(ROOT)
    todo = [cell for cell in cells if not is_done(cell, RESULTS / f"{cell.name}.json", code)]
    if options.list:
        for cell in cells:
            what = f"{cell.name}, {in_words(cell.estimate_s)}{'' if cell in todo else ', done'}"
            print(f"{what}: {' '.join(cell.options)}\n    {' '.join(cell.engines)}")
        return
    if options.prepare:
        _prepare(todo, options)
        return
    total_s, done = sum(cell.estimate_s for cell in todo), len(cells) - len(todo)
    say(f"{len(todo)} cells to run, about {in_words(total_s)}; {done} are done")
    judged = (test_data / "data" / TREC_DL19).is_dir()
    if not judged:
        say(f"no judged queries in {test_data}: texts are made up")

    def launch(cell: Cell, _: float | None) -> int:
        file = RESULTS / f"{cell.name}.json"
        return run_command(arguments_of(cell, file, judged=judged, allow_load=options.allow_load))

    failed = run_jobs(todo, launch, minutes=options.minutes).failed
    if failed:
        names = ", ".join(f"{name} (exit status {status})" for name, status in failed.items())
        raise WorkerError(f"{len(failed)} of {len(todo)} cells failed: {names}; run the suite again for these")


def _prepare(cells: Sequence[Cell], options: argparse.Namespace) -> None:
    """Draw the checkpoints and convert them, and say what cannot be."""
    for name in dict.fromkeys(cell.model for cell in cells):
        keys = dict.fromkeys(key for cell in cells if cell.model == name for key in cell.engines)
        model = open_benchmark_model(options, name)
        for form in dict.fromkeys(ENGINES[key].model for key in keys):
            try:
                model_folder(form, model.folder, model.scratch)
            except EngineUnavailable as error:
                say(f"{name}: {error}")
        say(f"{name} is prepared")


def is_done(cell: Cell, file: Path, code: str | None) -> bool:
    """Whether a cell's result is there, with all of its engines, and of this code, as `code_hash` has it; None: any."""
    if cell.command == "service":
        found = read_service(file)
        return found is not None and code in (None, found.get("code"))
    try:
        result = read_result(file)
    except CrossrankError:  # absent, or written to the half
        return False
    if result is None or result.cold:
        return False
    everyone = {ENGINES[key].name for key in cell.engines} <= {*result.engines, *result.unavailable}
    return everyone and code in (None, result.code)


def arguments_of(cell: Cell, output: Path, *, judged: bool, allow_load: bool = False) -> list[str]:
    """What follows ``python -m benchmarks`` to run a cell, where there are judged queries or not."""
    name = cell.texts or (TREC_DL19 if cell.judged and judged else "")
    data = ("--data", name) if name else ()
    return [
        *(cell.command, "--model", cell.model),
        *(("--engines", *cell.engines) if cell.command != "service" else ()),
        *(*cell.options, *data, "--output", str(output.resolve()), *(["--allow-load"] if allow_load else [])),
    ]
