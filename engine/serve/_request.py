"""The request and the answer that travel between a dialect and a model, and the problem that stands for an answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import Struct

from crossrank import InputError

Kind = Literal[
    "invalid",  # the body says something that cannot be done
    "empty",  # no documents
    "malformed",  # no JSON
    "unauthorized",
    "no_model",
    "no_path",
    "no_method",
    "too_large",
    "overloaded",
    "unhealthy",  # closing, or not ready
    "backend",  # the model failed
    "timeout",  # the body did not come
]
STATUS: Mapping[Kind, int] = {
    "invalid": 422,
    "empty": 400,
    "malformed": 400,
    "unauthorized": 401,
    "no_model": 404,
    "no_path": 404,
    "no_method": 405,
    "too_large": 413,
    "overloaded": 429,
    "unhealthy": 503,
    "backend": 500,
    "timeout": 408,
}
# Of a document without a score in forms that hold logits: its sigmoid is 0 in float32, and JSON can hold it.
NO_LOGIT = -1000.0


class Problem(Exception):
    """Why a request is not answered, before a dialect gives it a form.

    Args:
        kind: What sort of problem.
        message: For the client. It may repeat parts of what the client has sent, so it is not for logs.
        retry_after_s: When to try again, or None.

    Attributes:
        id: The request's.
    """

    id = ""

    def __init__(self, kind: Kind, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status of most dialects."""
        return STATUS[self.kind]


def check_budget(budget_ms: float, error: Callable[[str], Exception]) -> float:
    """A number of milliseconds, or what ``error`` makes of the reason why it is none."""
    if not 0 < budget_ms <= 1_000_000_000:  # NaN is not, either
        raise error(f"a budget of {budget_ms:g} ms: milliseconds, a number above 0 and up to 1,000,000,000")
    return float(budget_ms)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for.

    Attributes:
        body_bytes: Of its body.
        documents: How many.
        tokens: Of all its pairs, the query in each, as far as the model reads them. Of a request with a budget of up
            to 10 s its time is the bound.
        body_seconds: Until its body is there.

    Raises:
        InputError: If one is not above 0.
    """

    body_bytes: int = 16_777_216
    documents: int = 10_000
    tokens: int = 1_000_000
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("body_bytes", "documents", "tokens", "body_seconds"):
            if not getattr(self, name) > 0:  # NaN is not, either
                raise InputError(f"Limits({name}={getattr(self, name)}): a number above 0 is needed")


@dataclass(frozen=True, slots=True)
class Spans:
    """Which sentences of a document to tell.

    Attributes:
        threshold: The least score.
        most: How many of a document, or None for all.
    """

    threshold: float = 0.1
    most: int | None = None


class Rerank(Struct, frozen=True):
    """One query and its documents, whatever dialect they came in.

    Attributes:
        query: The query, or each document's own.
        documents: The texts that are scored.
        model: The name that the client gave, or None.
        top_n: How many of the best to answer with, None for all.
        originals: What the answer gives back as documents, None for nothing.
        logits: Whether scores are logits, else they are probabilities.
        truncate: False makes a document that is too long an error.
        max_chunks: In how many parts a long document is read at most, None for the server's default.
        max_tokens: How many tokens of a document are read at most, None for as many as its parts hold.
        spans: Which sentences to tell, or None.
        unused: What the client asked for and does not get, a sentence each.
    """

    query: str | Sequence[str]
    documents: Sequence[str]
    model: str | None = None
    top_n: int | None = None
    originals: Sequence[Any] | None = None
    logits: bool = False
    truncate: bool = True
    max_chunks: int | None = None
    max_tokens: int | None = None
    spans: Spans | None = None
    unused: tuple[str, ...] = ()


class Span(Struct, frozen=True):
    """A sentence of a document with its score, ``text[start:end]`` in code points."""

    start: int
    end: int
    score: float


class Entry(Struct, frozen=True):
    """One document of an answer.

    Attributes:
        index: Where it stood in the request.
        score: A probability or a logit; 0 or `NO_LOGIT` for one that has none.
        document: What the request gave, if it asked for it.
        spans: The sentences that it asked for, in the document's order, or None.
    """

    index: int
    score: float
    document: Any = None
    spans: Sequence[Span] | None = None


class Answer(Struct, frozen=True):
    """What a model found.

    Attributes:
        id: The request's id.
        model: The name that the model is served under.
        created: Seconds since 1970.
        entries: Best first, as many as were asked for.
        documents: How many the request had.
        scored: How many of them have a score.
        failed: The indices of those for which the model gave NaN, rising.
        complete: Whether the time sufficed for all.
        truncated: The indices of those that were not read to their end, rising.
        tokens: Tokens of pairs that were computed.
        characters: Of the query and the documents, in code points.
        seconds: From the request's arrival to the ranking.
        warnings: What the client should know, a sentence each.
    """

    id: str
    model: str
    created: int
    entries: Sequence[Entry]
    documents: int
    scored: int
    failed: Sequence[int] = ()
    complete: bool = True
    truncated: Sequence[int] = ()
    tokens: int = 0
    characters: int = 0
    seconds: float = 0.0
    warnings: Sequence[str] = ()
