"""Scoring across processes, one scenario a run: ``python tests/support/fork_scenarios.py SCENARIO ARTIFACT``.

A process of its own, so that a scenario that hangs can be ended and no other library's threads are forked.
test_fork.py runs it. Each scenario checks its scores itself and prints "ok".
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank import CrossEncoder
from crossrank._machine.onnxruntime import ort

QUERY = "Why is the sky red in the evening?"
DOCUMENTS = [
    "Sunlight travels a longer way through the air.",
    "",
    "Bread dough rises because yeast turns sugar into gas. " * 4,
    "the sea",
] * 8
CHILDREN = 3
CHILD_S = 20  # how long a scenario may take; it needs a second or two

model: CrossEncoder
expected: NDArray[np.float32]


def _check(times: int = 2, atol: float = 0.0) -> None:
    for _ in range(times):
        # Exact: the same graph, batches and number of threads on the same machine.
        assert np.abs(model.score(QUERY, DOCUMENTS) - expected).max() <= atol


def _forked(work: Callable[[], None]) -> None:
    """Run ``work`` in forked children one after the other and at once; each must end well."""
    children = []
    for _ in range(CHILDREN):
        child = os.fork()
        if child == 0:
            try:
                work()
            except BaseException as error:
                print(f"child: {error!r}", file=sys.stderr)
                os._exit(1)
            os._exit(0)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0


def os_fork() -> None:
    """A parent that has scored forks; children and parent score on, at the same time."""
    _forked(_check)
    _check()


def grandchild() -> None:
    """A child that has scored forks again."""

    def work() -> None:
        _check(1)
        _forked(_check)
        _check(1)

    _forked(work)
    _check()


def fork_while_scoring() -> None:
    """Another thread of the parent is inside a call while it forks."""
    stop = threading.Event()

    def keep_scoring() -> None:
        while not stop.is_set():
            _check(1)

    scorer = threading.Thread(target=keep_scoring)
    scorer.start()
    try:
        for _ in range(3):
            _forked(_check)
    finally:
        stop.set()
        scorer.join()
    _check()


def threads_in_child() -> None:
    """The child's first call comes from several threads at once."""

    def work() -> None:
        failures: list[BaseException] = []

        def check() -> None:
            try:
                _check(atol=1e-5)  # calls of several threads join into other batches
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=check) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures

    _forked(work)


def lanes_in_child() -> None:
    """The child has lanes of its own, and opens one graph for all of them."""
    opened = []
    inference_session = ort.InferenceSession

    def count(*args: Any, **options: Any) -> Any:
        opened.append(args)
        return inference_session(*args, **options)

    def work() -> None:
        ort.InferenceSession = count
        assert threading.active_count() == 1
        _check()
        assert [thread.name for thread in threading.enumerate()][1:] == ["crossrank_0"]
        assert len(opened) == 1

    _forked(work)


def pinned_child() -> None:
    """The child may use fewer cores than its parent when it loaded; lanes beyond them take turns."""

    def work() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        _check()

    _forked(work)
    _check()


def _exiting_child(work: Callable[[], None]) -> None:
    """A child that ends through the interpreter's own exit, with its destructors, as a web server's worker does."""
    child = os.fork()
    if child == 0:
        work()
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    _check()


def scoring_child_exits() -> None:
    """A forked child scores and leaves through sys.exit."""
    _exiting_child(_check)


def idle_child_exits() -> None:
    """A forked child that never scores leaves through sys.exit."""
    _exiting_child(lambda: None)


def child_drops_the_object() -> None:
    """A forked child lets go of the object that it inherited, having scored or not."""

    def work() -> None:
        global model
        _check(1)
        del model

    def idle() -> None:
        global model
        del model

    _forked(work)
    _forked(idle)
    _check()


def _pool_score(query: str) -> list[float]:
    return [float(score) for score in model.score(query, DOCUMENTS)]


def multiprocessing_fork() -> None:
    """A pool whose workers inherit the object."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for scores in pool.map_async(_pool_score, [QUERY] * 6).get(timeout=CHILD_S):
            assert np.array_equal(np.array(scores, np.float32), expected)
    _check()


def _load_and_score(folder: str) -> list[float]:
    return [float(score) for score in CrossEncoder(folder, device="cpu", threads=2).score(QUERY, DOCUMENTS)]


def multiprocessing_spawn() -> None:
    """Workers that start from nothing load the artifact themselves."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for scores in pool.map_async(_load_and_score, [sys.argv[2]] * 3).get(timeout=CHILD_S):
            assert np.array_equal(np.array(scores, np.float32), expected)
    _check()


SCENARIOS: dict[str, Callable[[], None]] = {
    scenario.__name__: scenario
    for scenario in (
        os_fork,
        grandchild,
        fork_while_scoring,
        threads_in_child,
        lanes_in_child,
        pinned_child,
        scoring_child_exits,
        idle_child_exits,
        child_drops_the_object,
        multiprocessing_fork,
        multiprocessing_spawn,
    )
}

if __name__ == "__main__":
    model = CrossEncoder(sys.argv[2], device="cpu", threads=2)
    expected = model.score(QUERY, DOCUMENTS)
    SCENARIOS[sys.argv[1]]()
    print("ok")
