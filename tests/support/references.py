"""What the tests compare with: packages that a Python or a machine may have no wheel of."""

import os
from importlib import import_module, metadata, util
from typing import Any

import pytest

# Skips a test that uses torch within what it calls.
needs_torch = pytest.mark.skipif(util.find_spec("torch") is None, reason="torch is not installed")
# What an export here is proven against.
PROVEN_BY = f"transformers {metadata.version('transformers')}" if util.find_spec("torch") else "numpy"


class _Absent:
    """Stands for a package, and for what a module makes of it while it is imported; its use in a test skips that."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> "_Absent":
        if "PYTEST_CURRENT_TEST" in os.environ:
            pytest.skip(f"the reference needs {self._name}, which is not installed")
        return self

    def __call__(self, *arguments: object, **options: object) -> "_Absent":
        return self.__getattr__("__call__")


def reference(name: str) -> Any:
    """The package, or where it is not installed, what skips the tests and fixtures that use it."""
    try:
        return import_module(name)
    except ImportError:
        return _Absent(name)


def auto_classifier() -> Any:
    """`transformers.AutoModelForSequenceClassification`; without torch, which it needs, what skips as above."""
    torch = reference("torch")
    return torch if isinstance(torch, _Absent) else reference("transformers").AutoModelForSequenceClassification
