"""infinity's form, which lives on in clients: a document comes back as a string or null."""

from msgspec import Struct

from crossrank.serve._request import Answer, Rerank

from .common import Count, Usage, vllm_error
from .dialect import Dialect, best


class Body(Struct):
    """Its request."""

    query: str
    documents: list[str]
    model: str | None = None
    top_n: Count | None = None
    return_documents: bool | None = False
    raw_scores: bool | None = False


class Result(Struct):
    """A document's place."""

    relevance_score: float
    index: int
    document: str | None


class Reply(Struct):
    """Its answer."""

    object: str
    id: str
    created: int
    model: str
    results: list[Result]
    usage: Usage


def read(body: Body) -> Rerank:
    """Its request."""
    return Rerank(
        body.query,
        body.documents,
        model=body.model,
        top_n=best(body.top_n),
        originals=body.documents if body.return_documents else None,
        logits=bool(body.raw_scores),
    )


def write(request: Rerank, answer: Answer) -> Reply:
    """Its answer."""
    results = [Result(entry.score, entry.index, entry.document) for entry in answer.entries]
    usage = Usage(answer.tokens, answer.tokens)
    return Reply("rerank", answer.id, answer.created, answer.model, results, usage)


INFINITY = Dialect("infinity", Body, Reply, read, write, vllm_error)
