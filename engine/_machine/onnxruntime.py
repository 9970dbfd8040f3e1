"""onnxruntime, imported when it is first used, with a clear word when none or two of its packages are there.

onnxruntime and onnxruntime-gpu install the same import name, so crossrank can require neither: an
extra brings one. With two of them installed, their files overwrite each other and what loads is luck.
"""

import os
import sys
from collections.abc import Iterable
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

from crossrank._errors import MissingDependencyError

__all__ = ["INSTALL_HINT", "check_runtime", "has_provider", "installed_runtimes", "ort", "require_runtime"]

# Distributions that own the import name `onnxruntime`.
_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
)

INSTALL_HINT = (
    "pip install 'crossrank[cpu]' for CPUs, 'crossrank[cuda13]' or 'crossrank[cuda12]' for NVIDIA GPUs, "
    "'crossrank[volta]' for V100"
)


def installed_runtimes() -> list[str]:
    """The installed distributions whose files the import name ``onnxruntime`` stands for.

    One in another folder of the path, as of a virtual environment over a system's packages, is hidden and not counted.
    """
    place = _place()
    if place is None:
        return []
    # Not by importlib.metadata, whose import takes 15 ms.
    found = [path.name for path in place.parent.glob("onnxruntime*.dist-info")]
    return [name for name in _DISTRIBUTIONS if any(f.startswith(f"{name.replace('-', '_')}-") for f in found)]


def check_runtime(distributions: Iterable[str], *, importable: bool) -> None:
    """Raise unless exactly one onnxruntime is there.

    Args:
        distributions: Names as `installed_runtimes` gives them.
        importable: Whether ``import onnxruntime`` would find something. A build of one's own
            may be importable and belong to no known distribution; it is accepted.

    Raises:
        MissingDependencyError: With none, or with more than one; the message holds the command.
    """
    names = list(distributions)
    if len(names) > 1:
        raise MissingDependencyError(
            f"{' and '.join(names)} are both installed and overwrite each other's files: "
            f"pip uninstall -y {' '.join(names)}, then one of: {INSTALL_HINT}"
        )
    if not importable:
        raise MissingDependencyError(f"crossrank needs one onnxruntime: {INSTALL_HINT}")


def _place() -> Path | None:
    """The folder that ``import onnxruntime`` would load, or None."""
    spec = util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:  # None: the empty folder that uninstalling can leave behind
        return None
    return Path(spec.origin).resolve().parent


def _import_onnxruntime() -> ModuleType:
    """Import onnxruntime without its telemetry.

    Its builds since 1.29 start a thread at import that reports to a collector, which no embedding service asked
    for, and which makes every forked child hang at its exit. The variable is read at import and then put back.
    """
    name = "ORT_DISABLE_TELEMETRY"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise MissingDependencyError(
            f"onnxruntime is installed and cannot be imported ({error}): pip install --force-reinstall onnxruntime, or "
            f"another one of: {INSTALL_HINT}"
        ) from error
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _OnFirstUse:
    """What stands for onnxruntime: its import takes 50 ms, which who does without it does not pay.

    Where it is not there `import crossrank` works, and what needs it says what is missing.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get("onnxruntime") is None:
            require_runtime()
        return getattr(_import_onnxruntime(), name)


ort: Any = _OnFirstUse()


def require_runtime() -> None:
    """Raise `MissingDependencyError` where there is no onnxruntime to import, or two."""
    check_runtime(installed_runtimes(), importable=_place() is not None)


def has_provider(provider: str) -> bool:
    """Whether onnxruntime was built with a provider of its own library; told by its files until it is imported."""
    place = _place()
    if sys.modules.get("onnxruntime") is None and place is not None:
        name = provider.removesuffix("ExecutionProvider").lower()
        if not any((place / "capi").glob(f"*providers_{name}*")):
            return False
    return provider in ort.get_available_providers()
