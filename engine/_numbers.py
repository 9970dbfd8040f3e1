"""Whole numbers as callers pass them: Python's, numpy's, and whatever else counts as one."""

import operator
from typing import Any

from ._errors import InputError


def as_whole(value: Any) -> int | None:
    """The int of anything with ``__index__``, such as a numpy integer; None for a bool and what is no whole number.

    >>> as_whole(True), as_whole(2.0), as_whole(3)
    (None, None, 3)
    """
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_number(name: str, value: Any, least: int, allowed: str) -> int:
    """An option's value as an int.

    Args:
        name: The option's, for the message.
        value: As `as_whole` takes it.
        least: The smallest that is allowed.
        allowed: What is, for the message.

    Raises:
        InputError: If it is no such number.
    """
    number = as_whole(value)
    if number is None or number < least:
        raise InputError(f"{name}={value!r:.60}: {allowed}")
    return number
