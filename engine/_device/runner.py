"""The runner of a graph: batches of pairs over lanes on a CPU, one after the other elsewhere."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.held import ModelFile
from crossrank._artifact.manifest import Inputs
from crossrank._errors import ArtifactError
from crossrank._machine.cpu import ThreadCount
from crossrank._machine.device import Device
from crossrank._machine.lanes import Lanes
from crossrank._text.pairs import PackedPairs, PairSource
from crossrank._text.tokenizer import PairTokenizer

from .batches import EVEN_MAX_TOKENS, plan_even_batches
from .costs import Costs, LearnedCosts
from .session import DeviceSession, Session

logger = logging.getLogger(__name__)

Take = Callable[[NDArray[np.intp], NDArray[np.float32]], None]
Wait = Callable[[], None]

# A call of few batches that takes longer than this is worth a graph of its own, whose threads share each operator.
_SHARE_FROM_S = 0.004


class Runner:
    """A graph on a device and the threads that drive it. Threads may share it.

    On a CPU every thread is a lane that runs whole batches on a session without threads of its own: measured on
    2 cores that is 1.1 to 1.3 times as fast as one session with all threads, whose threads wait for each other in
    every operator. Where a call has batches for half of the lanes or fewer (a single document) and no other call
    keeps the rest busy, a second session with all threads takes it. That one needs memory of its own, so it is
    opened, beside the calls, when slow ones of that kind have taken as long as the first session took to open.

    A packed graph has a session that keeps its device busy by itself, `DeviceSession`.

    Args:
        graph: The ONNX file.
        inputs: The manifest's facts about the graph's inputs.
        device: Where to run.
        threads: Threads on a CPU.
        padded: Whether a graph that takes padding gets some on a CPU too, as a proof of that graph wants it.
        open_session: Opens the session of a graph that has one of its own, as packed ones and TensorRT's have; None
            for the usual one.

    Raises:
        DeviceError: If the device cannot run here.
        ArtifactError: If onnxruntime cannot load the file, or its inputs or outputs are none that can be used.
    """

    def __init__(
        self,
        graph: Path | ModelFile,
        inputs: Inputs,
        device: Device,
        threads: ThreadCount,
        *,
        padded: bool = False,
        open_session: Callable[[], Session | DeviceSession] | None = None,
    ) -> None:
        self.threads = threads
        graph = ModelFile.of(graph)
        self._open_session = partial(Session, graph, inputs, device)
        start = time.perf_counter()
        self.session: Session | DeviceSession = (open_session or self._open_session)()
        self._opening_s = time.perf_counter() - start
        on_cpu = device.kind == "cpu"
        self._even = self.session.even or (on_cpu and not padded)
        self._lanes = Lanes(threads.count if on_cpu else 1)
        self._costs: LearnedCosts | None = None
        self._sharing: Session | None = None
        self._slow_s = 0.0
        self._opening = Lock()  # held by the thread that opens the second session, for ever

    def learn_costs(self, tokenizer: PairTokenizer, longest: int, cache_folder: Path | None) -> None:
        """Let the budget of batches of one length follow what they are measured to cost; see `LearnedCosts`.

        Args:
            tokenizer: Of the model.
            longest: Most tokens of a pair.
            cache_folder: Where costs are kept, as `locate_model` takes it.
        """
        if isinstance(self.session, Session) and self._even and self.session.device.kind == "cpu":
            self._costs = LearnedCosts(self.session, self._lanes.count, tokenizer, longest, cache_folder)

    @property
    def max_tokens(self) -> tuple[int, str]:
        """Most tokens of a batch of several pairs, and whether that was measured."""
        if isinstance(self.session, DeviceSession) or not self._even:
            return self.session.max_tokens, "fixed"
        measured = self._costs.max_tokens if self._costs else None
        return (EVEN_MAX_TOKENS, "until measured") if measured is None else (measured, "measured on this machine")

    @property
    def lanes(self) -> Lanes | None:
        """What runs batches of one length side by side, for the scheduler; None where a session plans by itself."""
        return self._lanes if self._even and isinstance(self.session, Session) else None

    @property
    def costs(self) -> Costs | None:
        """What batches take on one lane of a CPU, where it is known."""
        return self._costs.known if self._costs else None

    def worked(self, seconds: float) -> None:
        """Take notice of seconds that all lanes worked on batches that others gave them."""
        if self._costs:
            self._costs.worked(seconds)

    def run(self, pairs: PairSource, max_pairs: int | None, take: Take) -> None:
        """Run pairs through the graph.

        Args:
            pairs: The pairs.
            max_pairs: Most pairs of a batch, or None.
            take: Given the index of some pairs and their logits, float32 [pairs, labels]; from any thread.
        """
        self.submit(pairs, max_pairs, take)()

    def submit(
        self,
        pairs: PairSource,
        max_pairs: int | None,
        take: Take,
        *,
        alone: bool = True,
        between: Callable[[], None] = lambda: None,
    ) -> Wait:
        """Begin to run pairs through the graph, as `run`.

        Args:
            pairs: The pairs.
            max_pairs: Most pairs of a batch, or None.
            take: As of `run`.
            alone: Whether no other call is known to need the device.
            between: Called before each batch; what it raises ends the run.

        Returns:
            What waits until ``take`` got all of them. On a packed graph's device the caller may meanwhile prepare
            other pairs; elsewhere there is nothing left to wait for.
        """
        if isinstance(self.session, DeviceSession):
            return self._submit_packed(self.session, pairs, max_pairs, take, between)
        self._run_over_lanes(self.session, pairs, max_pairs, take, alone, between)
        return lambda: None

    def warm_up(self) -> None:
        """Let a GPU see every shape before a request does; on a CPU learn what batches cost."""
        self.session.warm_up()
        if self._costs:
            self._costs.learn()

    def _submit_packed(
        self,
        session: DeviceSession,
        pairs: PairSource,
        max_pairs: int | None,
        take: Take,
        between: Callable[[], None],
    ) -> Wait:
        batches = session.plan(pairs.lengths, max_pairs)

        def join(index: NDArray[np.intp]) -> PackedPairs:
            between()
            return pairs.batch(index)

        # Each batch is joined when it is its turn, while the ones before it run.
        wait = session.submit(map(join, batches), [len(index) for index in batches])

        def finish() -> None:
            for index, logits in zip(batches, wait(), strict=True):
                take(index, logits)

        return finish

    def _run_over_lanes(
        self,
        own: Session,
        pairs: PairSource,
        max_pairs: int | None,
        take: Take,
        alone: bool,
        between: Callable[[], None],
    ) -> None:
        lanes = self._lanes.count
        if self._even:
            max_tokens, _ = self.max_tokens
            batches = plan_even_batches(pairs.lengths, max_tokens=max_tokens, max_pairs=max_pairs, lanes=lanes)
        else:
            batches = own.plan(pairs.lengths, max_pairs)
        few = alone and 0 < 2 * len(batches) <= lanes
        session = self._sharing if few and self._sharing else own

        def job(index: NDArray[np.intp], batch: PackedPairs) -> None:
            between()
            take(index, session.run(batch))

        start = time.perf_counter()
        joined = pairs.batches(batches)
        self._lanes.run(partial(job, *found) for found in zip(batches, joined, strict=True))
        took = time.perf_counter() - start
        if self._costs:
            self._costs.worked(took)
        if few and session is own and took > _SHARE_FROM_S:
            self._slow_s += took
            if self._slow_s > self._opening_s and not self._opening.locked():
                # On a thread of its own, since the lanes are other calls'. The interpreter waits for it at its end, or
                # onnxruntime would call abort(), taken from under it.
                with suppress(RuntimeError):  # where no thread can be had, a call goes on without
                    Thread(target=self._open_sharing, name="crossrank-sharing", daemon=False).start()

    def _open_sharing(self) -> None:
        if not self._opening.acquire(blocking=False):
            return
        try:
            session = self._open_session(self.threads.count)
        except ArtifactError as error:
            logger.warning("a single document keeps to one thread: %s", error)
        else:
            self._sharing = session
