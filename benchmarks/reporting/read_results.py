"""The committed results, read back and checked: what `suite` takes as done and `report` makes its tables from.

A result is one JSON file that a command wrote with ``--output``, named COMMAND-MODEL.json or COMMAND-MODEL-SIZE.json.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossrank import InputError
from crossrank._errors import join_problems

# command -> what each of its engines must have, by dotted path.
_FIGURES = {
    "throughput": ("docs_per_s.median", "ratio.median"),
    "latency": ("p50_ms", "p95_ms", "p99_ms"),
    "memory": ("rss_mb", "peak_rss_mb"),
    "startup": ("total_s.median",),
}


@dataclass(frozen=True, slots=True)
class Result:
    """One file.

    Attributes:
        benchmark: The command that wrote it.
        model: The model's short name, as the file's name has it.
        size: Documents per call; None where the command has none.
        model_name: As tables call it.
        weights: Where they come from: "published", or how they were drawn.
        commit: What was measured; ends with ``-dirty`` where the code differed from the commit.
        machine: Processor and cores.
        data: What was scored.
        calls: Of the data that were timed; 0 where they are not counted.
        kinds: Engine -> how exact it is, as `registry.Kind`.
        engines: Engine -> its figures by dotted path: ``engines["crossrank int8"]["docs_per_s.median"]``.
        unavailable: Engine -> why it has no figures.
    """

    benchmark: str
    model: str
    size: int | None
    model_name: str
    weights: str
    date: str
    commit: str
    machine: str
    threads: int
    data: str
    calls: int
    kinds: Mapping[str, str]
    engines: Mapping[str, Mapping[str, float]]
    unavailable: Mapping[str, str]

    def figure(self, engine: str, path: str) -> float | None:
        """A figure of an engine, None where either is not there."""
        return self.engines.get(engine, {}).get(path)


@dataclass(frozen=True, slots=True)
class Results:
    """All results of a folder, by command, model and size."""

    by_cell: Mapping[tuple[str, str, int | None], Result]

    def find(self, benchmark: str, model: str, size: int | None = None) -> Result | None:
        """The result of a cell, None where it has not been measured."""
        return self.by_cell.get((benchmark, model, size))

    def __iter__(self) -> Iterator[Result]:
        return iter(self.by_cell.values())


def read_results(folder: Path, *, ignored: Callable[[str], None]) -> Results:
    """Read every result of a folder.

    Args:
        folder: Where the commands wrote; other JSON files may lie beside them.
        ignored: Called with a line for each file of an older format.

    Raises:
        InputError: If the folder is none, or holds a file that cannot be read; names all such files.
    """
    if not folder.is_dir():
        raise InputError(f"--results {folder}: there is no such folder; `python -m benchmarks suite` makes results")
    results, problems = [], []
    for file in sorted(folder.glob("*.json")):
        try:
            result = read_result(file)
        except InputError as error:
            problems.append(str(error))
            continue
        if isinstance(result, Result):
            results.append(result)
        elif result:
            ignored(result)
    if problems:
        raise InputError(join_problems(f"--results {folder}", problems))
    return Results({(result.benchmark, result.model, result.size): result for result in results})


def read_result(file: Path) -> Result | str | None:
    """Read one file: a result, a line that says why it is ignored, or None for what no suite wrote.

    Raises:
        InputError: If it is no JSON (an interrupted run) or lacks something; names all that it lacks.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file.name} cannot be read ({error}); remove it, and run the suite again") from error
    if not isinstance(content, dict) or content.get("benchmark") not in _FIGURES:
        return None
    if "commit" not in content:
        return f"{file.name}: older format, ignored"
    return _checked(file, content)


def _checked(file: Path, content: dict[str, Any]) -> Result:
    problems: list[str] = []

    def take(path: str, kind: type) -> Any:
        value: Any = content
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            problems.append(f"{path} is {json.dumps(value)[:60]}; {kind.__name__} is needed")
            return kind()
        return value

    benchmark = take("benchmark", str)
    rows = take("engines", dict)
    engines = {name: dict(_numbers(row)) for name, row in rows.items()}
    kinds = {name: row["kind"] for name, row in rows.items() if isinstance(row, dict) and "kind" in row}
    problems += [f"engines.{name} has no kind" for name in rows if name not in kinds]
    for name, figures in engines.items():
        problems += [f"engines.{name}.{path} is no number" for path in _FIGURES[benchmark] if path not in figures]
    model, size = _cell_of(file, benchmark)
    result = Result(
        benchmark=benchmark,
        model=model,
        size=size,
        model_name=take("model.name", str),
        weights=take("model.weights", str),
        date=take("date", str),
        commit=take("commit", str),
        machine=f"{take('machine.cpu', str)}, {take('machine.cores', int)} cores",
        threads=take("threads", int),
        data=take("data.name", str),
        calls=int(content["data"].get("calls", 0)) if isinstance(content.get("data"), dict) else 0,
        kinds=kinds,
        engines=engines,
        unavailable={name: str(reason) for name, reason in take("unavailable", dict).items()},
    )
    if problems:
        raise InputError(join_problems(file.name, problems))
    return result


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
