"""The object that readers of Cohere v1, Jina, vLLM, LocalAI, Xinference, llama.cpp, OVMS and Ollama's form all accept.

Its error is one too: Cohere's ``message``, Jina's ``detail`` and vLLM's ``error`` beside each other.
"""

import math
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from crossrank.serve._request import Answer, Entry, Problem, Rerank

from .dialect import Dialect, best, text_of

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Text = str | dict[str, Any]
SEARCH_UNIT = 100  # documents


class Body(Struct):
    """A request of any of them."""

    query: str
    documents: list[Text]
    model: str | None = None
    top_n: Count | None = None
    return_documents: bool | None = False
    rank_fields: list[str] | None = None
    max_chunks_per_doc: Positive | None = None
    max_tokens_per_doc: Count | None = None
    truncation: bool | None = None
    truncate_prompt_tokens: int | None = None
    instruction: str | None = None
    normalize: bool | UnsetType | None = UNSET
    softmax: bool | UnsetType | None = UNSET


class Document(Struct):
    """A document that was asked for."""

    text: str


class Result(Struct):
    """A document's place."""

    index: int
    relevance_score: float
    document: dict[str, Any] | UnsetType = UNSET


class Units(Struct):
    """What Cohere would count."""

    search_units: int


class Version(Struct):
    """Of Cohere's form."""

    version: str = "1"


class Notes(Struct):
    """What there is to know of an answer beside its results."""

    api_version: Any
    billed_units: Units
    warnings: list[str]
    truncated: list[int]


class Usage(Struct):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class Reply(Struct):
    """An answer for all of them."""

    id: str
    object: str
    model: str
    results: list[Result]
    meta: Notes
    usage: Usage


class Fault(Struct):
    """vLLM's."""

    message: str
    type: str
    code: int
    param: None = None


class Failure(Struct):
    """A problem for all of them."""

    id: str
    message: str
    detail: str
    error: Fault


class VllmFailure(Struct):
    """A problem for clients of vLLM, infinity and SGLang."""

    error: Fault


class FastapiFailure(Struct):
    """A problem for clients of Voyage and rag_api."""

    detail: str


def read(body: Body) -> Rerank:
    """A request of any of them."""
    for name in ("normalize", "softmax"):
        if getattr(body, name) is not UNSET:
            raise Problem("invalid", f"{name} is no option here: scores are probabilities")
    if body.truncate_prompt_tokens not in (None, -1):
        raise Problem(
            "invalid",
            f"truncate_prompt_tokens={body.truncate_prompt_tokens}: pairs are cut at the model's length; "
            "max_tokens_per_doc cuts documents",
        )
    fields = body.rank_fields or ["text"]
    return Rerank(
        body.query,
        [text_of(document, fields) for document in body.documents],
        model=body.model,
        top_n=best(body.top_n),
        originals=body.documents if body.return_documents else None,
        truncate=body.truncation is not False,
        max_chunks=body.max_chunks_per_doc,
        max_tokens=body.max_tokens_per_doc or None,
        unused=("instruction: the model takes none",) if body.instruction else (),
    )


def notes(answer: Answer, version: Any) -> Notes:
    """What there is to know of an answer."""
    units = Units(math.ceil(answer.documents / SEARCH_UNIT))
    return Notes(version, units, list(answer.warnings), list(answer.truncated))


def write(request: Rerank, answer: Answer) -> Reply:
    """An answer for all of them."""
    usage = Usage(answer.tokens, answer.tokens)
    results = [_result(entry) for entry in answer.entries]
    return Reply(answer.id, "list", answer.model, results, notes(answer, Version()), usage)


def _result(entry: Entry) -> Result:
    if entry.document is None:
        return Result(entry.index, entry.score)
    document = {"text": entry.document} if isinstance(entry.document, str) else entry.document
    return Result(entry.index, entry.score, document)


def error(problem: Problem) -> tuple[int, Failure]:
    """A problem for all of them."""
    status, text = problem.status, problem.message
    return status, Failure(problem.id, text, text, Fault(text, problem.kind, status))


def vllm_error(problem: Problem) -> tuple[int, VllmFailure]:
    """A problem for clients of vLLM, infinity and SGLang."""
    return problem.status, VllmFailure(Fault(problem.message, problem.kind, problem.status))


def fastapi_error(problem: Problem) -> tuple[int, FastapiFailure]:
    """A problem for clients of Voyage and rag_api."""
    return problem.status, FastapiFailure(problem.message)


COMMON = Dialect("common", Body, Reply, read, write, error)
