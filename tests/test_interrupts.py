"""Exceptions that signal handlers raise inside calls: they reach the call that they interrupt, and nobody else's.

Nothing here hangs on luck but the storms: an exception is raised in turn at every function's entry and at every line that
a call comes by, and whatever it hit, its neighbours get their scores, nothing goes on waiting, and no lane is lost.
"""

import random
import signal
import sys
import sysconfig
import threading
import time
from _thread import allocate_lock
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import crossrank
import crossrank._scheduler
from crossrank import Closed, CrossEncoder, Overloaded
from crossrank._pairs import PackedPairs
from tests.artifacts import make_artifact

WAIT_S = 30
QUERY = "the sea"
WORDS = ["the", "sea", "is", "calm", "and", "a", "knife", "cuts", "bread", "while", "ships", "wait", "in", "fog"]
MINE = [" ".join(WORDS[:length]) for length in (12, 12, 12, 7, 7, 3)]
THEIRS = [" ".join(WORDS[1 : 1 + length]) for length in (12, 7, 7, 3)]

# Every function of these is entered under an exception once, and every line of the modules that share state.
PACKAGE = str(Path(crossrank.__file__).parent)
LIBRARY = sysconfig.get_path("stdlib")
STEPS = {
    f"{PACKAGE}/{name}.py"
    for name in (
        *("_async_step", "_desk", "_fair_order", "_guard", "_job", "_lanes", "_pool", "_queue", "_request"),
        *("_scheduler", "_scoring", "_stats", "_runner"),
    )
}


Kind = Literal["call", "line"]


class TimeLimit(Exception):
    """As workers raise it."""


class Sums:
    """A session without a model: the logit of a pair is the sum of its ids."""

    def __init__(self, session: Any) -> None:
        self.path, self.device = session.path, session.device
        self.before: Callable[[PackedPairs], None] = lambda batch: None

    def run(self, batch: PackedPairs) -> NDArray[np.float32]:
        self.before(batch)
        starts = np.cumsum(batch.lengths) - batch.lengths
        return np.add.reduceat(batch.ids, starts)[:, None].astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def open_model(folder: Path, threads: int, **options: Any) -> tuple[CrossEncoder, Sums]:
    model = CrossEncoder(folder, device="cpu", threads=threads, activation_fn="identity", **options)
    session = Sums(model._scorer.runner.session)
    model._scorer.runner.session = session  # type: ignore[assignment]
    return model, session


class Thrower:
    """Raises an exception at one of the events that this thread comes by, counted from 1.

    Args:
        at: Which.
        kind: "call": a function's entry; "line": a line of the modules that share state, before it runs.
        error: What is raised.
    """

    def __init__(self, at: int, kind: Kind, error: BaseException) -> None:
        self._left, self._kind, self._error = at, kind, error
        self.where = ""

    def __enter__(self) -> "Thrower":
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith((PACKAGE, LIBRARY)):
            return None
        if event == self._kind:
            self._left -= 1
            if self._left == 0:
                self.where = f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"
                raise self._error
        return self._trace if self._kind == "line" and file in STEPS else None


class Neighbours:
    """Two threads that call when this thread's first batch runs, so that their pairs join its next ones."""

    def __init__(self, model: CrossEncoder, session: Sums, pool: ThreadPoolExecutor) -> None:
        self._model, self._session, self._pool = model, session, pool
        self._expected = model.score(QUERY, THEIRS)

    def ask(self) -> None:
        """Have them wait for that."""
        gate, caller = allocate_lock(), threading.current_thread()
        gate.acquire()

        def call() -> NDArray[np.float32]:
            with gate:
                pass
            return self._model.score(QUERY, THEIRS)

        def before(batch: PackedPairs) -> None:
            if threading.current_thread() is caller and gate.locked():
                gate.release()
                while len(self._model._scheduler.desk.queue.open) < 3:
                    time.sleep(0)

        self._calls = [self._pool.submit(call) for _ in range(2)]
        self._gate, self._session.before = gate, before

    def check(self) -> None:
        """They got their scores."""
        self._session.before = lambda batch: None
        if self._gate.locked():
            with suppress(RuntimeError):
                self._gate.release()
        for call in self._calls:
            np.testing.assert_array_equal(call.result(WAIT_S), self._expected)


def check_sound(model: CrossEncoder) -> None:
    """Nothing is left of calls that have ended, and the next one gets its scores."""
    desk = model._scheduler.desk
    end = time.monotonic() + WAIT_S
    while desk.busy and time.monotonic() < end:  # the pool's threads leave a moment later
        time.sleep(0)
    stats = model.stats()
    assert (stats.waiting_requests, stats.waiting_tokens) == (0, 0)
    assert not desk.workers
    assert not desk.queue.running
    assert not desk.queue.reserved
    assert not desk.queue.torn
    assert not desk.guard.owned


def nothing() -> None:
    pass


def throw_everywhere(
    kind: Kind,
    call: Callable[[], object],
    check: Callable[[], object],
    *,
    prepare: Callable[[], object] = nothing,
    allowed: tuple[type[BaseException], ...] = (),
) -> int:
    """Have an exception thrown at each event of a call in turn. Returns how many there are.

    Args:
        kind: Of `Thrower`.
        call: What is interrupted.
        check: Called after each, as is `check_sound`.
        prepare: Called before each.
        allowed: What the call raises by itself.
    """
    for at in range(1, 100_000):
        error: BaseException = (TimeLimit, KeyboardInterrupt)[at % 2]("time is up")
        thrower = Thrower(at, kind, error)
        prepare()
        try:
            try:
                with thrower:
                    call()
            except (TimeLimit, KeyboardInterrupt) as caught:
                assert caught is error
            except allowed:
                assert not thrower.where
            else:
                assert not thrower.where
            check()
        except BaseException as problem:
            problem.add_note(f"after an exception at event {at}, {thrower.where}")
            raise
        if not thrower.where:
            return at - 1
    raise AssertionError("it never ends")


@pytest.mark.parametrize("kind", ["call", "line"])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_anywhere_in_a_call_beside_others_is_that_calls_alone(
    folder: Path, pool: ThreadPoolExecutor, threads: int, kind: Kind
) -> None:
    model, session = open_model(folder, threads)
    expected = model.score(QUERY, MINE)
    neighbours = Neighbours(model, session, pool)

    def check() -> None:
        neighbours.check()
        check_sound(model)
        np.testing.assert_array_equal(model.score(QUERY, MINE), expected)

    print(throw_everywhere(kind, lambda: model.score(QUERY, MINE), check, prepare=neighbours.ask))
