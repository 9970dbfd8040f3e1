"""The workers of ``--workers``: processes that share a listening socket, each on cores of its own.

Whoever is free accepts the next connection. Each has a model of its own: nothing of it is shared but the files in the
page cache. A worker that dies is started again; one that cannot even start ends all.
"""

import argparse
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from crossrank import CrossrankError, InputError

logger = logging.getLogger("crossrank.serve")

_TICK_S = 0.1
_AGAIN_S = 1.0  # before a worker that died is started again
_CODE = "import sys; from crossrank.serve._workers import work; sys.exit(work(sys.argv[1:]))"


class Peers:
    """Where the workers tell each other what they counted, so that any of them may be asked for metrics.

    Args:
        folder: Of the files, one of each worker's.
        index: Which worker this is.

    Attributes:
        supervisor: The id of the process that started this one.
    """

    def __init__(self, folder: Path, index: int) -> None:
        self._folder, self._index = folder, index
        self.supervisor = os.getppid()

    def tell(self, text: bytes) -> None:
        """Leave word for the others; from the first time on this worker is one that works."""
        file = self._folder / f"{self._index}.new"
        try:
            file.write_bytes(text)
            file.replace(self._folder / f"{self._index}.prom")
        except OSError as error:  # a full disk is no reason to answer nobody
            logger.warning("metrics are not told to the other workers: %s", error)

    def joined(self, own: bytes) -> bytes:
        """The metrics of all workers, each with its number as a label.

        Args:
            own: Those of this one, of now; the others' are a second old at most.
        """
        texts = {file.stem: file.read_bytes() for file in sorted(self._folder.glob("*.prom"))} | {str(self._index): own}
        families: dict[str, Metric] = {}
        for worker, text in texts.items():
            for family in text_string_to_metric_families(text.decode()):
                whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.samples.append(sample._replace(labels={**sample.labels, "worker": worker}))
        registry = CollectorRegistry()
        registry.register(_Given(list(families.values())))
        return generate_latest(registry)


class _Given(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def shares(cores: Sequence[int], count: int) -> list[list[int]]:
    """The cores of each worker.

    Raises:
        InputError: If there are more workers than cores.

    >>> shares([0, 1, 2, 3, 4], 2)
    [[0, 1, 2], [3, 4]]
    """
    if count > len(cores):
        raise InputError(f"--workers {count}: one each for the {len(cores)} cores that this process may use, at most")
    size, more = divmod(len(cores), count)
    starts = [i * size + min(i, more) for i in range(count + 1)]
    return [list(cores[start:stop]) for start, stop in pairwise(starts)]


def run_workers(options: argparse.Namespace, arguments: Sequence[str], bound: socket.socket) -> int:
    """Start the workers, keep them running, and end them when a signal comes. Returns the exit status.

    Args:
        options: The command's.
        arguments: What it was given, which each worker reads again.
        bound: The socket that they share.

    Raises:
        InputError: If there are more workers than cores, or the system cannot pin them.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise InputError("--workers: this system does not let processes choose their cores; start several servers")
    cores = shares(sorted(os.sched_getaffinity(0)), options.workers)
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: signals.append(number))
    with tempfile.TemporaryDirectory(prefix="crossrank-serve-") as folder, bound:
        running = [_start(i, cores[i], folder, bound, arguments) for i in range(options.workers)]
        status = 0
        while not signals and not status:
            time.sleep(_TICK_S)
            for i, worker in enumerate(running):
                if worker.poll() is None or signals:
                    continue
                told = Path(folder, f"{i}.prom")
                if not told.exists():
                    status = 1  # it has said why
                    break
                logger.error("worker %d ended with status %d and is started again", i, worker.returncode)
                told.unlink()
                time.sleep(_AGAIN_S)
                running[i] = _start(i, cores[i], folder, bound, arguments)
        bound.close()
        _end(running, options.drain_seconds)
    return status


def _start(
    index: int, cores: list[int], folder: str, bound: socket.socket, arguments: Sequence[str]
) -> "subprocess.Popen[bytes]":
    own = json.dumps([index, cores, folder, bound.fileno()])
    # A session of its own: Ctrl-C reaches the supervisor, which tells the workers.
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, own, *arguments], pass_fds=[bound.fileno()], start_new_session=True
    )


def _end(running: Sequence["subprocess.Popen[bytes]"], drain_seconds: int) -> None:
    for worker in running:
        worker.terminate()
    end = time.monotonic() + drain_seconds + 5
    for worker in running:
        try:
            worker.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def work(arguments: list[str]) -> int:
    """Be a worker, and return the exit status.

    Args:
        arguments: What `_start` says of this worker, as JSON, and those of the command.
    """
    from ._command import run
    from ._log import log_as_json
    from ._options import parse

    index, cores, folder, descriptor = json.loads(arguments[0])
    os.sched_setaffinity(0, cores)
    log_as_json()
    try:
        return run(parse(arguments[1:]), socket.socket(fileno=descriptor), Peers(Path(folder), index))
    except CrossrankError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
