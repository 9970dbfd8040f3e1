"""Exceptions that are not ours: what a signal handler, or another thread, raises into the lines that run just then."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType, TracebackType

from ._errors import CrossrankError

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


@contextmanager
def thrown_through() -> Iterator[None]:
    """Let out as it is what was thrown into a block, where the block took it for the failure of what it did."""
    try:
        yield
    except CrossrankError as error:
        if error.__cause__ is not None and thrown_in(error.__cause__):
            raise error.__cause__ from error.__cause__.__cause__
        raise


def raised_by_handler(error: BaseException) -> bool:
    """Whether an exception that left a function of the user's came out of a signal handler, of those installed now."""
    if current_thread() is not main_thread():
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {getattr(handler, "__code__", None) for handler in handlers}
    return any(frame.f_code in codes for frame in _frames(error.__traceback__))


def _root(module: str) -> str:
    return module.partition(".")[0]


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next
