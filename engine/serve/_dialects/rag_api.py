"""The form that LibreChat's rag_api sends: candidates with ids."""

from typing import Any

from msgspec import Struct

from crossrank.serve._request import Answer, Rerank

from .common import Count, fastapi_error
from .dialect import Dialect, best


class Candidate(Struct):
    """A document."""

    text: str
    id: Any = None


class Body(Struct):
    """Its request."""

    query: str
    candidates: list[Candidate]
    model: str | None = None
    top_n: Count | None = None


class Result(Struct):
    """A candidate's place."""

    index: int
    score: float


class Reply(Struct):
    """Its answer."""

    model: str
    results: list[Result]


def read(body: Body) -> Rerank:
    """Its request."""
    documents = [candidate.text for candidate in body.candidates]
    return Rerank(body.query, documents, model=body.model, top_n=best(body.top_n))


def write(request: Rerank, answer: Answer) -> Reply:
    """Its answer."""
    return Reply(answer.model, [Result(entry.index, entry.score) for entry in answer.entries])


RAG_API = Dialect("rag_api", Body, Reply, read, write, fastapi_error)
