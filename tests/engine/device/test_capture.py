"""The lock around captures: a capture has a GPU alone, runs share it, nobody waits for himself."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from crossrank._device.capture import CaptureLock, capture_lock

WAIT_S = 30


def test_runs_share_it_and_a_capture_has_it_alone() -> None:
    lock, captures = CaptureLock(), 0
    inside: set[int] = set()
    meeting = threading.Barrier(2)
    seen: list[int] = []

    def run(i: int) -> None:
        def step() -> None:
            inside.add(i)
            time.sleep(0.001)
            seen.append(captures)
            inside.discard(i)

        lock.run(step)

    def capture() -> None:
        def step() -> None:
            nonlocal captures
            captures += 1
            assert not inside
            time.sleep(0.01)
            assert not inside
            captures -= 1

        lock.capture(step)

    with ThreadPoolExecutor(6) as pool:
        both = [pool.submit(lock.run, lambda: meeting.wait(timeout=WAIT_S)) for _ in range(2)]  # two at once
        for call in both:
            call.result(WAIT_S)
        calls = [pool.submit(run, i) if i % 25 else pool.submit(capture) for i in range(300)]
        for done in calls:
            done.result(WAIT_S)
    assert set(seen) == {0}


def test_a_thread_enters_again_while_a_capture_waits_for_it() -> None:
    lock, begun = CaptureLock(), threading.Event()

    def outer() -> str:
        begun.set()
        time.sleep(0.05)  # a capture waits by now
        return lock.run(lambda: "inner")

    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(lock.run, outer)
        assert begun.wait(WAIT_S)
        captured = pool.submit(lock.capture, lambda: lock.run(lambda: "captured"))
        assert (running.result(WAIT_S), captured.result(WAIT_S)) == ("inner", "captured")


def test_who_was_thrown_out_is_not_waited_for_for_ever_and_errors_leave_nothing() -> None:
    lock = CaptureLock(patience_s=0.05)
    lock._inside.add(-1)  # as an exception leaves it that comes between two lines
    assert lock.capture(lambda: 1) == 1
    for call in (lock.run, lock.capture):
        with pytest.raises(ZeroDivisionError):
            call(lambda: 1 // 0)
    assert lock.capture(lambda: lock.run(lambda: 2)) == 2


def test_there_is_one_for_a_process() -> None:
    assert capture_lock() is capture_lock()
