"""Exceptions that signal handlers raise inside calls: they reach the call that they interrupt, and nobody else's.

Nothing here hangs on luck but the storms: an exception is raised in turn at every function's entry and at every line
that a call comes by, and whatever it hit, its neighbours get their scores, nothing goes on waiting, no lane is lost.
"""

import math
import random
import signal
import sys
import sysconfig
import threading
import time
from _thread import allocate_lock
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import crossrank
from crossrank import Closed, CrossEncoder, Overloaded
from crossrank._device.cpu import CpuBackend
from crossrank._text.pairs import PackedPairs
from tests.support.artifacts import make_artifact

WAIT_S, HUNG_S = 30, 120
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
        *("_async_cross_encoder", "_calls/run", "_device/cpu", "_machine/guard", "_machine/pool", "_machine/process"),
        *("_schedule/chunk", "_schedule/failures", "_schedule/meter", "_schedule/processes", "_schedule/queue"),
        "_schedule/scheduler",
    )
}
assert all(Path(step).exists() for step in STEPS)


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


@pytest.fixture(autouse=True)
def no_hanging() -> Iterator[None]:
    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, HUNG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def hung(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"nothing has come of it for {HUNG_S} s")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def open_model(folder: Path, threads: int, *, patience_s: float = 1_000, **options: Any) -> tuple[CrossEncoder, Sums]:
    model = CrossEncoder(folder, device="cpu", threads=threads, activation_fn="identity", **options)
    backend = model._scorer.backend
    assert isinstance(backend, CpuBackend)
    session = Sums(backend.session)
    backend.session = session  # type: ignore[assignment]
    backend.opening_s = math.inf  # single documents get no session of their own
    # Who waits for another does not look whether that is still there: what is lost makes a test hang, which fails.
    model._scorer.scheduler.patience_s = patience_s
    return model, session


class Thrower:
    """Raises an exception at one of the events that this thread comes by, counted from 1.

    Args:
        at: Which.
        kind: "call": a function's entry; "line": a line of the modules that share state, before it runs.
        error: What is raised.
        again: At how many functions' entries later a second exception is raised; 0 for none.
    """

    def __init__(self, at: int, kind: Kind, error: BaseException, again: int = 0) -> None:
        self._left, self._kind, self.error, self._again = at, kind, error, again
        self.where = ""

    def __enter__(self) -> "Thrower":
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith((PACKAGE, LIBRARY)):
            return None
        if event == self._kind:
            self._left -= 1
            if self._left == 0:
                self.where += f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"
                if self._again:
                    sys.setprofile(self._throw_again)
                raise self.error
        return self._trace if self._kind == "line" and file in STEPS else None

    def _throw_again(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith((PACKAGE, LIBRARY)):
            self._again -= 1
            if self._again == 0:
                self.where += f" and in {frame.f_code.co_name}"
                raise TimeLimit("again")


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
                while len(self._model._scorer.scheduler.queue.open) < 3:
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


def check_sound(model: CrossEncoder, *, by_the_next: bool = False) -> None:
    """Nothing is left of calls that have ended.

    Args:
        model: Their model.
        by_the_next: Whether an exception may have come into the clearing up after another one, so that only the next
            call does it.
    """
    scheduler = model._scorer.scheduler
    if by_the_next:
        model.stats()
    end = time.monotonic() + WAIT_S
    while scheduler.busy and time.monotonic() < end:  # the pool's threads leave a moment later
        time.sleep(0)
    assert not scheduler.queue.open
    stats = model.stats()
    assert (stats.waiting_requests, stats.waiting_tokens) == (0, 0)
    assert not scheduler.workers
    assert not scheduler.queue.running
    assert not scheduler.queue.reserved
    assert not scheduler.queue.torn
    assert not scheduler.guard.owned


def check_next(model: CrossEncoder, *, by_the_next: bool = False) -> Callable[[], None]:
    """`check_sound`, and that the next calls get what they get now."""
    few, many = model.score(QUERY, MINE[:1]), model.score(QUERY, MINE)

    def check() -> None:
        check_sound(model, by_the_next=by_the_next)
        np.testing.assert_array_equal(model.score(QUERY, MINE), many)
        np.testing.assert_array_equal(model.score(QUERY, MINE[:1]), few)

    return check


def nothing() -> None:
    pass


def throw_everywhere(
    kind: Kind,
    call: Callable[[], object],
    check: Callable[[], object],
    *,
    prepare: Callable[[], object] = nothing,
    allowed: tuple[type[BaseException], ...] = (),
) -> None:
    """Have an exception thrown at each event of a call in turn.

    Args:
        kind: Of `Thrower`.
        call: What is interrupted.
        check: Called after each.
        prepare: Called before each.
        allowed: What the call raises by itself.
    """
    for at in range(1, 100_000):
        thrower = Thrower(at, kind, (TimeLimit, KeyboardInterrupt)[at % 2]("time is up"))
        prepare()
        try:
            ending = ended(partial(call_under, thrower, call), allowed)
            assert ending is (thrower.error if thrower.where else None)
            check()
        except BaseException as problem:
            problem.add_note(f"after an exception at event {at}, {thrower.where}")
            raise
        if not thrower.where:
            assert at > 10, "a call has more events: STEPS names files that no call enters"
            return
    raise AssertionError("it never ends")


def call_under(thrower: Thrower, call: Callable[[], object]) -> None:
    with thrower:
        call()


def ended(call: Callable[[], object], allowed: tuple[type[BaseException], ...] = ()) -> BaseException | None:
    """What a call raises beside what it may."""
    try:
        call()
    except allowed:
        return None
    except (TimeLimit, KeyboardInterrupt) as error:
        return error
    return None


everywhere = pytest.mark.parametrize("kind", ["call", pytest.param("line", marks=pytest.mark.slow)])


@everywhere
@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_anywhere_in_a_call_beside_others_is_that_calls_alone(
    folder: Path, pool: ThreadPoolExecutor, threads: int, kind: Kind
) -> None:
    model, session = open_model(folder, threads)
    neighbours, check = Neighbours(model, session, pool), check_next(model)

    def check_all() -> None:
        neighbours.check()
        check()

    throw_everywhere(kind, lambda: model.score(QUERY, MINE), check_all, prepare=neighbours.ask)


@pytest.mark.parametrize("kind", ["call", "line"])
@pytest.mark.parametrize("documents", [1, 6])
def test_an_exception_anywhere_in_a_call_that_is_alone_leaves_nothing(folder: Path, documents: int, kind: Kind) -> None:
    model, _ = open_model(folder, 2)
    throw_everywhere(kind, lambda: model.score(QUERY, MINE[:documents]), check_next(model))


@everywhere
def test_an_exception_anywhere_in_a_call_with_a_deadline_leaves_nothing(folder: Path, kind: Kind) -> None:
    model, _ = open_model(folder, 2)
    throw_everywhere(kind, lambda: model.rank(QUERY, MINE, deadline_ms=1e6), check_next(model))


@everywhere
def test_an_exception_anywhere_in_a_call_that_fails_leaves_nothing(folder: Path, kind: Kind) -> None:
    model, session = open_model(folder, 1)
    check = check_next(model, by_the_next=True)

    def fail(batch: PackedPairs) -> None:
        if batch.lengths[0] > 10:
            raise ValueError("broken")

    def call() -> None:
        session.before = fail
        model.score(QUERY, MINE)

    def check_all() -> None:
        session.before = lambda batch: None
        check()

    throw_everywhere(kind, call, check_all, allowed=(ValueError,))


@everywhere
def test_an_exception_anywhere_in_a_call_that_is_refused_leaves_nothing(
    folder: Path, pool: ThreadPoolExecutor, kind: Kind
) -> None:
    model, session = open_model(folder, 1, max_queue_tokens=10)
    gate, expected = allocate_lock(), model.score(QUERY, THEIRS)

    def pass_the_gate(batch: PackedPairs) -> None:
        with gate:
            pass

    def ask() -> None:
        gate.acquire()
        session.before = pass_the_gate
        calls.append(pool.submit(model.score, QUERY, THEIRS))
        while not model.stats().waiting_tokens:
            time.sleep(0)

    def check() -> None:
        gate.release()
        np.testing.assert_array_equal(calls.pop().result(WAIT_S), expected)
        check_sound(model, by_the_next=True)

    calls: list[Any] = []
    throw_everywhere(kind, lambda: model.score(QUERY, MINE), check, prepare=ask, allowed=(Overloaded,))


@everywhere
def test_an_exception_anywhere_in_stats_leaves_nothing(folder: Path, kind: Kind) -> None:
    model, _ = open_model(folder, 2)
    throw_everywhere(kind, model.stats, check_next(model))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["call", "line"])
def test_an_exception_anywhere_in_close_can_be_followed_by_another_close(folder: Path, kind: Kind) -> None:
    models: list[CrossEncoder] = []

    def prepare() -> None:
        models.append(open_model(folder, 2)[0])
        models[-1].score(QUERY, MINE)

    def check() -> None:
        model = models.pop()
        model.close()
        with pytest.raises(Closed):
            model.score(QUERY, MINE)

    throw_everywhere(kind, lambda: models[-1].close(finish=False), check, prepare=prepare)


@pytest.mark.slow
def test_a_second_exception_in_the_clearing_up_is_put_right_by_the_next_call(
    folder: Path, pool: ThreadPoolExecutor
) -> None:
    model, session = open_model(folder, 1, patience_s=0.01)
    neighbours, check = Neighbours(model, session, pool), check_next(model, by_the_next=True)
    rng = random.Random(0)
    twice = 0
    for _ in range(1_000):
        neighbours.ask()
        thrower = Thrower(rng.randint(1, 700), "line", TimeLimit("first"), again=rng.randint(1, 60))
        ending = ended(partial(call_under, thrower, lambda: model.score(QUERY, MINE)))
        twice += str(ending) == "again"
        try:
            neighbours.check()
            check()
        except BaseException as problem:
            problem.add_note(f"after {thrower.where}")
            raise
    assert twice > 100
