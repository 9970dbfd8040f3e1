"""vLLM's scores of one text beside others, in the order given."""

from msgspec import Struct

from crossrank.serve._request import Answer, Problem, Rerank

from .common import Usage, vllm_error
from .dialect import Dialect

Texts = str | list[str]


class Body(Struct):
    """Its request; the two texts have several names."""

    model: str | None = None
    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None


class Result(Struct):
    """A pair's score."""

    index: int
    score: float
    object: str = "score"


class Reply(Struct):
    """Its answer."""

    id: str
    object: str
    created: int
    model: str
    data: list[Result]
    usage: Usage


def read(body: Body) -> Rerank:
    """Its request: one text on the left beside each on the right, or each beside its own."""
    left = next((texts for texts in (body.text_1, body.queries, body.data_1) if texts is not None), None)
    right = next((x for x in (body.text_2, body.documents, body.items, body.data_2) if x is not None), None)
    if left is None or right is None:
        raise Problem("invalid", "two texts are needed: text_1 and text_2, or queries and documents")
    documents = [right] if isinstance(right, str) else right
    query = left[0] if isinstance(left, list) and len(left) == 1 else left
    if isinstance(query, list) and len(query) != len(documents):
        raise Problem("invalid", f"{len(query)} texts beside {len(documents)}: one, or as many, are needed")
    return Rerank(query, documents, model=body.model)


def write(request: Rerank, answer: Answer) -> Reply:
    """Its answer, in the order of the request."""
    results = sorted((Result(entry.index, entry.score) for entry in answer.entries), key=lambda result: result.index)
    usage = Usage(answer.tokens, answer.tokens)
    return Reply(answer.id, "list", answer.created, answer.model, results, usage)


VLLM_SCORE = Dialect("vllm_score", Body, Reply, read, write, vllm_error)
