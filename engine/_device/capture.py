"""The lock around captures of CUDA graphs, which are global to a process: whatever else uses a GPU waits for one.

onnxruntime captures in CUDA's global mode (cudaStreamCaptureModeGlobal in cuda_graph.cc): until a capture ends, no
thread of the process may allocate, copy or wait, on any GPU, or it fails (CUDA error 900) and the capture with it. So
all that uses a GPU here shares this lock, and who captures has it alone. What others do in the process, as torch, is
not held: docs/gpu.md says when to warm up.
"""

import os
import time
from collections.abc import Callable
from threading import Lock, get_ident
from typing import TypeVar

from crossrank._machine.process import PerProcess

T = TypeVar("T")

# Of who waits, between two looks; a run takes milliseconds, a capture a second.
_LOOK_S = 0.0005


class CaptureLock:
    """Shared by runs, held alone by a capture. Threads may share it; inside it a thread may enter again.

    Args:
        patience_s: Seconds that a capture waits at most for those inside: one that a signal handler's exception threw
            out of its first line never leaves.
    """

    def __init__(self, patience_s: float = 10.0) -> None:
        self._patience_s = patience_s
        self._capturing = Lock()
        self._owner = 0  # the thread that captures
        self._inside: set[int] = set()  # threads

    def run(self, step: Callable[[], T]) -> T:
        """Use a GPU, when nothing is captured."""
        me = get_ident()
        if me in self._inside or me == self._owner:
            return step()
        while True:
            self._inside.add(me)  # first, so that a capture that begins now waits for this
            try:
                if not self._capturing.locked():
                    return step()
            finally:
                self._inside.discard(me)
            time.sleep(_LOOK_S)

    def capture(self, step: Callable[[], T]) -> T:
        """Capture, when nothing else uses a GPU; not to be called inside `run`."""
        with self._capturing:
            self._owner = get_ident()
            try:
                until = time.monotonic() + self._patience_s
                while self._inside and time.monotonic() < until:
                    time.sleep(_LOOK_S)
                self._inside.clear()  # what is left is of nobody who would leave
                return step()
            finally:
                self._owner = 0


_locks = PerProcess(CaptureLock)


def capture_lock() -> CaptureLock:
    """The one of this process."""
    return _locks[os.getpid()]
