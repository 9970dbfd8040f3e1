"""Text of others as a terminal may get it: what would steer the terminal is shown, and not obeyed."""

import re

# Control characters but for tabs and line feeds, and what reverses the order of letters.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    r"""Text with an escape sequence, as Python writes it, in the place of each character that steers a terminal.

    >>> print(printable("a name\x1b[2J of\ntwo lines"))
    a name\x1b[2J of
    two lines
    """
    return _STEERING.sub(lambda found: repr(found[0])[1:-1], str(text))


def printable_line(text: object) -> str:
    r"""The same in one line, so that no value passes for the next one.

    >>> print(printable_line("a name\nparity  proven"))
    a name\nparity  proven
    """
    return printable(text).replace("\n", r"\n")


def printable_json(text: str) -> str:
    r"""JSON with the escape sequences of JSON, which mean the same characters.

    >>> print(printable_json('["\x9b2J"]'))
    ["\u009b2J"]
    """
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
