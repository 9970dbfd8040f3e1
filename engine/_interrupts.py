"""Exceptions that are not ours: what a signal handler, or another thread, raises into the lines that run just then."""

import signal
import sys
from collections.abc import Iterator
from itertools import pairwise
from threading import current_thread, main_thread
from types import FrameType, TracebackType
from typing import TypeVar

E = TypeVar("E", bound=BaseException)

# What libraries raise without a word.
_WORDLESS = (AssertionError, EOFError, NotImplementedError, StopIteration)


def raised_by(package: str, error: BaseException) -> bool:
    """Whether an exception that left a call of a compiled package is that package's, and not what interrupted it.

    Args:
        package: Its name.
        error: As it was caught beside the call.
    """
    kind = _root(type(error).__module__)
    if kind != "builtins":  # which C++ exceptions become without a kind of their own
        return kind == package
    if not error.args:  # theirs say what it is
        return False
    # A signal handler runs in the main thread, and its frames are in the traceback, behind those that it interrupted.
    behind = error.__traceback__.tb_next if error.__traceback__ else None
    return current_thread() is not main_thread() or all(
        _root(frame.f_globals.get("__name__", "")) in (package, "crossrank") for frame in _frames(behind)
    )


def thrown_in(error: BaseException) -> bool:
    """Whether an exception came from outside into the lines that ran: out of a signal handler, or from another thread.

    A thread throws a class (`PyThreadState_SetAsyncExc`, as time limits for threads do), of which Python makes an
    exception without a word; nearly all others have some.
    """
    return (not error.args and not isinstance(error, _WORDLESS)) or raised_by_handler(error)


def not_thrown_in(*kinds: type[E]) -> tuple[type[E], ...]:
    """What an ``except`` is for: exceptions of these kinds, but for one that was thrown in, which goes by.

    ``except not_thrown_in(OSError):`` does not take a handler's TimeoutError for a file that is not there.
    """
    error = sys.exc_info()[1]  # Python asks while it handles it
    return () if error is not None and thrown_in(error) else kinds


def raised_by_handler(error: BaseException) -> bool:
    """Whether an exception that left a function of the user's came out of a signal handler.

    That is one of those installed now, or a function that was given the frame that it interrupted, as all of them are.
    """
    if current_thread() is not main_thread():
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {getattr(handler, "__code__", None) for handler in handlers}
    frames = list(_frames(error.__traceback__))
    return any(frame.f_code in codes for frame in frames) or any(
        given is interrupted for interrupted, frame in pairwise(frames) for given in _arguments(frame)
    )


def _arguments(frame: FrameType) -> Iterator[object]:
    """What the frame of a function has in the places of its arguments, those of ``*arguments`` too."""
    for name in frame.f_code.co_varnames[: frame.f_code.co_argcount + 1]:
        value = frame.f_locals.get(name)
        yield from value if type(value) is tuple else (value,)


def _root(module: str) -> str:
    return module.partition(".")[0]


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next
