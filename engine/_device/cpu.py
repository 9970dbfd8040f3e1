"""The backend of a CPU: lanes that each run batches of one length, and a second session for one that is alone."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
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
from crossrank._text.tokenizer import PairTokenizer

from .batches import EVEN_MAX_TOKENS, plan_even_batches
from .costs import WORK_S, Costs, LearnedCosts
from .session import Session, run_in_turn

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

# A batch that is alone and takes longer is worth a session of its own, whose threads share each operator.
_WIDE_FROM_S = 0.004


class CpuBackend:
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

    max_tokens_origin = "until measured"

    def __init__(
        self,
        graph: Path | ModelFile,
        inputs: Inputs,
        lanes: int,
        *,
        wide_from_s: float = _WIDE_FROM_S,
        opening_s: float | None = None,
    ) -> None:
        self.lanes, self.device = lanes, Device("cpu")
        self.open_session: Callable[[int], Session] = partial(Session, ModelFile.of(graph), inputs, self.device)
        start = time.perf_counter()
        self.session = session = self.open_session(1)
        self.opening_s = time.perf_counter() - start if opening_s is None else opening_s
        self.path, self.provider, self.labels = session.path, session.provider, session.labels
        self.input_names = session.input_names
        self.max_tokens = EVEN_MAX_TOKENS
        self.learned: LearnedCosts | None = None
        self.wide: Session | None = None
        self.wide_from_s, self.slow_s, self._worked_s = wide_from_s, 0.0, 0.0
        self.opening = Lock()  # held by the thread that opens the second session, for ever

    def learn_costs(self, tokenizer: PairTokenizer, longest: int, cache_folder: Path | None) -> None:
        """Let the budget of a batch follow what batches are measured to cost; see `LearnedCosts`.

        Args:
            tokenizer: Of the model.
            longest: Most tokens of a pair.
            cache_folder: Where costs are kept, as `locate_model` takes it.
        """
        self.learned = LearnedCosts(self.session, self.lanes, tokenizer, longest, cache_folder)
        self._take_costs()

    @property
    def costs(self) -> Costs | None:
        """What batches take on one lane, where it is known."""
        return self.learned.known if self.learned else None

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

    def submit(self, batches: Iterable[PackedPairs], pairs: Sequence[int]) -> Callable[[], list[Floats]]:
        """Run batches one after the other, on this thread; returns what gives the logits of each."""
        return run_in_turn(self.run, batches)

    def worked(self, seconds: float) -> None:
        """Take notice of seconds that each lane worked; when there were enough of them, measure what batches cost."""
        self._worked_s += seconds
        if self._worked_s > WORK_S and self.learned is not None and self.learned.known is None:
            self.learned.learn()
            self._take_costs()

    def warm_up(self) -> None:
        """Measure what batches cost, in half a second, where it is not known yet."""
        if self.learned is not None:
            self.learned.learn()
            self._take_costs()

    def _take_costs(self) -> None:
        measured = self.learned.max_tokens if self.learned else None
        if measured is not None:
            self.max_tokens, self.max_tokens_origin = measured, "measured on this machine"

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
