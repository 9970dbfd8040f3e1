"""The end of a program while threads are in calls: what it waits for, and what daemon threads are told."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.artifacts import make_artifact

WAIT_S = 120

# A model each of whose batches takes a while, and calls of threads of a kind.
PROGRAM = """
import asyncio, atexit, os, sys, threading, time
from crossrank import AsyncCrossEncoder, CrossEncoder, CrossrankError
folder, kind, batch_s, daemon, count = *sys.argv[1:3], float(sys.argv[3]), sys.argv[4] == "daemon", int(sys.argv[5])
def at_exit():
    scores = model.score("the sea", ["is calm"])
    os.write(1, f"at exit {len(scores)}\\n".encode())
atexit.register(at_exit)
model = CrossEncoder(folder, device="cpu", threads=2)
session = model._scorer.backend.session
run = session.run
def slowly(batch):
    time.sleep(batch_s)
    return run(batch)
session.run = slowly
documents = [f"the sea {i} " + "is calm " * (i % 5) for i in range(count)]
def score():
    if kind == "threads":
        return model.score("the sea", documents)
    return asyncio.run(AsyncCrossEncoder(model).score("the sea", documents))
def call():
    try:
        found = f"{len(score())} scores"
    except CrossrankError as error:
        found = f"{type(error).__name__}: {error}"
    os.write(1, (found + "\\n").encode())
threads = [threading.Thread(target=call, daemon=daemon) for _ in range(3)]
for thread in threads:
    thread.start()
while model.stats().waiting_requests < 3:
    time.sleep(0.001)
os.write(1, f"end {time.time()}\\n".encode())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


def run_to_its_end(folder: Path, *arguments: object) -> tuple[list[str], float]:
    """The lines that the program has written after its main thread's end, and how many seconds later it was gone."""
    command = [sys.executable, "-c", PROGRAM, str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    gone = time.time()
    assert (done.returncode, done.stderr) == (0, "")
    _, _, after = done.stdout.partition("end ")
    first, *lines = after.splitlines()
    return lines, gone - float(first)


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_calls_of_daemon_threads_fail_within_a_batch_and_the_main_thread_may_still_call(
    folder: Path, kind: str
) -> None:
    lines, took_s = run_to_its_end(folder, kind, 0.2, "daemon", 3_000)
    assert took_s < 10  # they would take minutes
    assert lines.count("at exit 1") == 1
    told = [line for line in lines if line != "at exit 1"]
    assert len(told) == 3
    assert all(line.startswith("Closed: the program is ending, and does not wait for its daemon thr") for line in told)


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_calls_of_other_threads_are_waited_for(folder: Path, kind: str) -> None:
    lines, _ = run_to_its_end(folder, kind, 0.01, "waited for", 200)
    assert lines == ["200 scores"] * 3 + ["at exit 1"]
