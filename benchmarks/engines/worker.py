"""A process of its own for each engine, in that engine's environment, driven one call at a time.

Thread pools in one process fight for its cores; here the engine that is not called sleeps. The time of
a call is taken inside the process, so what travels through the pipes is not in it.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conversions import SERVE, model_folder
from .environments import ENVIRONMENTS, Environments
from .process import Process
from .registry import EngineSpec, EngineUnavailable, WorkerError


@dataclass(frozen=True, slots=True)
class Call:
    """What one call gave: float32 [documents], how long it took, and the CPU time of its process's threads in it."""

    scores: NDArray[np.float32]
    seconds: float
    cpu_seconds: float


class EngineProcess(Process):
    """A process that has opened an engine; EngineUnavailable is raised where that cannot be, with the reason.

    Args:
        module: What the process runs; it answers "open".
        checkpoint: A checkpoint folder: config.json, safetensors, tokenizer.json, vocab.txt.
        scratch: Where what engines open is made of this checkpoint, once, and found again: one folder for a model,
            shared by its engines.
        limit_s: For opening it, at most.
        arguments: What "open" takes beside engine, folder and threads.

    Attributes:
        facts: What runs, in the adapter's words.
        versions: Package -> version.
        stages: What "open" says beside these: of a `Worker` ``import_s``, ``load_s`` and ``opened_s``, from the
            start of the process until the engine can score, conversions not included.
    """

    def __init__(
        self,
        module: str,
        spec: EngineSpec,
        checkpoint: Path,
        *,
        threads: int,
        scratch: Path,
        environments: Environments = ENVIRONMENTS,
        limit_s: float | None = None,
        **arguments: Any,
    ) -> None:
        folder = model_folder(spec.model, checkpoint, scratch, threads=threads, environments=environments)
        arguments |= {"adapter": spec.adapter, "folder": str(folder.resolve()), "options": spec.options}
        start = time.perf_counter()
        super().__init__(module, spec.environment, threads=threads, environments=environments)
        try:
            self.stages = self.ask("open", arguments | {"threads": threads}, limit_s=limit_s)
        except BaseException as error:
            self.close()
            if isinstance(error, WorkerError):
                raise EngineUnavailable(str(error)) from error
            raise
        if "loaded_at" in self.stages:  # by the same clock, on this system
            self.stages["opened_s"] = self.stages.pop("loaded_at") - start
        self.name = spec.name
        self.facts: dict[str, str] = self.stages.pop("facts")
        self.versions: dict[str, str] = self.stages.pop("versions")


class Worker(EngineProcess):
    """An engine that scores when it is told to; arguments as of `EngineProcess`. Failures raise WorkerError."""

    def __init__(self, spec: EngineSpec, checkpoint: Path, **arguments: Any) -> None:
        super().__init__(SERVE, spec, checkpoint, **arguments)

    def score(self, query: str, documents: tuple[str, ...]) -> Call:
        """Make one call."""
        reply = self.ask("score", {"query": query, "documents": documents})
        scores = np.array(reply["scores"], np.float32)
        if len(scores) != len(documents):
            raise WorkerError(f"{self.name}: {len(scores)} scores for {len(documents)} documents")
        return Call(scores, reply["seconds"], reply["cpu_seconds"])

    def memory(self) -> dict[str, float]:
        """``rss_mb`` now, and ``peak_rss_mb`` since the process started; in MiB."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise WorkerError(f"{self.name}: its memory cannot be read: {error}") from error
        kib = {key: float(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines) if "Vm" in key}
        return {"rss_mb": kib["VmRSS"] / 1024, "peak_rss_mb": kib["VmHWM"] / 1024}
