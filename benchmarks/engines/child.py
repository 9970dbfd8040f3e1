"""A process in another environment that runs `_serve` and answers a request at a time, in JSON lines."""

import json
import os
import signal
import subprocess
import tempfile
from types import TracebackType
from typing import Any, Self

from benchmarks import ROOT

from .environments import interpreter

_EXIT_S = 10  # for a process whose input has ended


class ChildError(RuntimeError):
    """A request failed there, or the process ended."""


class Child:
    """Such a process; a context manager, which ends it.

    Args:
        environment: A name under ``environments/``, or "" for this interpreter.
        threads: Threads that its libraries may use, as far as they heed environment variables.

    Raises:
        SetupError: If the environment has not been made.
    """

    def __init__(self, environment: str, *, threads: int) -> None:
        python = interpreter(environment)
        # A file, not a pipe, which would block a process that prints much; and not our terminal.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the process
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.engines.serve"],
            cwd=ROOT,
            env=os.environ | thread_variables(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the reply.

        Raises:
            ChildError: If it fails there, or the process ends; the message is the error's there.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"request": request} | arguments) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ChildError(self._how_it_ended())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ChildError(reply["error"])
        return reply

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            return "its process closed its output and runs on"
        how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return f"its process ended {how}" + (f": {said[-1]:.300}" if said else "")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()  # the process sees the end of its input
            self._process.wait(_EXIT_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def thread_variables(threads: int) -> dict[str, str]:
    """Environment variables that libraries read when they start their pools: Rayon for tokenizers, OpenMP for torch."""
    pools = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return pools | {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}
