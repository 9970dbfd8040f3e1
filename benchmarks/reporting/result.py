"""Results as JSON: what every command writes of a run beside its figures."""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import ROOT
from benchmarks.engines.registry import ENGINES
from benchmarks.engines.worker import Worker
from benchmarks.inputs.files import write_whole
from benchmarks.inputs.models import BenchmarkModel
from benchmarks.options import command_line

from .machine import git_commit

_FOLDERS = re.compile(r"(?<![\w:/])/(?:[^\s/'\",]+/)+")  # of an absolute path all but the last part, of a URL nothing


def describe_run(
    options: argparse.Namespace,
    model: BenchmarkModel,
    *,
    timed: str,
    machine: Mapping[str, object],
    workers: Mapping[str, Worker],
    figures: Mapping[str, Mapping[str, object]],
    unavailable: Mapping[str, str],
) -> dict[str, object]:
    """A result: how it was taken, and the figures of each engine beside what it says of itself.

    Args:
        options: Of the command.
        model: What was measured.
        timed: What the figures are of, in words.
        machine: As `describe_machine` gave it before the run.
        workers: Engine key -> its worker, which may have ended; those without figures are left out.
        figures: Engine key -> its figures.
        unavailable: Engine key -> why it has no figures.
    """
    return {
        "benchmark": options.command,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git_commit(ROOT),
        "command": command_line(options),
        "timed": timed,
        "machine": dict(machine),
        "threads": options.threads,
        "model": model.describe(),
        "versions": {ENGINES[key].name: dict(sorted(workers[key].versions.items())) for key in figures},
        "unavailable": {ENGINES[key].name: shorten_reason(reason) for key, reason in unavailable.items()},
        "engines": {
            ENGINES[key].name: {"kind": ENGINES[key].kind, **workers[key].facts, **found}
            for key, found in figures.items()
        },
    }


def shorten_reason(reason: str) -> str:
    r"""An error's message for a result: on one line, not long, and of absolute paths the last part only.

    >>> shorten_reason("no /home/me/a/model.onnx,\n  see https://onnx.ai/docs")
    'no model.onnx, see https://onnx.ai/docs'
    """
    return f"{_FOLDERS.sub('', ' '.join(reason.split())):.300}"


def headline(options: argparse.Namespace, model: BenchmarkModel, data: Mapping[str, object]) -> str:
    """A line that says what was measured.

    Args:
        options: Of the command.
        model: What was measured.
        data: As `Workload.describe` gives it.
    """
    calls = f"{data['calls']} calls of {data['documents_per_call']} documents"
    return f"{model.name} ({model.weights} weights), {data['name']}, {calls}, {options.threads} threads"


def print_unavailable(unavailable: Mapping[str, str]) -> None:
    """A line on standard error for each engine that has no figures.

    Args:
        unavailable: Engine key -> why.
    """
    for key, reason in unavailable.items():
        print(f"{ENGINES[key].name}: not measured: {reason}", file=sys.stderr)


def write_result(path: Path, result: Mapping[str, object]) -> None:
    """Write a result; the file appears when it is complete."""
    write_whole(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
