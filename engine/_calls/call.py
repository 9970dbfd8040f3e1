"""A call: what it wants computed, and what it makes of the logits, whoever computes those."""

import logging
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.activation import Activation, apply_activation, is_ours, order_key, softmax
from crossrank._device.batches import check_batch_size
from crossrank._errors import InputError
from crossrank._interrupts import thrown_in
from crossrank._machine.device import Device
from crossrank._options import switch
from crossrank._text.encoded import EncodedDocument, EncodedDocuments
from crossrank._text.windows import Windows, read_windows

from .answers import Found, Ranking, check_top_k, kept_texts, rank_found, to_tensor
from .compatibility import PREDICT, RANK, Own, PredictOptions, RankOptions, check_options, other_name
from .deadline import Deadline, Lateness
from .relevance import Meaning

logger = logging.getLogger(__name__)

T = TypeVar("T")
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PairInputs:
    """Pairs with each distinct query once.

    Attributes:
        queries: The distinct queries.
        documents: One per pair, texts or encoded.
        query_index: int [pairs], the query of each pair.
        encoded: Whether some of the documents are.
        single: Whether the caller passed one pair and not a list of them.
    """

    queries: Sequence[str]
    documents: Sequence[str | EncodedDocument] | EncodedDocuments
    query_index: NDArray[np.intp]
    encoded: bool
    single: bool = False


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call, checked.

    Attributes:
        pairs: What is to be scored.
        finish: Makes the result of what was found.
        batch_size: Most pairs of a batch, or None.
        show_progress_bar: Draw progress on standard error; None for on a terminal only.
        windows: How long documents are cut, or None for truncation.
        deadline: When it is to be answered, or None.
    """

    pairs: PairInputs
    finish: Callable[[Found], T]
    batch_size: int | None = None
    show_progress_bar: bool | None = False
    windows: Windows | None = None
    deadline: Deadline | None = None


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one model.

    Attributes:
        meaning: What its logits mean.
        model: Its name, for messages.
        device: Where it runs.
        lateness: Of its calls with a deadline.
        told: What was warned of once.
    """

    meaning: Meaning
    model: str
    device: Device
    lateness: Lateness = field(default_factory=Lateness)
    told: set[str] = field(default_factory=set)

    def score(self, query: str, documents: Iterable[str | EncodedDocument]) -> Call[Floats]:
        """As `CrossEncoder.score`."""
        self.meaning.require_relevance("score", self.model)

        def finish(found: Found) -> Floats:
            self._tell_of_truncated(found)
            scores = self.meaning.relevance(found.logits, self.meaning.of_relevance)
            if not is_ours(self.meaning.of_relevance):
                self._tell_if_alike(found, scores)
            return scores

        return Call(one_query(query, documents), finish)

    def score_any(self, query: str, documents: Sequence[str]) -> Call[Floats]:
        """The logits, float32 [pairs, labels], of any model."""
        return Call(one_query(query, documents), lambda found: found.logits)

    def rank(
        self,
        query: str,
        documents: Iterable[str | EncodedDocument],
        top_k: int | None,
        return_documents: bool,
        *,
        batch_size: int | None,
        show_progress_bar: bool | None,
        activation_fn: Activation | None,
        max_windows: int | None,
        window_overlap: int,
        deadline_ms: float | None,
        others: RankOptions,
    ) -> Call[Ranking]:
        """As `CrossEncoder.rank`."""
        # Time runs from here on.
        deadline = None if deadline_ms is None else Deadline(deadline_ms, self.lateness)
        if others:
            activation_fn = other_name("activation_fn", activation_fn, "activation_fct", others)
            check_options("CrossEncoder.rank", RANK, others, self._own())
        self.meaning.require_relevance("rank", self.model)
        most = None if top_k is None else check_top_k(top_k)
        if batch_size is not None:
            batch_size = check_batch_size(batch_size)
        windows = None
        if max_windows is not None or type(window_overlap) is not int or window_overlap:
            windows = read_windows(max_windows, window_overlap)
        pairs = one_query(query, documents, deadline)
        texts = kept_texts(pairs.documents) if switch("return_documents", return_documents) else None
        activation = self.meaning.chosen(activation_fn, self.meaning.of_relevance)

        def finish(found: Found) -> Ranking:
            key = order_key(activation, found.logits, self.meaning.label)
            scores = self.meaning.relevance(found.logits, activation)
            if key is None:
                self._tell_if_alike(found, scores)
            ranking = rank_found(found, scores, key, most, texts, deadline.reason if deadline else None)
            if deadline is not None:
                if deadline.unread:
                    ranking.complete, ranking.reason = False, deadline.unread
                deadline.answered()
            return ranking

        shown = switch("show_progress_bar", show_progress_bar)
        return Call(pairs, finish, batch_size, shown, windows, deadline)

    def predict(
        self,
        inputs: Collection[Any] | None,
        *,
        batch_size: int | None,
        show_progress_bar: bool | None,
        activation_fn: Activation | None,
        apply_softmax: bool | None,
        convert_to_numpy: bool,
        convert_to_tensor: bool,
        others: PredictOptions,
    ) -> Call[Any]:
        """As `CrossEncoder.predict`."""
        if others:
            inputs = other_name("inputs", inputs, "sentences", others)
            activation_fn = other_name("activation_fn", activation_fn, "activation_fct", others)
            check_options("CrossEncoder.predict", PREDICT, others, self._own())
        if inputs is None:
            raise InputError("predict needs inputs: a pair (query, document) or a list of pairs")
        batch_size = check_batch_size(batch_size)
        shown, apply_softmax = switch("show_progress_bar", show_progress_bar), switch("apply_softmax", apply_softmax)
        as_array = switch("convert_to_numpy", convert_to_numpy)
        as_tensor = switch("convert_to_tensor", convert_to_tensor)
        pairs = split_pairs(inputs)
        activation = self.meaning.chosen(activation_fn, self.meaning.activation)

        def finish(found: Found) -> Any:
            self._tell_of_truncated(found)
            scores = apply_activation(activation, found.logits)
            if self.meaning.head.labels == 1:
                scores = scores.reshape(-1)
            elif apply_softmax:
                scores = softmax(scores)
            result = scores[0] if pairs.single else scores
            if as_tensor:
                return to_tensor(result)
            return result if as_array or pairs.single else list(result)

        return Call(pairs, finish, batch_size, shown)

    def _own(self) -> Own:
        return Own(self.device, self.meaning.head.labels)

    def _tell_if_alike(self, found: Found, scores: Floats) -> None:
        """Log once that the caller's function makes all scores of a call the same."""
        if "alike" not in self.told and len(scores) > 1 and (scores == scores[0]).all():
            logits = found.logits[:, self.meaning.label]
            if (logits != logits[0]).any():
                logger.warning("activation_fn makes all %d scores %g, of logits that differ", len(scores), scores[0])
                self.told.add("alike")

    def _tell_of_truncated(self, found: Found) -> None:
        """Log that documents were truncated, where the result has no place for it: the first time as a warning."""
        if len(found.truncated):
            logger.log(
                logging.DEBUG if "truncated" in self.told else logging.WARNING,
                "%d of %d documents are longer than %s reads, first %d: rank(max_windows=…) scores long ones in parts",
                len(found.truncated),
                found.documents,
                self.model,
                found.truncated[0],
            )
            self.told.add("truncated")


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


def one_query(query: str, documents: Iterable[str | EncodedDocument], deadline: Deadline | None = None) -> PairInputs:
    """One query with each of its documents, as they are now, whatever becomes of the caller's list meanwhile.

    Args:
        query: The query.
        documents: Any iterable that `read_documents` takes.
        deadline: Bounds what is read of what computes its documents as they are read; None for all of it.

    Raises:
        InputError: If `read_documents` refuses them.
    """
    documents = read_documents(documents)
    if deadline is not None and type(documents) not in (list, tuple, EncodedDocuments):
        documents = deadline.read(documents)
    read = documents if isinstance(documents, tuple | EncodedDocuments) else list(documents)
    return PairInputs([query], read, np.zeros(len(read), np.intp), _are_encoded(read))


def split_pairs(inputs: Any) -> PairInputs:
    """Read one pair or many.

    Args:
        inputs: A list, tuple or array of pairs, each a list, tuple or array of two texts; a table of two columns; or
            one pair.

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
    return PairInputs(list(index), documents, np.array(query_index, np.intp), _are_encoded(documents), single)


def _are_encoded(documents: Sequence[Any] | EncodedDocuments) -> bool:
    """Whether some documents are encoded."""
    if isinstance(documents, EncodedDocuments):
        return True
    kinds = set(map(type, documents))
    return kinds != {str} and any(issubclass(kind, EncodedDocument) for kind in kinds)


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
        except Exception as error:  # whatever its library raises, as for what lies on a GPU
            if thrown_in(error):
                raise
            raise InputError(
                f"numpy cannot read the values of a {type(holder).__name__} ({error}): pass a list"
            ) from error
    if hasattr(holder, "columns"):
        raise InputError(f"a {type(holder).__name__} has columns, and numpy cannot read their values: pass a list")
    return None
