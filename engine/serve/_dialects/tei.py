"""The form of text-embeddings-inference: ``texts`` ask, and a bare array answers, best first."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from crossrank.serve._request import Answer, Kind, Problem, Rerank

from .dialect import Dialect


class Body(Struct):
    """Its request."""

    query: str
    texts: list[str]
    truncate: bool | None = None
    truncation_direction: Literal["Right", "right", "Left", "left"] | None = "Right"
    raw_scores: bool | None = False
    return_text: bool | None = False


class Result(Struct):
    """A document's place."""

    index: int
    score: float
    text: str | UnsetType = UNSET


class Failure(Struct):
    """Its problem."""

    error: str
    error_type: str


_TYPES: dict[Kind, tuple[int, str]] = {
    "empty": (400, "Empty"),
    "too_large": (413, "Validation"),
    "overloaded": (429, "Overloaded"),
    "unhealthy": (503, "Unhealthy"),
    "backend": (424, "Backend"),
}


def read(body: Body) -> Rerank:
    """Its request."""
    if body.truncation_direction in ("Left", "left"):
        raise Problem("invalid", 'truncation_direction="Left": documents are cut at their end only, "Right"')
    return Rerank(
        body.query,
        body.texts,
        originals=body.texts if body.return_text else None,
        logits=bool(body.raw_scores),
        truncate=body.truncate is not False,
    )


def write(request: Rerank, answer: Answer) -> list[Result]:
    """Its answer.

    Raises:
        Problem: If the model gave NaN for a document, as there.
    """
    if answer.failed:
        raise Problem("backend", f"the model gives NaN for the text {answer.failed[0]}")
    return [
        Result(entry.index, entry.score, UNSET if entry.document is None else entry.document)
        for entry in answer.entries
    ]


def error(problem: Problem) -> tuple[int, Failure]:
    """Its problem."""
    status, name = _TYPES.get(problem.kind, (problem.status, "Validation"))
    return status, Failure(problem.message, name)


def headers(answer: Answer) -> dict[str, str]:
    """What its clients may look at."""
    took_ms = str(round(answer.seconds * 1000))
    return {
        "x-compute-time": took_ms,
        "x-total-time": took_ms,
        "x-compute-characters": str(answer.characters),
        "x-compute-tokens": str(answer.tokens),
    }


TEI = Dialect("tei", Body, list[Result], read, write, error, headers)
