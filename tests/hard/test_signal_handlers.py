"""Real signals: storms of alarms beside neighbours, calls that a handler makes, and exceptions that others catch."""

import ctypes
import gc
import io
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from crossrank import ArtifactError, CallRecord, CrossEncoder, CrossrankError
from crossrank._progress import Progress
from crossrank._text.pairs import PackedPairs
from tests.hard.test_interrupts import MINE, PACKAGE, QUERY, THEIRS, WAIT_S, TimeLimit, check_sound, open_model
from tests.support.artifacts import make_artifact

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")

NESTED = "this thread is inside a call of this model already"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What a handler raises while the garbage collector ends others' objects is lost: Python itself prints it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@contextmanager
def on_alarm(handler: Callable[[], object]) -> Iterator[None]:
    """While this holds, SIGALRM does that."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: handler())
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def storm(model: CrossEncoder, alarms: int, longest_s: float, records: list[CallRecord]) -> None:
    """Calls of this thread that alarms end at any time, beside two threads that go on calling."""
    mine, theirs = model.score(QUERY, MINE), model.score(QUERY, THEIRS)
    stop, rng = threading.Event(), random.Random(0)
    seen, fired = Counter[str](), 0

    def raise_time_limit() -> None:
        nonlocal fired
        fired += 1
        raise TimeLimit("time is up")

    def call() -> int:
        count = 0
        while not stop.is_set():
            np.testing.assert_allclose(model.score(QUERY, THEIRS), theirs, atol=1e-5)
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool, on_alarm(raise_time_limit):
        neighbours = [pool.submit(call) for _ in range(2)]
        try:
            while fired < alarms:
                before = fired
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, longest_s))
                    found = model.score(QUERY, MINE)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except TimeLimit:
                    seen["interrupted"] += 1
                    assert fired == before + 1
                else:
                    seen["done"] += 1
                    assert fired == before  # else it was lost
                    np.testing.assert_allclose(found, mine, atol=1e-5)
        finally:
            stop.set()
        counts = [neighbour.result(WAIT_S) for neighbour in neighbours]
    assert seen["interrupted"] == alarms
    assert min(counts) > 0
    check_sound(model)
    # One that is interrupted before it has begun, or as it is counted, may be missing, and none is there twice.
    for requests in (model.stats().requests, len(records)):
        assert 2 + sum(counts) + seen["done"] <= requests <= 2 + sum(counts) + seen.total()
    np.testing.assert_allclose(model.score(QUERY, MINE), mine, atol=1e-5)
    model.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_thousand_alarms_end_their_own_calls_only(folder: Path, threads: int) -> None:
    records: list[CallRecord] = []
    model, _ = open_model(folder, threads, on_call=records.append)
    storm(model, 500, 0.001, records)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_twenty_thousand_alarms_end_their_own_calls_only(folder: Path, threads: int) -> None:
    records: list[CallRecord] = []
    model, _ = open_model(folder, threads, on_call=records.append)
    storm(model, 20_000, 0.0005, records)


def test_alarms_while_onnxruntime_runs_are_not_its_failures(folder: Path) -> None:
    records: list[CallRecord] = []
    model = CrossEncoder(folder, device="cpu", threads=2, activation_fn="identity", on_call=records.append)
    storm(model, 100, 0.004, records)


def test_an_exception_that_comes_while_onnxruntime_computes_is_not_rewritten() -> None:
    model, documents = CrossEncoder(), [f"some words about nothing {i} " * 10 for i in range(400)]

    def raise_time_limit() -> None:
        raise TimeLimit("time is up")

    with on_alarm(raise_time_limit):
        for limit_s in (0.03, 0.06):
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            with pytest.raises(TimeLimit, match="time is up"):
                model.score("a", documents)


class Ended(Exception):
    """What a program of its own throws into its threads."""


def throw(into: threading.Thread, kind: type[BaseException]) -> None:
    """As packages do that put a time limit on threads."""
    assert into.ident is not None
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(into.ident), ctypes.py_object(kind)) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_what_another_thread_throws_into_a_call_comes_out_as_it_is(threads: int) -> None:
    model, documents = CrossEncoder(threads=threads), [f"some words about nothing {i} " * 10 for i in range(300)]
    expected = model.score("a", documents[:3])
    for kind in (TimeoutError, ValueError, RuntimeError, OSError, Ended):
        begun, seen = threading.Event(), list[BaseException]()

        def call() -> None:
            begun.set()  # noqa: B023  (the loop waits for it)
            try:
                model.score("a", documents)
            except BaseException as error:
                seen.append(error)  # noqa: B023

        caller = threading.Thread(target=call)
        caller.start()
        begun.wait(WAIT_S)
        time.sleep(0.03)  # while onnxruntime computes
        throw(caller, kind)
        caller.join(WAIT_S)
        (error,) = seen
        assert type(error) is kind
    np.testing.assert_allclose(model.score("a", documents[:3]), expected, atol=1e-5)
    check_sound(model)


class Throws:
    """Raises one exception of a class at the first event in our code of which a test says that it is there."""

    def __init__(self, error: BaseException, where: str) -> None:
        self.error, self.thrown, self._where = error, False, where

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        # As a thrown one lands: on whichever line runs, here the first after compiled code came back.
        if not self.thrown and event == "return" and frame.f_code.co_name == self._where:
            self.thrown = True
            raise self.error
        return self.trace


@pytest.mark.parametrize("error", [TimeoutError(), ValueError(), OSError(), Ended()], ids=repr)
@pytest.mark.parametrize("where", ["read_file", "_begin_artifact", "read_template", "open_graph"])
def test_what_is_thrown_into_a_load_comes_out_as_it_is(folder: Path, where: str, error: BaseException) -> None:
    """An OSError would pass for a folder that just changes, a ValueError for a damaged file."""
    throws, before = Throws(error, where), sys.gettrace()
    sys.settrace(throws.trace)
    try:
        with pytest.raises(type(error)) as caught:
            CrossEncoder(folder, device="cpu", threads=1)
    finally:
        sys.settrace(before)
    assert throws.thrown
    assert caught.value is error


@pytest.mark.parametrize("error", [TypeError(), ValueError(), UnicodeError("time is up")], ids=repr)
def test_what_is_thrown_while_texts_are_tokenized_or_read_comes_out_as_it_is(error: Exception) -> None:
    model = CrossEncoder(threads=1)

    class Column:
        def __array__(self, dtype: object = None, copy: object = None) -> Any:
            return np.array(["a", "b"], object)

    for where in ("encode", "__array__"):
        if error.args and where == "__array__":
            continue  # which might be the column's own
        throws, before = Throws(error, where), sys.gettrace()
        sys.settrace(throws.trace)
        try:
            with pytest.raises(type(error)) as caught:
                model.score("a", Column())  # type: ignore[arg-type]
        finally:
            sys.settrace(before)
        assert throws.thrown
        assert caught.value is error


def test_what_onnxruntime_itself_raises_still_says_where(folder: Path) -> None:
    model = CrossEncoder(folder, device="cpu", threads=1)
    backend: Any = model._scorer.backend
    wrong = PackedPairs(np.full(3, 10**6, np.int32), np.zeros(3, np.int32), np.array([3], np.int32))
    with pytest.raises(ArtifactError, match="fails in it"):
        backend.session.run(wrong)


@pytest.mark.parametrize("threads", [1, 2])
def test_of_a_batch_that_others_share_a_failure_is_its_owners_and_an_exception_this_threads(
    folder: Path, threads: int
) -> None:
    """A batch of this thread's lane holds a neighbour's pairs. It raises once; alone, the pairs run well."""
    model, session = open_model(folder, threads)
    mine, theirs = model.score(QUERY, MINE), model.score(QUERY, THEIRS)
    main, error, raised = threading.main_thread(), ValueError("time is up"), list[int]()

    def before(batch: PackedPairs) -> None:
        shared = len(model._scorer.scheduler.queue.open) > 1
        if threading.current_thread() is main and shared and not raised:
            raised.append(len(batch.lengths))
            raise error

    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            np.testing.assert_array_equal(model.score(QUERY, THEIRS), theirs)

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(call) for _ in range(2)]
        session.before = before
        end = time.monotonic() + WAIT_S
        while not raised and time.monotonic() < end:
            try:
                np.testing.assert_array_equal(model.score(QUERY, MINE), mine)
            except ValueError as caught:
                assert caught is error  # noqa: PT017
                stop.set()
        stop.set()
        for done in calls:
            done.result(WAIT_S)
    assert raised
    check_sound(model)


class Asker:
    """Does something at each event in turn that this thread comes by in our code, as a signal handler would."""

    def __init__(self, at: int, ask: Callable[[], None]) -> None:
        self._left, self._ask = at, ask

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        self._left -= 1
        if self._left == 0:
            self._ask()
        return self.trace

    @property
    def asked(self) -> bool:
        return self._left <= 0


def ask_everywhere(call: Callable[[], object], ask: Callable[[], None], step: int) -> None:
    for at in range(1, 1_000_000, step):
        asker, before = Asker(at, ask), sys.gettrace()
        sys.settrace(asker.trace)
        try:
            call()
        finally:
            sys.settrace(before)
        if not asker.asked:
            return


@pytest.mark.parametrize("threads", [1, 2])
def test_stats_answer_wherever_a_handler_asks_for_them(folder: Path, threads: int) -> None:
    model, _ = open_model(folder, threads)
    expected, answers = model.score(QUERY, MINE), list[int]()

    def ask() -> None:
        answers.append(model.stats().waiting_requests)

    def call() -> None:
        np.testing.assert_array_equal(model.score(QUERY, MINE), expected)
        model.stats()

    ask_everywhere(call, ask, 3)
    assert set(answers) == {0, 1}
    check_sound(model)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_in_a_handler_gets_its_scores_or_says_that_its_thread_is_in_a_call(folder: Path, threads: int) -> None:
    model, _ = open_model(folder, threads)
    expected, few = model.score(QUERY, MINE), model.score(QUERY, THEIRS)
    answers = Counter[str]()

    def ask() -> None:
        try:
            np.testing.assert_array_equal(model.score(QUERY, THEIRS), few)
            answers["scores"] += 1
        except CrossrankError as error:
            assert str(error).startswith(NESTED)  # noqa: PT017
            answers["refused"] += 1

    ask_everywhere(lambda: np.testing.assert_array_equal(model.score(QUERY, MINE), expected), ask, 5)
    assert min(answers["scores"], answers["refused"]) > 10
    check_sound(model)


@pytest.mark.parametrize("finish", [True, False])
def test_close_in_a_handler_of_a_thread_that_is_in_a_call_is_refused(folder: Path, finish: bool) -> None:
    model, session = open_model(folder, 1)
    refused: list[str] = []

    def handle() -> None:
        for nested in (lambda: model.close(finish=finish), lambda: model.rank(QUERY, MINE), model.warm_up):
            with pytest.raises(CrossrankError, match=NESTED) as caught:
                nested()
            refused.append(str(caught.value))
        assert model.stats().waiting_requests == 1

    session.before = lambda batch: signal.raise_signal(signal.SIGALRM)
    with on_alarm(handle):
        model.score(QUERY, MINE)
    assert refused
    model.close(finish=finish)  # and after the call it closes


def test_a_handlers_exception_in_the_users_hook_is_not_taken_for_the_hooks(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(record: CallRecord) -> None:
        signal.raise_signal(signal.SIGALRM)
        raise ValueError("the hook's own")

    def raise_time_limit() -> None:
        raise TimeLimit("time is up")

    model, _ = open_model(folder, 1, on_call=hook)
    with on_alarm(raise_time_limit), pytest.raises(TimeLimit):
        model.score(QUERY, MINE)
    with on_alarm(lambda: None):
        model.score(QUERY, MINE)
    assert [record.levelname for record in caplog.records if "on_call failed" in record.message] == ["WARNING"]


class Broken:
    """A stream that cannot be written to."""

    closed = False

    def __init__(self, error: Exception, times: int) -> None:
        self._error, self._times, self.text = error, times, ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._times:
            self._times -= 1
            raise self._error
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), ValueError("I/O operation on closed file"), RuntimeError("gone")]
)
def test_a_call_does_not_fail_for_a_stream_that_cannot_show_its_progress(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model, _ = open_model(folder, 2)
    expected, stream = model.score(QUERY, MINE), Broken(error, 2)
    monkeypatch.setattr(sys, "stderr", stream)
    pairs = [(QUERY, document) for document in MINE]
    np.testing.assert_array_equal(model.predict(pairs, show_progress_bar=True), expected)
    assert stream.text == ""  # it was given up


@pytest.mark.parametrize("times", [1, 2])
def test_a_stream_that_fails_but_once_fails_no_call(folder: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """As a terminal that does not block says now and then that it is busy."""
    model, _ = open_model(folder, 1)
    monkeypatch.setattr(sys, "stderr", Broken(BlockingIOError(11, "Resource temporarily unavailable"), times))
    assert len(model.rank(QUERY, MINE, show_progress_bar=True)) == len(MINE)


class Interrupted(io.StringIO):
    """A terminal that an alarm comes to while it is written to."""

    def write(self, text: str) -> int:
        signal.raise_signal(signal.SIGALRM)
        return super().write(text)


def raise_this(error: Exception, number: int, frame: FrameType | None) -> None:
    raise error


def function_that_raises(error: Exception) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame  # as some linters want what is of no use
        raise error

    return handle


class Limit:
    """As packages for time limits have their handlers: methods, and those that put back what was there before."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def handle(self, number: int, frame: FrameType | None) -> None:
        raise self.error

    def handle_once(self, *given: object) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        raise self.error

    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise self.error


@pytest.mark.parametrize("kind", [TimeoutError, ValueError, Exception])
@pytest.mark.parametrize(
    "handler",
    [
        function_that_raises,
        lambda error: partial(raise_this, error),
        lambda error: Limit(error).handle,
        lambda error: Limit(error).handle_once,
        Limit,
    ],
    ids=["function", "partial", "method", "once", "object"],
)
def test_what_a_handler_raises_while_progress_is_drawn_is_not_the_streams(
    handler: Callable[[Exception], Any], kind: type[Exception]
) -> None:
    progress, before = Progress(2, "documents", show=True, stream=Interrupted()), signal.getsignal(signal.SIGALRM)
    error = kind("time is up")
    signal.signal(signal.SIGALRM, handler(error))
    try:
        with pytest.raises(kind) as caught:
            progress.advance(2)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert caught.value is error
    progress.finish()


def test_alarms_that_come_again_and_again_lose_nothing(folder: Path) -> None:
    """Also in the middle of the clearing up after the last one."""
    model, _ = open_model(folder, 2, patience_s=0.01)
    mine, theirs, stop = model.score(QUERY, MINE), model.score(QUERY, THEIRS), threading.Event()
    interrupted = 0

    def raise_time_limit() -> None:
        frame: FrameType | None = sys._getframe()
        while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back
        if frame is not None:  # else a line of this test would have to expect it
            raise TimeLimit("time is up")

    def call() -> None:
        while not stop.is_set():
            np.testing.assert_array_equal(model.score(QUERY, THEIRS), theirs)

    with ThreadPoolExecutor(2) as pool, on_alarm(raise_time_limit):
        calls = [pool.submit(call) for _ in range(2)]
        try:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                signal.setitimer(signal.ITIMER_REAL, 2e-4, 5e-5)
                try:
                    model.score(QUERY, MINE)
                except TimeLimit:
                    interrupted += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            stop.set()
        for done in calls:
            done.result(WAIT_S)
    assert interrupted > 10
    check_sound(model, by_the_next=True)
    np.testing.assert_array_equal(model.score(QUERY, MINE), mine)
