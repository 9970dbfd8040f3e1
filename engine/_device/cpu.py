"""The backend of a CPU: lanes that each run batches of one length, and a second session for one that is alone."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread, main_thread

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.held import ModelFile
from crossrank._artifact.manifest import Inputs
from crossrank._errors import ArtifactError
from crossrank._machine.device import Device
from crossrank._text.pairs import PackedPairs

from .batches import EVEN_MAX_TOKENS, plan_even_batches
from .costs import describe_subject
from .lanes import LaneBackend
from .session import Session

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

# A batch that is alone and takes longer is worth a session of its own, whose threads share each operator.
_WIDE_FROM_S = 0.004


class CpuBackend(LaneBackend):
    """A graph on a CPU, padding nothing.

    Every thread is a lane that runs whole batches on a session without threads of its own: measured on 2 cores that is
    1.1 to 1.3 times as fast as one session with all threads, whose threads wait for each other in every operator. A
    batch that is alone (a single document's) leaves lanes idle, and a second session with all threads takes it. That
    one needs memory of its own, so it is opened, beside the calls, when slow ones of that kind have taken as long as
    the first session took to open.

    Args:
        graph: The ONNX file.
        inputs: The manifest's facts about the graph's inputs.
        lanes: Threads.
        wide_from_s: Seconds of a batch from which on it is worth the second session.
        opening_s: Seconds that it takes to open one; None for what the first session took.

    Raises:
        ArtifactError: If onnxruntime cannot load the file, or its inputs or outputs are none that can be used.
    """

    flat = False

    def __init__(
        self,
        graph: Path | ModelFile,
        inputs: Inputs,
        lanes: int,
        *,
        wide_from_s: float = _WIDE_FROM_S,
        opening_s: float | None = None,
    ) -> None:
        file, device = ModelFile.of(graph), Device("cpu")
        super().__init__(lanes, EVEN_MAX_TOKENS, describe_subject(file, device, lanes))
        self.open_session: Callable[[int], Session] = partial(Session, file, inputs, device)
        start = time.perf_counter()
        self.session = session = self.open_session(1)
        self.opening_s = time.perf_counter() - start if opening_s is None else opening_s
        self.path, self.provider, self.labels = session.path, session.provider, session.labels
        self.input_names = session.input_names
        self.wide: Session | None = None
        self.wide_from_s, self.slow_s = wide_from_s, 0.0
        self.opening = Lock()  # held by the thread that opens the second session, for ever

    def plan(self, lengths: NDArray[np.int32], max_pairs: int | None) -> list[NDArray[np.intp]]:
        """Batches of one length each, as `plan_even_batches` makes them."""
        return plan_even_batches(lengths, max_tokens=self.max_tokens, max_pairs=max_pairs, lanes=self.lanes)

    def run(self, batch: PackedPairs, *, alone: bool = False) -> Floats:
        """Logits of joined pairs of one length, float32 [pairs, labels].

        Args:
            batch: The pairs.
            alone: Whether no other batch is known to want a lane.

        Raises:
            ArtifactError: If onnxruntime fails in the graph.
        """
        if not alone:
            return self.session.run(batch)
        if self.wide is not None:
            return self.wide.run(batch)
        start = time.perf_counter()
        logits = self.session.run(batch)
        self._note_alone(time.perf_counter() - start)
        return logits

    def _note_alone(self, took_s: float) -> None:
        if self.lanes == 1 or took_s <= self.wide_from_s:
            return
        self.slow_s += took_s
        # The interpreter waits for the thread at its end, or onnxruntime would call abort(), taken from under it. It
        # does not wait for what begins in its end.
        if self.slow_s > self.opening_s and not self.opening.locked() and main_thread().is_alive():
            with suppress(RuntimeError):  # where no thread can be had, a call goes on without
                Thread(target=self.open_wide, name="crossrank-wide", daemon=False).start()

    def open_wide(self) -> None:
        if not self.opening.acquire(blocking=False):
            return
        try:
            self.wide = self.open_session(self.lanes)
        except ArtifactError as error:
            logger.warning("a single document keeps to one thread: %s", error)
