"""SGLang's: ``instruct`` tells it, and a bare array answers."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from crossrank.serve._request import Answer, Rerank

from .common import Count, vllm_error
from .dialect import Dialect, best


class Body(Struct):
    """Its request."""

    query: str
    documents: list[str]
    instruct: str | None = None
    model: str | None = None
    top_n: Count | None = None
    return_documents: bool | None = True


class Result(Struct):
    """A document's place."""

    score: float
    index: int
    meta_info: dict[str, Any]
    document: str | UnsetType = UNSET


def read(body: Body) -> Rerank:
    """Its request."""
    return Rerank(
        body.query,
        body.documents,
        model=body.model,
        top_n=best(body.top_n),
        originals=body.documents if body.return_documents else None,
        unused=("instruct: the model takes none",) if body.instruct else (),
    )


def write(request: Rerank, answer: Answer) -> list[Result]:
    """Its answer; what the client should know stands with the first document."""
    told = {"id": answer.id, "warnings": list(answer.warnings)}
    return [
        Result(entry.score, entry.index, {} if place else told, UNSET if entry.document is None else entry.document)
        for place, entry in enumerate(answer.entries)
    ]


SGLANG = Dialect("sglang", Body, list[Result], read, write, vllm_error)
