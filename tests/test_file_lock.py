"""A lock of files, on file systems with locks and without."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossrank import InputError
from crossrank._file_lock import FileLock
from tests.tiny_models import make_checkpoint

Lock = Callable[[Path], FileLock]
ABANDONED_S = 0.3


def refuse(code: int) -> Callable[[int], None]:
    def lock(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    return lock


@pytest.fixture(params=["native", "ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def make(request: pytest.FixtureRequest) -> Lock:
    """Makes locks of a file system with locks, and of those without."""
    if request.param == "native":
        return FileLock
    code = getattr(errno, request.param)
    return lambda path: FileLock(path, lock=refuse(code), renew_s=0.05, abandoned_s=ABANDONED_S)


def test_one_holder_at_a_time(make: Lock, tmp_path: Path) -> None:
    inside, most, done = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, done
        lock = make(tmp_path / "lock")
        lock.acquire()
        try:
            with guard:
                inside, most = inside + 1, max(most, inside + 1)
            time.sleep(0.02)
            with guard:
                inside, done = inside - 1, done + 1
        finally:
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, done) == (1, 4)


def test_lock_that_is_held_is_not_waited_for(make: Lock, tmp_path: Path) -> None:
    first, second = make(tmp_path / "lock"), make(tmp_path / "lock")
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()
    second.release()
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}


def test_holder_that_lives_is_waited_for_however_long(make: Lock, tmp_path: Path) -> None:
    first, second = make(tmp_path / "lock"), make(tmp_path / "lock")
    assert first.try_acquire()
    end = time.monotonic() + 3 * ABANDONED_S
    while time.monotonic() < end:
        assert not second.try_acquire()
        time.sleep(0.02)
    first.release()


def test_marker_of_a_killed_holder_is_taken_away(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lock": refuse(errno.ENOSYS), "abandoned_s": ABANDONED_S}
    (tmp_path / "lock.held").write_text('{"token": "dead", "pid": 1}', encoding="utf-8")
    lock = FileLock(tmp_path / "lock", **options)
    assert not lock.try_acquire()
    lock.acquire()
    assert json.loads((tmp_path / "lock.held").read_text("utf-8"))["pid"] == os.getpid()
    lock.release()
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}


def test_holder_whose_marker_was_taken_away_leaves_the_next_ones(tmp_path: Path) -> None:
    """A process that was stopped for minutes."""
    options: dict[str, Any] = {"lock": refuse(errno.ENOSYS), "abandoned_s": ABANDONED_S}
    slept = FileLock(tmp_path / "lock", renew_s=1000, **options)
    assert slept.try_acquire()
    next_one = FileLock(tmp_path / "lock", renew_s=0.05, **options)
    next_one.acquire()
    slept.release()
    assert not FileLock(tmp_path / "lock", **options).try_acquire()
    next_one.release()


def test_file_that_its_holder_removed_is_not_locked(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, waiter, late = FileLock(path), FileLock(path), FileLock(path)
    assert first.try_acquire()
    thread = threading.Thread(target=waiter.acquire)
    thread.start()
    time.sleep(0.1)
    path.unlink()
    first.release()
    thread.join(10)
    assert not late.try_acquire()  # the waiter holds the file that is there
    waiter.release()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no such links here")
@pytest.mark.parametrize("there", [True, False])
def test_link_is_refused(tmp_path: Path, there: bool) -> None:
    elsewhere = tmp_path / "elsewhere"
    if there:
        elsewhere.write_text("text", encoding="utf-8")
    (tmp_path / "lock").symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"lock is a link, where a lock's own file belongs: remove it"):
        FileLock(tmp_path / "lock").try_acquire()
    assert elsewhere.exists() == there


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(InputError, match=r"lock is no file"):
        FileLock(tmp_path / "lock").try_acquire()


def test_link_in_the_place_of_a_marker_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock.held").symlink_to(tmp_path / "elsewhere")
    assert not FileLock(tmp_path / "lock", lock=refuse(errno.ENOSYS)).try_acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_another_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error") as caught:
        FileLock(tmp_path / "lock", lock=refuse(errno.EIO)).try_acquire()
    assert caught.value.filename == str(tmp_path / "lock")


_SHIM = """
#include <errno.h>
#include <stdlib.h>
int flock(int descriptor, int operation) { errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
"""
_EXPORT = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from crossrank.export._cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_export_to_a_file_system_without_locks_ends(tmp_path: Path, code: int) -> None:
    """Two exports at once, in processes whose flock fails as on Lustre and NFS."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a C compiler and Linux's loader are needed to let flock fail")
    (tmp_path / "shim.c").write_text(_SHIM, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "shim.so", tmp_path / "shim.c"], check=True)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert")
    output = tmp_path / "out" / "artifact"
    command = [sys.executable, "-c", _EXPORT, str(checkpoint), "-o", str(output), "--variants", "cpu"]
    env = os.environ | {"LD_PRELOAD": str(tmp_path / "shim.so"), "FLOCK_ERRNO": str(code)}
    exports = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    results = [(process.communicate(timeout=100), process.returncode) for process in exports]
    assert [(err, status) for (_, err), status in results] == [("", 0)] * 2
    assert results[0][0][0] == results[1][0][0]
    assert {path.name for path in output.parent.iterdir()} == {"artifact", ".artifact.lock"}
