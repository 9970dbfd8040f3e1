"""What callers pass to `CrossEncoder`, brought into one form. Bad input is named, with its index."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._encoded import EncodedDocument, EncodedDocuments
from ._errors import InputError


@dataclass(frozen=True, slots=True)
class PairInputs:
    """Pairs with each distinct query once.

    Attributes:
        queries: The distinct queries.
        documents: One per pair, texts or encoded.
        query_index: int [pairs], the query of each pair.
        single: Whether the caller passed one pair and not a list of them.
    """

    queries: Sequence[str]
    documents: Sequence[str | EncodedDocument] | EncodedDocuments
    query_index: NDArray[np.intp]
    single: bool


def check_documents(documents: Iterable[Any]) -> None:
    """Raise `InputError` if one string, a mapping, a set or nothing like a list was passed for a list of documents."""
    if isinstance(documents, str | bytes):
        raise InputError(f"documents is one {type(documents).__name__}; pass a list: [{documents!r:.60}]")
    if isinstance(documents, Mapping | Set):
        raise InputError(
            f"documents is a {type(documents).__name__}; results count documents in their order: pass a list"
        )
    try:
        iter(documents)
    except TypeError as error:
        raise InputError(f"documents is {documents!r:.60}: a list of strings is needed") from error


def one_query(query: str, documents: Iterable[str | EncodedDocument]) -> PairInputs:
    """One query with each of its documents.

    Raises:
        InputError: If `check_documents` refuses them.
    """
    check_documents(documents)
    read = documents if isinstance(documents, list | tuple | EncodedDocuments) else list(documents)
    return PairInputs([query], read, np.zeros(len(read), np.intp), single=False)


def split_pairs(inputs: Sequence[Any]) -> PairInputs:
    """Read one pair or many, lists, tuples or a numpy array of strings, as sentence-transformers does.

    Raises:
        InputError: If something is no pair of two texts; the message gives its index.
    """
    if isinstance(inputs, str | bytes) or not hasattr(inputs, "__len__"):
        raise InputError(f"inputs is {type(inputs).__name__}: a pair (query, document) or a list of pairs is needed")
    items: list[Any] = inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)
    single = len(items) > 0 and not isinstance(items[0], list | tuple | np.ndarray)
    index: dict[str, int] = {}
    documents, query_index = [], []
    for i, pair in enumerate([items] if single else items):
        if isinstance(pair, str | bytes) or not hasattr(pair, "__len__") or len(pair) != 2:
            raise InputError(f"pair {i} is {pair!r:.80}: two texts (query, document) are needed")
        query, document = pair
        for name, text, kinds in (("query", query, str), ("document", document, str | EncodedDocument)):
            if not isinstance(text, kinds):
                raise InputError(f"the {name} of pair {i} is {type(text).__name__}, not str: {text!r:.80}")
        query_index.append(index.setdefault(query, len(index)))
        documents.append(document)
    return PairInputs(list(index), documents, np.array(query_index, np.intp), single)


def either(name: str, value: Any, alias: str, alias_value: Any) -> Any:
    """The value of an option that also has an older name.

    Raises:
        InputError: If both were passed.
    """
    if value is not None and alias_value is not None:
        raise InputError(f"{alias} is the older name of {name}: pass one of them")
    return value if value is not None else alias_value
