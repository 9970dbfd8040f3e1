"""Voyage's: ``top_k`` asks, and ``data`` answers."""

from msgspec import UNSET, Struct, UnsetType

from crossrank.serve._request import Answer, Rerank

from .common import Count, fastapi_error
from .dialect import Dialect, best


class Body(Struct):
    """Voyage's request."""

    query: str
    documents: list[str]
    model: str | None = None
    top_k: Count | None = None
    return_documents: bool | None = False
    truncation: bool | None = True


class Result(Struct):
    """A document's place."""

    index: int
    relevance_score: float
    document: str | UnsetType = UNSET


class Usage(Struct):
    """What was read."""

    total_tokens: int


class Reply(Struct):
    """Voyage's answer."""

    object: str
    data: list[Result]
    model: str
    usage: Usage


def read(body: Body) -> Rerank:
    """Voyage's request."""
    return Rerank(
        body.query,
        body.documents,
        model=body.model,
        top_n=best(body.top_k),
        originals=body.documents if body.return_documents else None,
        truncate=body.truncation is not False,
    )


def write(request: Rerank, answer: Answer) -> Reply:
    """Voyage's answer."""
    results = [
        Result(entry.index, entry.score, UNSET if entry.document is None else entry.document)
        for entry in answer.entries
    ]
    return Reply("list", results, answer.model, Usage(answer.tokens))


VOYAGE = Dialect("voyage", Body, Reply, read, write, fastapi_error)
