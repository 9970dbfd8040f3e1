"""Results as JSON: what every command writes of a run beside its figures, and the committed files read back.

A result of the suite is one file that a command wrote with ``--output``, COMMAND-MODEL.json or COMMAND-MODEL-SIZE.json.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.engines.registry import WorkerError, reason_of
from benchmarks.inputs.files import write_whole
from benchmarks.options import command_line
from crossrank import InputError
from crossrank._errors import join_problems
from crossrank._machine.busy import Neighbours
from crossrank._machine.cpu import processor_name, read_cpuinfo

RESULTS = ROOT / "benchmarks" / "results"
_CODE = ("engine", "export", "models", "benchmarks")

# What decides which kernels run; /proc/cpuinfo's words.
_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp")
_LOOK_S, _LOOKS = 1.0, 10
_FOLDERS = re.compile(r"(?<![\w:/])/(?:[^\s/'\",]+/)+")  # of an absolute path all but the last part, of a URL nothing
AFTER_PAUSE = "after_pause_p50_ms"  # of a turn's first call
_SHORT_S = 0.1  # a call's time, below which what it takes more after a pause would be seen in documents per second
# command -> what each of its engines must have, by dotted path.
_FIGURES = {
    "throughput": ("docs_per_s.median", "ratio.median"),
    "latency": ("p50_ms", "p95_ms", "p99_ms"),
    "memory": ("rss_mb", "peak_rss_mb"),
    "startup": ("total_s.median",),
}


def describe_machine() -> dict[str, object]:
    """CPU, its cores and instruction sets, the system, and how busy it was (1-minute load average)."""
    info = read_cpuinfo()
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def look_at_machine(threads: int, *, allow_load: bool) -> tuple[dict[str, object], Neighbours]:
    """`describe_machine` with ``busy_before``, cores that others took for a second; and what counts these from now on.

    Raises:
        WorkerError: If they took too many, unless ``allow_load``: engines that spin and wait lose more by it than ours.
    """
    for _ in range(_LOOKS):  # what ended a moment ago may leave work to the system
        before = Neighbours()
        time.sleep(_LOOK_S)
        busy, others = before.warning(threads), before.others()
        if allow_load or not busy:
            break
    if busy and not allow_load:
        raise WorkerError(f"{busy}, or with --allow-load all the same")
    machine = describe_machine() | {"busy_before": rounded(others)}
    return machine, Neighbours()


def rounded(cores: float | None) -> float | None:
    """Cores that others took, as a result has them: to hundredths, of what the kernel counts in whole ticks."""
    return None if cores is None else round(max(0.0, cores), 2)


def git_commit(root: Path) -> str:
    """The checkout's short commit hash, with ``-dirty`` where its files differ; "unknown" outside of a checkout.

    Results and what the report writes do not count: a run writes over those of an earlier one.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        unlike = (":!benchmarks/results", ":!*.md", ":!*.png")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *unlike)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def code_hash(root: Path) -> str:
    """A hash of the code of a checkout, which may have come without its history."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in _CODE for path in (root / folder).rglob("*")):
        if path.suffix in (".py", ".toml", ".jsonl", ".txt") and "results" not in path.parts:
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def describe_run(
    options: argparse.Namespace, machine: Mapping[str, object], *, timed: str | None = None
) -> dict[str, object]:
    """How a result was taken, on a machine as `describe_machine` gave it before the run; what was timed is in words."""
    return {
        "benchmark": options.command,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git_commit(ROOT),
        "code": code_hash(ROOT),
        "command": command_line(options),
        **({"timed": timed} if timed else {}),
        "machine": dict(machine),
    }


def shorten_reason(reason: str) -> str:
    r"""An error's message for a result: on one line, not long, and of absolute paths the last part only.

    >>> shorten_reason("no /home/me/a/model.onnx,\n  see https://onnx.ai/docs")
    'no model.onnx, see https://onnx.ai/docs'
    """
    return f"{_FOLDERS.sub('', ' '.join(reason.split())):.300}"


def shorten_reasons(unavailable: Mapping[str, str]) -> dict[str, str]:
    """What is not there -> why, as `shorten_reason` has it."""
    return {name: shorten_reason(reason) for name, reason in unavailable.items()}


def print_unavailable(unavailable: Mapping[str, str]) -> None:
    """A line on standard error for each that has no figures: name -> why."""
    for name, reason in unavailable.items():
        print(f"{name}: not measured: {reason}", file=sys.stderr)


def write_result(path: Path, result: Mapping[str, object]) -> None:
    """Write a result; the file appears when it is complete."""
    write_whole(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


@dataclass(frozen=True, slots=True)
class Result:
    """One file of the suite.

    Attributes:
        model: The model's short name, as the file's name has it.
        size: Documents per call; None where the command has none.
        weights: Where they come from: "published", or how they were drawn.
        calls: That were timed; 0 where they are not counted.
        kinds: Engine -> how exact it is, as `registry.Kind`.
        engines: Engine -> its figures by dotted path: ``engines["crossrank int8"]["docs_per_s.median"]``.
        unavailable: Engine -> why it has no figures.
        busy: Cores that others took before the run; None where that was not told.
        load: Of a result that does not tell it, the load average; None where none was told.
        turns: Of how many rounds and calls of a turn, in words; empty where that was not told.
        cold: Whether it is of short calls that each came after a pause, as once all were.
    """

    benchmark: str
    model: str
    size: int | None
    model_name: str
    weights: str
    date: str
    commit: str
    code: str
    machine: str
    busy: float | None
    load: float | None
    threads: int
    data: str
    calls: int
    turns: str
    cold: bool
    kinds: Mapping[str, str]
    engines: Mapping[str, Mapping[str, float]]
    unavailable: Mapping[str, str]

    def figure(self, engine: str, path: str) -> float | None:
        """A figure of an engine, None where either is not there."""
        return self.engines.get(engine, {}).get(path)

    def best(self, engines: Iterable[str], path: str, *, lowest: bool = False) -> str | None:
        """The engine with the highest, or lowest, figure among those that have it; None where none has."""
        values = {engine: value for engine in engines if (value := self.figure(engine, path)) is not None}
        return (min if lowest else max)(values, key=lambda engine: values[engine]) if values else None


@dataclass(frozen=True, slots=True)
class Results:
    """All results of a folder.

    Attributes:
        by_cell: By command, model and size.
        left_out: Files that are not among them, as `Result.cold`.
        service: Claim -> what `service` has found of it, as it was written.
    """

    by_cell: Mapping[tuple[str, str, int | None], Result]
    left_out: Sequence[str] = ()
    service: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def find(self, benchmark: str, model: str, size: int | None = None) -> Result | None:
        """The result of a cell, None where it has not been measured."""
        return self.by_cell.get((benchmark, model, size))

    def __iter__(self) -> Iterator[Result]:
        return iter(self.by_cell.values())


def read_results(folder: Path) -> Results:
    """Read every result of a folder, beside which other JSON files may lie.

    Raises:
        InputError: If the folder is none, or holds a file that cannot be read; names all such files.
    """
    if not folder.is_dir():
        raise InputError(f"--results {folder}: there is no such folder; `python -m benchmarks suite` makes results")
    results, left_out, problems = [], [], []
    for file in sorted(folder.glob("*.json")):
        try:
            result = read_result(file)
        except InputError as error:
            problems.append(str(error))
        else:
            if result and result.cold:
                left_out.append(file.name)
            elif result:
                results.append(result)
    if problems:
        raise InputError(join_problems(f"--results {folder}", problems))
    service = read_service(folder / "service-tinybert-l2.json") or {}
    return Results(
        {(result.benchmark, result.model, result.size): result for result in results},
        left_out,
        {entry["claim"]: entry for entry in service.get("targets", [])},
    )


def read_result(file: Path) -> Result | None:
    """Read one file, None for what no suite wrote.

    Raises:
        InputError: If it is no JSON, or lacks something.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file.name} cannot be read ({error}); remove it, and run the suite again") from error
    if not isinstance(content, dict) or content.get("benchmark") not in _FIGURES:
        return None
    benchmark = content["benchmark"]
    model, size = _cell_of(file, benchmark)
    try:
        engines = {name: dict(_numbers(row)) for name, row in content["engines"].items()}
        for figures in engines.values():
            for path in _FIGURES[benchmark]:
                figures[path]  # is there
        busy, calls = content["machine"].get("busy_before"), content.get("calls_of_a_turn")
        return Result(
            benchmark=benchmark,
            model=model,
            size=size,
            model_name=content["model"]["name"],
            weights=content["model"]["weights"],
            date=content["date"],
            commit=content["commit"],
            code=content.get("code", ""),
            machine=f"{content['machine']['cpu']}, {content['machine']['cores']} cores",
            busy=busy,
            load=content["machine"].get("load_before") if busy is None else None,
            threads=content["threads"],
            data=content["data"]["name"],
            calls=int(content["data"].get("calls") or 0),
            turns=f"{content['rounds']} x {calls}" if calls else "",
            cold=_is_cold(benchmark, size, engines.values(), calls or 1),
            kinds={name: row["kind"] for name, row in content["engines"].items()},
            engines=engines,
            unavailable=content["unavailable"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file.name} lacks what the report needs of its engines, data or machine: {reason_of(error)}; remove it, "
            "and run the suite again"
        ) from error


def read_service(file: Path) -> dict[str, Any] | None:
    """A result of `service` as it was written; None where there is none."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if look_up(content, "benchmark") == "service" else None


def _is_cold(benchmark: str, size: int | None, engines: Iterable[Mapping[str, float]], calls: int) -> bool:
    if benchmark == "latency":
        return any(AFTER_PAUSE not in figures for figures in engines)
    speeds = [figures["docs_per_s.median"] for figures in engines if benchmark == "throughput"]
    return calls == 1 and size is not None and any(size / speed < _SHORT_S for speed in speeds)


def look_up(content: Any, *path: str) -> Any:
    """What lies at a path in nested tables, None where it does not go on."""
    for name in path:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def _cell_of(file: Path, benchmark: str) -> tuple[str, int | None]:
    """Model and size of a file's name.

    >>> _cell_of(Path("throughput-tinybert-l2-100.json"), "throughput"), _cell_of(Path("memory-a.json"), "memory")
    (('tinybert-l2', 100), ('a', None))
    """
    model = file.stem.removeprefix(f"{benchmark}-")
    front, _, last = model.rpartition("-")
    return (front, int(last)) if front and last.isdecimal() else (model, None)


def _numbers(value: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Every finite number in nested dictionaries, with its dotted path."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from _numbers(entry, f"{path}.{name}" if path else name)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield path, float(value)
