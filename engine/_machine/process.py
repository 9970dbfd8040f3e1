"""Things of which each process has one of its own, since threads and held locks do not survive a fork."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class PerProcess(dict[int, T]):
    """By process, what is made when that one first asks: ``things[os.getpid()]``. Threads may share it.

    Args:
        make: Makes one. Threads that ask at once may make two, of which one is kept.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, process: int) -> T:
        return self.setdefault(process, self._make())
