"""Lanes that go on working stay on a core each, and leave it as they found it."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from crossrank._machine.cores import Cores, current_core


class System:
    """Stands for the kernel: threads' allowed cores, and where this one runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: set[int]) -> None:
        self.allowed, self.asked = allowed, 0
        monkeypatch.setattr(os, "sched_getaffinity", lambda thread: set(self.allowed), raising=False)
        monkeypatch.setattr(os, "sched_setaffinity", self._set, raising=False)

    def _set(self, thread: int, cores: set[int]) -> None:
        assert thread == 0, "a thread chooses for itself alone"
        self.allowed, self.asked = set(cores), self.asked + 1


def seconds(*times: float) -> Iterator[float]:
    yield from times
    while True:
        yield times[-1]


def test_a_lane_that_goes_on_stays_where_it_runs_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, {2, 5})
    with Cores(2, here=lambda: 5).stretch(seconds(0.0, 0.009, 0.011).__next__) as stay:
        stay()
        assert system.allowed == {2, 5}
        stay()
        assert system.allowed == {5}
        stay()
    assert (system.allowed, system.asked) == ({2, 5}, 2)


@pytest.mark.parametrize("here", [3, None, 9], ids=["same core", "unknown", "none of its own"])
def test_each_lane_gets_a_core_of_its_own(monkeypatch: pytest.MonkeyPatch, here: int | None) -> None:
    now = here
    cores = Cores(3, here=lambda: now)
    taken: list[int] = []
    with ExitStack() as stretches:
        for _ in range(3):
            system = System(monkeypatch, {1, 3, 4})
            stretches.enter_context(cores.stretch(seconds(0.0, 1.0).__next__))()
            taken += system.allowed
        assert sorted(taken) == [1, 3, 4]
        fourth = System(monkeypatch, {1, 3, 4})
        stretches.enter_context(cores.stretch(seconds(0.0, 1.0).__next__))()
        assert fourth.asked == 0
    with cores.stretch(seconds(0.0, 1.0).__next__) as stay:
        again, now = System(monkeypatch, {1, 3, 4}), 4
        stay()
        assert again.allowed == {4}


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_without_just_one_core_for_each_lane_the_kernel_chooses(monkeypatch: pytest.MonkeyPatch, lanes: int) -> None:
    system = System(monkeypatch, {0, 1, 2})
    with Cores(lanes, here=lambda: 0).stretch(seconds(0.0, 1.0).__next__) as stay:
        stay()
    assert system.asked == 0


def test_where_cores_cannot_be_chosen_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: int, cores: set[int]) -> None:
        raise PermissionError("no")

    System(monkeypatch, {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    for _ in range(3):  # and no core is lost
        with Cores(2, here=lambda: 0).stretch(seconds(0.0, 1.0).__next__) as stay:
            stay()
    monkeypatch.delattr(os, "sched_setaffinity")
    with Cores(2, here=lambda: 0).stretch(seconds(0.0, 1.0).__next__) as stay:
        stay()


def test_what_was_chosen_from_outside_meanwhile_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, {0, 1})
    with Cores(2, here=lambda: 0).stretch(seconds(0.0, 1.0).__next__) as stay:
        stay()
        system.allowed = {1}
    assert system.allowed == {1}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_real_thread_stays_and_is_freed() -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one core")
    seen: list[set[int]] = []

    def lane() -> None:
        with Cores(len(allowed)).stretch(seconds(0.0, 1.0).__next__) as stay:
            stay()
            seen.append(os.sched_getaffinity(0))
            seen.append({current_core() or 0})
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=lane)
    thread.start()
    thread.join()
    assert len(seen[0]) == 1
    assert seen == [seen[0], seen[0], allowed]
    assert os.sched_getaffinity(0) == allowed
