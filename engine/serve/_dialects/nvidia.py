"""NVIDIA NIM's: passages as objects, logits as scores."""

from typing import Literal

from msgspec import Struct

from crossrank.serve._request import Answer, Problem, Rerank

from .common import Usage
from .dialect import Dialect


class Text(Struct):
    """A query or a passage."""

    text: str


class Body(Struct):
    """Its request."""

    query: Text
    passages: list[Text]
    model: str | None = None
    truncate: Literal["NONE", "END"] | None = None


class Result(Struct):
    """A passage's place."""

    index: int
    logit: float


class Reply(Struct):
    """Its answer."""

    rankings: list[Result]
    usage: Usage


class Failure(Struct):
    """Its problem."""

    error: str
    detail: str


def read(body: Body) -> Rerank:
    """Its request."""
    return Rerank(
        body.query.text,
        [passage.text for passage in body.passages],
        model=body.model,
        logits=True,
        truncate=body.truncate != "NONE",
    )


def write(request: Rerank, answer: Answer) -> Reply:
    """Its answer."""
    results = [Result(entry.index, entry.score) for entry in answer.entries]
    return Reply(results, Usage(answer.tokens, answer.tokens))


def error(problem: Problem) -> tuple[int, Failure]:
    """Its problem."""
    return problem.status, Failure(problem.message, problem.message)


NVIDIA = Dialect("nvidia", Body, Reply, read, write, error)
