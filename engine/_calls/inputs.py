"""Readers of what callers pass as documents and pairs: lists, tables and arrays. Bad input is named."""

import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from crossrank._errors import InputError
from crossrank._interrupts import not_thrown_in
from crossrank._text.encoded import EncodedDocument, EncodedDocuments


def read_documents(documents: Iterable[Any]) -> Iterable[Any]:
    """What is to be read one by one for a list of documents: an array-like's values, else what was passed.

    Args:
        documents: Any iterable of documents in an order; a Series, a column of Arrow or the like counts by its values.

    Raises:
        InputError: If it is one text, has no order, or is a table or nothing like a list.
    """
    if isinstance(documents, list | tuple | EncodedDocuments):
        return documents
    kind = type(documents).__name__
    if isinstance(documents, str | bytes):
        raise InputError(f"documents is one {kind}; pass a list: [{documents!r:.60}]")
    if isinstance(documents, Mapping | Set):
        raise InputError(f"documents is a {kind}; results count documents in their order: pass a list")
    values = _values(documents)
    if values is not None:
        if values.ndim != 1:
            raise InputError(f"documents is a {kind} of shape {values.shape}: pass one column of it")
        return cast("list[Any]", values.tolist())
    try:
        iter(documents)
    except TypeError as error:
        raise InputError(f"documents is {documents!r:.60}: a list of strings is needed") from error
    return documents


def split_pairs(inputs: Any) -> tuple[list[str], list[Any], list[int], bool]:
    """Read one pair or many.

    Args:
        inputs: A list, tuple or array of pairs, each a list, tuple or array of two texts; a table of two columns; or
            one pair.

    Returns:
        The distinct queries, one document per pair, the query of each, and whether it was one pair.

    Raises:
        InputError: If something is no pair of two texts; the message gives its index.
    """
    if isinstance(inputs, list | tuple):
        items: Sequence[Any] = inputs
    elif isinstance(inputs, str | bytes | Mapping | set | frozenset) or not hasattr(inputs, "__len__"):
        raise InputError(
            f"inputs is {type(inputs).__name__}: a pair (query, document) or a list of pairs is needed, as of "
            f"list(zip(queries, documents))"
        )
    else:
        values = _values(inputs)
        if values is not None and values.ndim != 1 and values.shape[1:] != (2,):
            raise InputError(
                f"inputs is a {type(inputs).__name__} of shape {values.shape}: two columns, of queries and of "
                f"documents, are needed"
            )
        items = list(inputs) if values is None else values.tolist()
    single = len(items) > 0 and isinstance(items[0], str | EncodedDocument)
    index: dict[str, int] = {}
    documents, query_index = [], []
    for i, pair in enumerate([items] if single else items):
        query, document = pair if isinstance(pair, list | tuple) and len(pair) == 2 else _read_pair(i, pair)
        if not isinstance(query, str):
            raise InputError(f"the query of pair {i} is {type(query).__name__}, not str: {query!r:.80}")
        if not isinstance(document, str | EncodedDocument):
            raise InputError(f"the document of pair {i} is {type(document).__name__}, not str: {document!r:.80}")
        query_index.append(index.setdefault(query, len(index)))
        documents.append(document)
    return list(index), documents, query_index, single


def _read_pair(i: int, pair: Any) -> Sequence[Any]:
    """What is no list or tuple of two as one, or `InputError`."""
    values = _values(pair)
    if values is not None and values.ndim == 1:
        pair = values.tolist()
    if not isinstance(pair, Sequence) or isinstance(pair, str | bytes) or len(pair) != 2:
        raise InputError(f"pair {i} is {pair!r:.80}: two texts (query, document) are needed")
    return pair


def _values(holder: Any) -> NDArray[Any] | None:
    """The values of what numpy can read: its own arrays, and what pandas, Polars, Arrow and others hold; else None.

    Iterating gives the names of a table's columns, and an Arrow array's scalars, which are no strings.

    Raises:
        InputError: If it is a table or an array that numpy cannot read.
    """
    if isinstance(holder, str | bytes):
        return None
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(holder, masked.MaskedArray) and masked.is_masked(holder):
        raise InputError(
            f"a masked array with {masked.count_masked(holder)} masked entries, which numpy reads as if they were not: "
            "pass compressed(), or filled('') to score them as empty texts"
        )
    if hasattr(holder, "__array__"):
        try:
            return np.asarray(holder, dtype=object)
        except not_thrown_in(Exception) as error:  # whatever its library raises, as for what lies on a GPU
            raise InputError(
                f"numpy cannot read the values of a {type(holder).__name__} ({error}): pass a list"
            ) from error
    if hasattr(holder, "columns"):
        raise InputError(f"a {type(holder).__name__} has columns, and numpy cannot read their values: pass a list")
    return None
