"""The other end of a `Process`'s pipe, and what its processes share.

The standard library only, and little of it: it runs in peers' environments, and its import is in the time of a start.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from .registry import Engine, reason_of


def answer(requests: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer requests, one a line, on what were standard input and output when the process started."""
    # Libraries print to standard output, also from C, and may read standard input: both get other files here.
    lines = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(sys.stderr.fileno(), 1)
    for line in lines:
        arguments = json.loads(line)
        try:
            reply = requests[arguments.pop("request")](**arguments)
        except Exception as error:
            reply = {"error": reason_of(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def describe(engine: Engine) -> dict[str, object]:
    """What an engine that is open says of itself, and the versions of its packages."""
    from importlib.metadata import version

    return {"facts": engine.facts(), "versions": {package: version(package) for package in engine.packages}}


def load_adapter(name: str) -> Any:
    """A module of ``adapters/``, or with a dot in its name any other."""
    return import_module(name if "." in name else f"benchmarks.engines.adapters.{name}")
