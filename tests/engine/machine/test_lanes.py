"""Lanes: every job once, errors stop all of them, callers do not disturb each other, and threads go away."""

import _thread
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from crossrank._machine.lanes import Lanes

WAIT_S = 30


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("crossrank")]


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + WAIT_S
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("jobs", [0, 1, 2, 500])
def test_each_job_is_done_once(count: int, jobs: int) -> None:
    lanes = Lanes(count)
    for _ in range(3):  # the pool is used again
        done: list[int] = []
        lanes.run(partial(done.append, i) for i in range(jobs))
        assert sorted(done) == list(range(jobs))


def test_lanes_work_side_by_side() -> None:
    meeting = threading.Barrier(3)  # broken unless three are inside at once
    Lanes(3).run([lambda: meeting.wait(timeout=WAIT_S)] * 3)


def test_one_lane_or_one_job_needs_no_thread_and_keeps_the_order() -> None:
    before = helpers()
    done: list[int] = []
    Lanes(1).run(partial(done.append, i) for i in range(20))
    Lanes(4).run([partial(done.append, 20)])
    Lanes(4).run([])
    assert done == list(range(21))
    assert helpers() == before


def fail() -> None:
    raise ValueError("broken")


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_is_raised_here_and_stops_every_lane(count: int, error: type[BaseException]) -> None:
    under_way = threading.Semaphore(0)
    done: list[int] = []

    def job(i: int) -> None:
        if i == 0:
            for _ in range(count - 1):
                assert under_way.acquire(timeout=WAIT_S)
            raise error("broken")
        under_way.release()
        time.sleep(0.05)
        done.append(i)

    lanes = Lanes(count)
    with pytest.raises(error, match="broken"):
        lanes.run(partial(job, i) for i in range(1000))
    ended = len(done)
    assert ended < 100  # what was under way; a hundred would take each of four lanes a second
    time.sleep(0.1)
    assert len(done) == ended  # and nothing goes on behind the caller's back
    lanes.run([partial(done.append, -1)] * 3)
    assert done.count(-1) == 3


def test_an_error_of_a_helper_is_raised_in_the_caller() -> None:
    caller = threading.current_thread()
    failed = threading.Event()

    def job() -> None:
        if threading.current_thread() is caller:
            assert failed.wait(timeout=WAIT_S)
        else:
            failed.set()
            fail()

    with pytest.raises(ValueError, match="broken"):
        Lanes(2).run([job] * 50)


def test_ctrl_c_in_the_caller_stops_every_lane() -> None:
    caller = threading.main_thread()
    done: list[int] = []

    def job(i: int) -> None:
        if threading.current_thread() is caller:
            for _ in range(1000):
                time.sleep(0.01)
        elif len(done) == 5:
            _thread.interrupt_main()
        time.sleep(0.01)
        done.append(i)

    with pytest.raises(KeyboardInterrupt):
        Lanes(2).run(partial(job, i) for i in range(2000))
    assert len(done) < 1000


def test_callers_do_their_own_jobs_with_no_more_helpers_than_there_are_lanes() -> None:
    lanes = Lanes(3)
    before = set(helpers())
    most = []

    def call(caller: int) -> list[tuple[int, int]]:
        done: list[tuple[int, int]] = []
        for i in range(20):
            lanes.run(partial(done.append, (caller, 10 * i + j)) for j in range(10))
            most.append(len(set(helpers()) - before))
        return done

    with ThreadPoolExecutor(8) as pool:
        for caller, done in enumerate(pool.map(call, range(8))):
            assert sorted(done) == [(caller, i) for i in range(200)]
    assert 1 <= max(most) <= 2


def test_one_callers_error_is_not_anothers() -> None:
    lanes = Lanes(2)

    def call(caller: int) -> int:
        done: list[int] = []
        jobs = [partial(done.append, i) for i in range(50)]
        if caller % 2:
            with pytest.raises(ValueError, match="broken"):
                lanes.run([*jobs, fail, *jobs])
            return 50
        lanes.run(jobs)
        return len(done)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(call, range(60))) == [50] * 60


def test_a_busy_helper_keeps_nothing_of_calls_that_did_without_it() -> None:
    class Arrays:
        def work(self) -> None:
            pass

    lanes, busy = Lanes(2), threading.Event()
    (helper,) = lanes.submit(lambda: busy.wait(timeout=WAIT_S))
    arrays = Arrays()
    gone = weakref.ref(arrays)
    lanes.run([arrays.work] * 4)
    del arrays
    assert gone() is None
    busy.set()
    helper.result(timeout=WAIT_S)


def test_threads_end_with_the_pool() -> None:
    before = set(helpers())
    lanes = Lanes(4)
    lanes.run([partial(time.sleep, 0.01)] * 40)
    assert set(helpers()) - before
    gc.disable()  # no cycle keeps it
    try:
        del lanes
        assert eventually(lambda: not set(helpers()) - before)
    finally:
        gc.enable()


def test_where_no_thread_can_be_had_the_caller_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    lanes = Lanes(4)
    for _ in range(2):
        lanes.run(partial(done.append, i) for i in range(20))
    assert done == [*range(20), *range(20)]


def test_jobs_are_still_done_at_the_interpreters_end() -> None:
    code = (
        "import atexit, os\nfrom crossrank._machine.lanes import Lanes\nlanes = Lanes(3)\n"
        "lanes.run([lambda: os.write(1, b'a')] * 3)\n"
        "atexit.register(lambda: lanes.run([lambda: os.write(1, b'b')] * 3))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert (done.stdout, done.stderr) == ("aaabbb", "")
