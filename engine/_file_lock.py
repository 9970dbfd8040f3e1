"""A lock on a file, for one holder at a time among processes and threads.

The system's own lock goes with the process that holds it, however that ends. Some network file systems have none
(ENOSYS of Lustre, ENOLCK of NFS without its lock daemon). There a marker beside the file takes its place, which its
holder renews; one that was not renewed for a minute is of a process that was killed, and is taken away.
"""

import errno
import json
import logging
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

from ._errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

# What a lock that another one holds gives.
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
# What a file system without locks gives.
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
_POLL_S = 0.05
_RENEW_S = 5.0
_ABANDONED_S = 60.0


def _lock(descriptor: int) -> None:
    """Take the system's lock of an open file, or raise `OSError`."""
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing it is not enough where a forked child has it open too


class FileLock:
    """A lock that is taken and given back by one thread.

    Args:
        path: The lock's file, made if it is absent. Its holder may remove it.
        lock: Takes the system's lock of an open file, or raises `OSError`.
        renew_s: How often a marker is renewed.
        abandoned_s: After how long a marker that is not renewed is taken away.
    """

    def __init__(
        self,
        path: Path,
        *,
        lock: Callable[[int], None] = _lock,
        renew_s: float = _RENEW_S,
        abandoned_s: float = _ABANDONED_S,
    ) -> None:
        self._path, self._lock = path, lock
        self._marker = _Marker(path.with_name(f"{path.name}.held"), renew_s, abandoned_s)
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Wait for the lock and take it.

        Raises:
            InputError: As `try_acquire`.
            OSError: As `try_acquire`.
        """
        while not self.try_acquire():
            time.sleep(_POLL_S)

    def try_acquire(self) -> bool:
        """Take the lock unless another one holds it.

        Raises:
            InputError: If the lock's file is a link or no file, which may be put there to lead a write elsewhere.
            OSError: If the file cannot be made or opened.
        """
        while True:
            descriptor = self._open()
            try:
                self._lock(descriptor)
            except OSError as error:
                os.close(descriptor)
                if error.errno in _HELD:
                    return False
                if error.errno in _WITHOUT_LOCKS:
                    return self._marker.try_put()
                error.filename = str(self._path)
                raise
            if self._is_there(descriptor):
                self._descriptor = descriptor
                return True
            os.close(descriptor)  # its last holder removed the file

    def release(self) -> None:
        """Give the lock back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            self._marker.remove()
            return
        try:
            _unlock(descriptor)
        except OSError as error:  # closing gives it back where nobody else has the file open
            logger.debug("%s: %s", self._path, error)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        if self._path.is_symlink():
            raise InputError(f"{self._path} is a link, where a lock's own file belongs: remove it")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(self._path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InputError(f"{self._path} is no file, where a lock's own file belongs: remove it")
        return descriptor

    def _is_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._path))
        except FileNotFoundError:
            return False


class _Marker:
    """A file that is there while a lock is held."""

    def __init__(self, path: Path, renew_s: float, abandoned_s: float) -> None:
        self._path, self._renew_s, self._abandoned_s = path, renew_s, abandoned_s
        self._token = secrets.token_hex(8)
        self._done = Event()
        self._seen: tuple[str, int] | None = None  # another holder's token, and when it was renewed
        self._since = 0.0

    def try_put(self) -> bool:
        if self._is_abandoned():
            self._take_away()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(self._path, flags, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"token": self._token, "pid": os.getpid()}, file)
        logger.info("%s: the file system has no locks, a marker takes their place", self._path)
        self._done = Event()
        Thread(target=self._renew, args=(self._done,), name="crossrank-lock", daemon=True).start()
        return True

    def remove(self) -> None:
        self._done.set()
        if self._read(self._path) == self._token:  # else it was taken away from a process that slept too long
            self._path.unlink(missing_ok=True)

    def _renew(self, done: Event) -> None:
        while not done.wait(self._renew_s):
            if self._read(self._path) != self._token:
                return
            try:
                os.utime(self._path)
            except OSError as error:
                logger.debug("%s: %s", self._path, error)

    def _is_abandoned(self) -> bool:
        """Whether the marker was seen for so long without being renewed, by this process's own clock."""
        try:
            with self._path.open(encoding="utf-8") as file:  # opening asks a network file system anew
                seen = file.read(1000), os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return False
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since > self._abandoned_s

    def _take_away(self) -> None:
        """Move the marker aside, and look whether it is the one that was seen: another waiter may have been faster."""
        assert self._seen is not None, "it was seen"
        aside = self._path.with_name(f"{self._path.name}-{self._token}")
        try:
            self._path.rename(aside)
            if aside.read_text(encoding="utf-8") != self._seen[0] and not self._path.exists():
                aside.rename(self._path)
            aside.unlink(missing_ok=True)
        except OSError as error:
            logger.debug("%s: %s", self._path, error)
        self._seen = None

    @staticmethod
    def _read(path: Path) -> str | None:
        """The token of a marker, None if there is none."""
        try:
            token = json.loads(path.read_text(encoding="utf-8"))["token"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return str(token)
