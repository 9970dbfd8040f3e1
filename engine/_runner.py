"""How a device is kept busy with pairs: batches over lanes on a CPU, one after the other elsewhere."""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ._errors import ArtifactError, DeviceError
from ._lanes import Lanes
from ._manifest import Inputs, Variant
from ._pairs import PairSource
from ._plan import plan_batches, plan_even_batches
from ._runtime import ort
from ._session import Device, Session
from ._threads import ThreadCount

logger = logging.getLogger(__name__)

Take = Callable[[NDArray[np.intp], NDArray[np.float32]], None]

_MAX_TOKENS = 512
# A call of few batches that takes longer than this is worth a graph of its own, whose threads share each operator.
_SHARE_FROM_S = 0.004


class Runner:
    """A graph on a device and the threads that drive it. Threads may share it.

    On a CPU every thread is a lane that runs whole batches on a session without threads of its own: measured on
    2 cores that is 1.1 to 1.3 times as fast as one session with all threads, whose threads wait for each other in
    every operator. Where a call has batches for half of the lanes or fewer (a single document), a second session
    with all threads takes it, opened when such a call was slow for the first time.

    Args:
        path: The ONNX file.
        inputs: The manifest's facts about the graph's inputs.
        device: Where to run.
        threads: Threads on a CPU.
        padded: Whether a graph that takes padding gets some on a CPU too, as a proof of that graph wants it.

    Raises:
        DeviceError: If the device cannot run here.
        ArtifactError: If onnxruntime cannot load the file, or its inputs or outputs are none that can be used.
    """

    def __init__(
        self, path: Path, inputs: Inputs, device: Device, threads: ThreadCount, *, padded: bool = False
    ) -> None:
        self.threads = threads
        self._open_session = partial(Session, path, inputs, device)
        self.session = self._open_session(1)
        on_cpu = device.kind == "cpu"
        self._even = self.session.even or (on_cpu and not padded)
        self._lanes = Lanes(threads.count if on_cpu else 1)
        self._sharing: Session | None = None
        self._opening = False

    def run(self, pairs: PairSource, max_pairs: int | None, take: Take) -> None:
        """Run pairs through the graph.

        Args:
            pairs: The pairs.
            max_pairs: Most pairs of a batch, or None.
            take: Given the index of some pairs and their logits, float32 [pairs, labels]; from any thread.
        """
        lanes = self._lanes.count
        if self._even:
            batches = plan_even_batches(pairs.lengths, max_tokens=_MAX_TOKENS, max_pairs=max_pairs, lanes=lanes)
        else:
            batches = plan_batches(pairs.lengths, max_pairs=max_pairs)
        few = 2 * len(batches) <= lanes
        session = self._sharing if few and self._sharing else self.session
        start = time.perf_counter()
        self._lanes.run(batches, lambda index: take(index, session.run(pairs.batch(index))))
        if few and session is self.session and time.perf_counter() - start > _SHARE_FROM_S and not self._opening:
            self._opening = True
            self._lanes.submit(self._open_sharing)

    def _open_sharing(self) -> None:
        self._sharing = self._open_session(self.threads.count)


def open_runner(
    folder: Path, inputs: Inputs, choose: Callable[[Device], Variant], asked: Device | None, threads: ThreadCount
) -> tuple[Variant, Runner]:
    """The graph asked for, ready to run; with no device asked, CUDA where it really runs, else the CPU.

    Args:
        folder: The model's folder.
        inputs: What its graphs expect.
        choose: Gives the graph for a device.
        asked: Where to run, or None for the best that runs.
        threads: Threads on a CPU.
    """
    if asked is None and Device("cuda").provider in ort.get_available_providers():
        try:
            return open_runner(folder, inputs, choose, Device("cuda"), threads)
        except (DeviceError, ArtifactError) as error:  # no driver, or no graph of that precision for it
            logger.warning("running on the CPU: %s", error)
    device = asked or Device("cpu")
    variant = choose(device)
    return variant, Runner(folder / variant.file, inputs, device, threads)
