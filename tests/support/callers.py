"""A model with a session that may be held and may fail, and texts for its callers."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossrank import CrossEncoder
from crossrank._device.cpu import CpuBackend
from crossrank._device.session import Session
from crossrank._text.pairs import PackedPairs
from tests.support.tiny_models import PAIRS

# The same kernels on batches of other sizes; logits of up to 9.
ATOL = 1e-5
WAIT_S = 60
QUERY = PAIRS[0][0]
WORDS = ["the", "sea", "is", "calm", "and", "a", "knife", "cuts", "bread", "while", "ships", "wait", "in", "fog"]


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(count)]


DOCUMENTS = texts(60, 0)


class Faulty:
    """A session that may be held, may fail, and may give NaN."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.path = session.path
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.fails: Callable[[PackedPairs], bool] = lambda batch: False
        self.spoils: Callable[[PackedPairs], NDArray[np.bool_]] = lambda batch: np.zeros(len(batch.lengths), bool)
        self.pairs = 0
        self.batches: list[int] = []

    def run(self, batch: PackedPairs) -> NDArray[np.float32]:
        self.entered.release()
        assert self.gate.wait(timeout=WAIT_S)
        if self.fails(batch):
            raise ValueError("broken")
        self.batches.append(len(batch.lengths))
        logits = self._session.run(batch)
        logits[self.spoils(batch)] = np.nan
        return logits


def open_model(folder: Path, threads: int = 2, **options: object) -> tuple[CrossEncoder, Faulty]:
    model = CrossEncoder(folder, device="cpu", threads=threads, activation_fn="identity", **options)  # type: ignore[arg-type]
    backend = model._scorer.backend
    assert isinstance(backend, CpuBackend)
    session = Faulty(backend.session)
    backend.session = session  # type: ignore[assignment]
    return model, session


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + WAIT_S
    while not holds() and time.monotonic() < end:
        time.sleep(0.002)
    return holds()
