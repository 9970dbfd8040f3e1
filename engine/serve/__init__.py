"""crossrank.serve: one port that every rerank client already speaks, with a time budget on the wire.

Starlette routes, msgspec reads and writes bodies, uvicorn with httptools and uvloop listens: measured for a request of
10 documents with a model that does nothing, on two cores, the server's CPU time for one and the median that one client
sees (the best of three turns each, interleaved):

    Starlette, msgspec, uvicorn (httptools, uvloop)     37 µs     52 µs
    Starlette, pydantic, uvicorn (httptools, uvloop)    47 µs     63 µs
    Starlette, msgspec, uvicorn (httptools, asyncio)    50 µs     63 µs
    Litestar, msgspec, uvicorn (httptools, uvloop)      70 µs     75 µs
    FastAPI, pydantic, uvicorn (httptools, uvloop)     100 µs    119 µs
    Starlette, msgspec, granian (uvloop)               103 µs    105 µs
    Starlette, msgspec, uvicorn (h11, asyncio)         110 µs    126 µs

>>> from crossrank.serve import create_app
>>> app = create_app({"mini": "crossrank-mini-en"})  # doctest: +SKIP
"""

from crossrank import MissingDependencyError

try:
    from ._app import create_app
    from ._command import main
    from ._request import Limits
except ImportError as _error:
    if (_error.name or "").partition(".")[0] == "crossrank":
        raise
    raise MissingDependencyError(
        f"crossrank.serve needs {_error.name or _error}: pip install 'crossrank[serve]'"
    ) from _error

__all__ = ["Limits", "create_app", "main"]
