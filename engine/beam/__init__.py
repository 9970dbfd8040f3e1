"""crossrank.beam: a model handler for Beam's RunInference.

>>> from crossrank.beam import RerankModelHandler
>>> queries | RunInference(RerankModelHandler("ms-marco-MiniLM-L6-v2", threads=1))  # doctest: +SKIP
"""

from crossrank import MissingDependencyError

try:
    from ._handler import RerankModelHandler
except ImportError as _error:
    if (_error.name or "").partition(".")[0] == "crossrank":
        raise
    raise MissingDependencyError(
        f"crossrank.beam needs {_error.name or _error}: pip install 'crossrank[beam]'"
    ) from _error

__all__ = ["RerankModelHandler"]
