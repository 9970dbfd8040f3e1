"""Cohere's second version: documents are texts and never come back; sentences that carry the score may."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from crossrank.serve._request import Answer, Entry, Problem, Rerank, Spans

from .common import Count, Notes, Positive, notes
from .dialect import Dialect, best


class RelevantSpans(Struct):
    """Which sentences to tell."""

    mode: Literal["enabled", "disabled"] = "enabled"
    threshold: Annotated[float, Meta(ge=0, le=1)] | None = 0.1
    max_spans: Positive | None = None


class Body(Struct):
    """Cohere's request."""

    query: str
    documents: list[str]
    model: str | None = None
    top_n: Count | None = None
    max_tokens_per_doc: Positive | None = None
    relevant_spans: RelevantSpans | None = None


class Part(Struct):
    """A sentence, in code points."""

    start: int
    end: int
    score: float


class Result(Struct):
    """A document's place."""

    index: int
    relevance_score: float
    relevant_spans: list[Part] | UnsetType = UNSET


class Version(Struct):
    """Of the form."""

    version: str = "2"
    is_deprecated: bool = False
    is_experimental: bool = False


class Reply(Struct):
    """Cohere's answer."""

    id: str
    results: list[Result]
    meta: Notes


class Failure(Struct):
    """Cohere's problem."""

    id: str
    message: str


def read(body: Body) -> Rerank:
    """Cohere's request."""
    wanted, spans = body.relevant_spans, None
    if wanted is not None and wanted.mode == "enabled":
        spans = Spans(0.1 if wanted.threshold is None else wanted.threshold, wanted.max_spans)
    return Rerank(
        body.query,
        body.documents,
        model=body.model,
        top_n=best(body.top_n),
        max_tokens=body.max_tokens_per_doc,
        spans=spans,
    )


def write(request: Rerank, answer: Answer) -> Reply:
    """Cohere's answer."""
    return Reply(answer.id, [_result(entry) for entry in answer.entries], notes(answer, Version()))


def _result(entry: Entry) -> Result:
    if entry.spans is None:
        return Result(entry.index, entry.score)
    return Result(entry.index, entry.score, [Part(span.start, span.end, span.score) for span in entry.spans])


def error(problem: Problem) -> tuple[int, Failure]:
    """Cohere's problem."""
    return problem.status, Failure(problem.id, problem.message)


COHERE_V2 = Dialect("cohere_v2", Body, Reply, read, write, error)
