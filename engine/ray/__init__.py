"""crossrank.ray: Ray Data, Ray's actors and Ray Serve around the classes of crossrank.

>>> from crossrank.ray import rerank
>>> rerank(ray.data.read_parquet("candidates"), "ms-marco-MiniLM-L6-v2", top_k=10)  # doctest: +SKIP
"""

from typing import Any

from crossrank import MissingDependencyError

try:
    from ._data import actors, rerank
except ImportError as _error:
    if (_error.name or "").partition(".")[0] == "crossrank":
        raise
    raise MissingDependencyError(
        f"crossrank.ray needs {_error.name or _error}: pip install 'crossrank[ray]'"
    ) from _error


def deployment(model: str = "crossrank-mini-en", **options: Any) -> Any:
    """As `crossrank.ray._serve.deployment`, imported when it is called: Ray Serve takes seconds and further extras."""
    try:
        from ._serve import deployment
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "crossrank" and not isinstance(error, MissingDependencyError):
            raise
        raise MissingDependencyError(
            f"crossrank.ray.deployment needs {error.name or error}: pip install 'crossrank[ray,serve]'"
        ) from error
    return deployment(model, **options)


__all__ = ["actors", "deployment", "rerank"]
