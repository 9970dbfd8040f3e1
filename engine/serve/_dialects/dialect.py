"""A dialect: one way in which clients ask for a ranking, as two pure functions and a form for problems."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from crossrank.serve._request import Answer, Problem, Rerank

B = TypeVar("B", bound=msgspec.Struct)


@dataclass(frozen=True)
class Dialect(Generic[B]):
    """How one kind of client speaks.

    Attributes:
        name: For metrics and logs.
        body: What its requests hold; other keys are ignored.
        reply: What its answers hold.
        read: A body -> the request.
        write: A request and its answer -> the body of the response.
        error: A problem -> HTTP status and the body of the response.
        headers: Of an answer, beside those of all dialects.
    """

    name: str
    body: type[B]
    reply: Any
    read: Callable[[B], Rerank]
    write: Callable[[Rerank, Answer], Any]
    error: Callable[[Problem], tuple[int, Any]]
    headers: Callable[[Answer], dict[str, str]] = lambda answer: {}
    decoder: msgspec.json.Decoder[B] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Not strict: there are clients that send the string "true".
        object.__setattr__(self, "decoder", msgspec.json.Decoder(self.body, strict=False))

    def decode(self, body: bytes) -> Rerank:
        """The request that a body holds.

        Raises:
            Problem: If it is none of this dialect.
        """
        try:
            return self.read(self.decoder.decode(body))
        except msgspec.ValidationError as error:
            raise Problem("invalid", str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Problem("malformed", f"the body is no JSON: {error}") from None


def best(top_n: int | None) -> int | None:
    """How many documents to answer with: 0 means all, as clients of vLLM send it."""
    return top_n or None


def text_of(document: str | dict[str, Any], fields: Sequence[str] = ("text",)) -> str:
    r"""The text that is scored of a document: itself, or what an object holds in these fields.

    Args:
        document: A text, or an object with a text, or with parts of a content of which each is a text.
        fields: Which values count; of several each becomes a line ``field: value``.

    Raises:
        Problem: If an object has none of them, or one of another kind.

    >>> text_of({"title": "Berlin", "text": "A city."}, ["title", "text"])
    'title: Berlin\ntext: A city.'
    """
    if isinstance(document, str):
        return document
    if "content" in document and "text" not in document:
        return _text_of_parts(document["content"])
    values = [(name, document[name]) for name in fields if name in document]
    for name, value in values:
        if not isinstance(value, str | int | float):
            raise Problem("invalid", f"a document's {name!r:.60} is a {type(value).__name__}: a text is needed")
    if not values:
        raise Problem("invalid", f"a document has none of the fields {', '.join(fields):.200}")
    if len(values) == 1:
        return str(values[0][1])
    return "\n".join(f"{name}: {value}" for name, value in values)


def _text_of_parts(content: Any) -> str:
    texts = []
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            raise Problem("invalid", "a document's content has a part that is no text: images cannot be scored here")
        texts.append(text)
    return "\n".join(texts)
