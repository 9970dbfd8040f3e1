"""Exceptions that are not ours: what a signal handler, or another thread, raises into the lines that run just then."""

import signal
from collections.abc import Iterator
from threading import current_thread, main_thread
from types import FrameType, TracebackType


def raised_by(package: str, error: BaseException) -> bool:
    """Whether an exception that left a call of a compiled package is that package's, and not what interrupted it.

    Args:
        package: Its name.
        error: As it was caught beside the call.
    """
    kind = _root(type(error).__module__)
    if kind != "builtins":  # which C++ exceptions become without a kind of their own
        return kind == package
    # A signal handler runs in the main thread, and its frames are in the traceback, behind those that it interrupted.
    behind = error.__traceback__.tb_next if error.__traceback__ else None
    return current_thread() is not main_thread() or all(
        _root(frame.f_globals.get("__name__", "")) in (package, "crossrank") for frame in _frames(behind)
    )


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
