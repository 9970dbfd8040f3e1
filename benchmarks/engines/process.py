"""Processes that answer requests one at a time, in JSON lines: the end of the pipe that asks; `answer` is the other."""

import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any, Self

from benchmarks import ROOT

from .environments import ENVIRONMENTS, Environments
from .registry import WorkerError

_EXIT_S = 10  # for a process whose input has ended


class Process:
    """Such a process; a context manager, which ends it.

    Args:
        module: What it runs; calls `answer.answer`.
        environment: Its name, "" for this interpreter; EngineUnavailable is raised if it has not been made.
        threads: Threads that its libraries may use, as far as they heed environment variables.
        environments: Where the environment is looked for.

    Attributes:
        name: What errors begin with, where there is one.
    """

    def __init__(
        self, module: str, environment: str = "", *, threads: int, environments: Environments = ENVIRONMENTS
    ) -> None:
        self.name = ""
        python = environments.interpreter(environment)
        # Rayon for tokenizers, OpenMP for torch: read when they start their pools.
        pools = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        # Installed packages have their bytecode, so the checkout keeps its own; an empty variable is none.
        settings = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": ""}
        # A file, not a pipe, which would block a process that prints much; and not our terminal.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the process
        self._process = subprocess.Popen(
            [python, "-m", module],
            cwd=ROOT,
            env=os.environ | pools | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self.pid = self._process.pid

    def ask(self, request: str, arguments: Mapping[str, object], *, limit_s: float | None = None) -> dict[str, Any]:
        """Send a request and wait for the reply.

        Raises:
            WorkerError: If it fails there, with the error's message; if the process ends, or does not answer in
                time, after which it is ended.
        """
        try:
            self._requests.write(json.dumps({"request": request, **arguments}) + "\n")
            self._requests.flush()
            # One reply a request: nothing of it waits in the buffer.
            if select.select([self._replies], [], [], limit_s)[0]:
                line = self._replies.readline()
            else:
                self._process.kill()
                line = json.dumps({"error": f"no answer within {limit_s:.0f} s"})
        except BrokenPipeError:
            line = ""
        reply: dict[str, Any] = json.loads(line) if line else {"error": self._how_it_ended()}
        if "error" in reply:
            raise WorkerError(f"{self.name}: {reply['error']}" if self.name else reply["error"])
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
        try:
            self._requests.close()  # the process sees the end of its input
            self._process.wait(_EXIT_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._replies.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
