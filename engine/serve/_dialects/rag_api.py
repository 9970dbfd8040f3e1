"""The form that LibreChat's rag_api sends: candidates with ids."""

from typing import Any

from msgspec import Struct

from crossrank.serve._request import Answer, Problem, Rerank

from .common import Count
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


class Failure(Struct):
    """Its problem."""

    detail: str


def read(body: Body) -> Rerank:
    """Its request."""
    documents = [candidate.text for candidate in body.candidates]
    return Rerank(body.query, documents, model=body.model, top_n=best(body.top_n))


def write(request: Rerank, answer: Answer) -> Reply:
    """Its answer."""
    return Reply(answer.model, [Result(entry.index, entry.score) for entry in answer.entries])


def error(problem: Problem) -> tuple[int, Failure]:
    """Its problem."""
    return problem.status, Failure(problem.message)


RAG_API = Dialect("rag_api", Body, Reply, read, write, error)
