"""A process of its own for each engine, in that engine's environment, driven one call at a time.

Thread pools in one process fight for its cores; here the engine that is not called sleeps. The time of
a call is taken inside the process, so what travels through the pipes is not in it.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .child import Child, ChildError
from .conversions import model_folder
from .environments import SetupError
from .registry import EngineSpec

_PAUSE_S = 0.02  # idle threads spin for some milliseconds after a call before they sleep


class WorkerError(RuntimeError):
    """An engine failed, or its process ended."""


class EngineUnavailable(WorkerError):
    """An engine cannot be opened here; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one call gave: float32 [documents], and how long it took."""

    scores: NDArray[np.float32]
    seconds: float


class Worker:
    """An engine in its own process; a context manager, which ends the process.

    Args:
        spec: The engine.
        checkpoint: A checkpoint folder: config.json, safetensors, tokenizer.json, vocab.txt.
        threads: Threads that the engine may use.
        scratch: Where what engines open is made of this checkpoint, once, and found again: one folder for a model,
            shared by its engines.

    Attributes:
        name: The engine's, in tables.
        facts: What runs, in the adapter's words.
        versions: Package -> version.
        opened_s: From the start of the process until the engine can score, conversions not included.
        import_s: Of that the imports of its library.
        load_s: Of that the loading of the model.

    Raises:
        EngineUnavailable: If its environment is absent, a conversion fails or the engine cannot be opened.
    """

    def __init__(self, spec: EngineSpec, checkpoint: Path, *, threads: int, scratch: Path) -> None:
        self.name = spec.name
        try:
            folder = model_folder(spec.model, checkpoint, scratch, threads=threads)
            start = time.perf_counter()
            self._child = Child(spec.environment, threads=threads)
        except SetupError as error:
            raise EngineUnavailable(str(error)) from error
        try:
            reply = self._child.ask(
                "open", adapter=spec.adapter, folder=str(folder.resolve()), threads=threads, options=spec.options
            )
        except BaseException as error:
            self._child.close()
            if isinstance(error, ChildError):
                raise EngineUnavailable(str(error)) from error
            raise
        self.opened_s = time.perf_counter() - start
        self.import_s: float = reply["import_s"]
        self.load_s: float = reply["load_s"]
        self.facts: dict[str, str] = reply["facts"]
        self.versions: dict[str, str] = reply["versions"]

    def score(self, query: str, documents: tuple[str, ...]) -> Call:
        """Make one call, when the threads of the worker before have gone to sleep.

        Raises:
            WorkerError: If it fails, or does not give one score per document.
        """
        time.sleep(_PAUSE_S)
        reply = self._ask("score", query, documents)
        scores = np.array(reply["scores"], np.float32)
        if len(scores) != len(documents):
            raise WorkerError(f"{self.name}: {len(scores)} scores for {len(documents)} documents")
        return Call(scores, reply["seconds"])

    def tokenize(self, query: str, documents: tuple[str, ...]) -> float | None:
        """Seconds of the tokenizing that `score` does, alone; None where that is not to be had.

        Raises:
            WorkerError: If it fails.
        """
        time.sleep(_PAUSE_S)
        seconds: float | None = self._ask("tokenize", query, documents)["seconds"]
        return seconds

    def memory(self) -> dict[str, float]:
        """``rss_mb`` now, and ``peak_rss_mb`` since the process started; in MiB.

        Raises:
            WorkerError: If the system has no /proc.
        """
        try:
            lines = Path(f"/proc/{self._child.pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise WorkerError(f"{self.name}: its memory cannot be read: {error}") from error
        kib = {key: float(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines) if "Vm" in key}
        return {"rss_mb": kib["VmRSS"] / 1024, "peak_rss_mb": kib["VmHWM"] / 1024}

    def _ask(self, request: str, query: str, documents: tuple[str, ...]) -> dict[str, Any]:
        try:
            return self._child.ask(request, query=query, documents=documents)
        except ChildError as error:
            raise WorkerError(f"{self.name}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._child.close()
