"""The form of Elasticsearch's inference: ``input`` asks, and ``rerank`` answers."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from crossrank.serve._request import Answer, Problem, Rerank

from .common import Count
from .dialect import Dialect, best


class Body(Struct):
    """Its request."""

    query: str
    input: list[str] | str
    top_n: Count | None = None
    return_documents: bool | None = False
    task_settings: dict[str, Any] | None = None


class Result(Struct):
    """A document's place."""

    index: int
    relevance_score: float
    text: str | UnsetType = UNSET


class Reply(Struct):
    """Its answer."""

    rerank: list[Result]


class Reason(Struct):
    """What went wrong."""

    type: str
    reason: str


class Failure(Struct):
    """Its problem."""

    error: Reason
    status: int


def read(body: Body) -> Rerank:
    """Its request; ``task_settings`` may hold the two options too."""
    documents = [body.input] if isinstance(body.input, str) else body.input
    settings = body.task_settings or {}
    top_n = settings.get("top_n") if body.top_n is None else body.top_n
    if top_n is not None and (type(top_n) is not int or top_n < 0):
        raise Problem("invalid", "task_settings.top_n: how many documents to answer with, 0 or more")
    wanted = body.return_documents or settings.get("return_documents") is True
    return Rerank(body.query, documents, top_n=best(top_n), originals=documents if wanted else None)


def write(request: Rerank, answer: Answer) -> Reply:
    """Its answer."""
    return Reply(
        [
            Result(entry.index, entry.score, UNSET if entry.document is None else entry.document)
            for entry in answer.entries
        ]
    )


def error(problem: Problem) -> tuple[int, Failure]:
    """Its problem."""
    return problem.status, Failure(Reason(f"{problem.kind}_exception", problem.message), problem.status)


def headers(answer: Answer) -> dict[str, str]:
    """What its own client looks for before it believes an answer."""
    return {"X-Elastic-Product": "Elasticsearch"}


ELASTICSEARCH = Dialect("elasticsearch", Body, Reply, read, write, error, headers)
