"""The calls of a model: their options, checked, what is to be computed, and what is made of the logits."""

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import Any, Generic, TypeVar, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.activation import Activation, apply_activation, is_ours, order_key, softmax
from crossrank._device.batches import check_batch_size
from crossrank._errors import InputError
from crossrank._machine.device import Device
from crossrank._options import switch
from crossrank._text.encoded import EncodedDocument, EncodedDocuments
from crossrank._text.windows import Windows, read_windows

from .answers import Found, Ranking, check_top_k, kept_texts, rank_found, to_tensor
from .compatibility import PREDICT, RANK, Own, PredictOptions, RankOptions, check_options, other_name
from .deadline import Deadline, Lateness
from .inputs import read_documents, split_pairs
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
        show_progress_bar: Draw progress on standard error; None for no.
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
    """The calls of one model, with their options: what `CrossEncoder` and `AsyncCrossEncoder` have as methods.

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
        """Relevance scores of documents for a query: the lean call.

        Args:
            query: The query.
            documents: The documents, any number: texts, or what `encode` made of them, whole or in part. A Series or
                an Arrow array counts by its values.

        Returns:
            float32 [documents], with the activation applied; of a relevance model with two labels the
            softmax probability of the relevant one.

        Raises:
            InputError: If a text is no string, documents were encoded with another tokenizer, or the model has
                several labels and none means "relevant".
        """
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
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        max_windows: int | None = None,
        window_overlap: int = 0,
        deadline_ms: float | None = None,
        **others: Unpack[RankOptions],
    ) -> Call[Ranking]:
        """Documents by falling score; ties keep the input's order.

        Where float32 gives several logits one score, as a sigmoid does above 17, the logits decide; of a relevance
        model with several labels the difference of the relevant one to the others.

        Args:
            query: The query.
            documents: The documents, as in `score`.
            top_k: How many to return, or None for all; a negative number leaves out so many of the last.
            return_documents: Whether entries hold the document's text; not of encoded documents.
            batch_size: Most pairs of a batch, or None for the planner's own batches.
            show_progress_bar: Draw progress on standard error.
            activation_fn: In place of the model's own.
            max_windows: Score a document that is too long in so many parts at most, from its start, each beside the
                whole query; the highest score counts. None truncates it.
            window_overlap: Tokens that a part shares with the one before it.
            deadline_ms: Milliseconds from the call to its answer, or None for as long as it takes. Documents are
                scored in the order given, so put the most promising first; those left over come last, with a score of
                None. It stops as much sooner, up to a fifth, as answering took of late. The answer is late by the
                tokenizing of a few documents at most, on a busy machine by some milliseconds, on a GPU by a batch.
                Iterators and lazy sequences are read until half of the time has passed, and documents behind that are
                not in the answer; one item that blocks is waited for, and so is a column that numpy reads at once.
            others: sentence-transformers' options, accepted where they ask for nothing here (docs/migrating.md).

        Returns:
            A list of ``{"corpus_id": index, "score": float}``, with ``"text"`` if asked for, and with ``"window"``,
            the part that won, if there are any; see `Ranking` for what else it tells.

        Raises:
            InputError: If a text is no string, an option is out of range, or the model has several
                labels and none means "relevant" (use `predict`).
        """
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
        texts = None
        if return_documents is not False and switch("return_documents", return_documents):
            texts = kept_texts(pairs.documents)
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

        shown = show_progress_bar is not None and switch("show_progress_bar", show_progress_bar)
        return Call(pairs, finish, batch_size, shown, windows, deadline)

    def predict(
        self,
        inputs: Collection[Any] | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **others: Unpack[PredictOptions],
    ) -> Call[Any]:
        """Scores of pairs, as sentence-transformers' ``CrossEncoder.predict``.

        Args:
            inputs: A list of pairs (tuples, lists or arrays of two strings), a numpy array of them or a table of two
                columns (pandas, Polars, Arrow), or one pair. A document may also be one of those that `encode` gives.
            batch_size: Most pairs of a batch, or None for the planner's own batches.
            show_progress_bar: Draw progress on standard error.
            activation_fn: In place of the model's own.
            apply_softmax: Softmax over the labels, for models with several.
            convert_to_numpy: An array; False gives a list of its entries.
            convert_to_tensor: A torch tensor (needs torch); wins over ``convert_to_numpy``.
            others: As in `rank`; and ``sentences``, their older name of ``inputs``.

        Returns:
            float32 [pairs], or [pairs, labels] for a model with several labels; of one pair its entry.

        Raises:
            InputError: If something is no pair of strings, or an option is out of range.
            MissingDependencyError: If ``convert_to_tensor`` and torch is not installed.
        """
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
        pairs = _read_pairs(inputs)
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
                "%d of %d documents are cut: longer than %s reads (documents[%d] is the first); "
                "rank(max_windows=…) scores long ones in parts",
                len(found.truncated),
                found.documents,
                self.model,
                found.truncated[0],
            )
            self.told.add("truncated")


def present(method: Callable[..., object], calls_method: Callable[..., object], owner: str) -> None:
    """Have a method of a class look like the method of `Calls` that it answers: name, options, documentation.

    Args:
        method: The one that gives the result.
        calls_method: The one that gives the `Call`.
        owner: The name of the class, which errors of Python's own say then.
    """
    update_wrapper(method, calls_method)
    del method.__wrapped__  # type: ignore[attr-defined]
    signature = inspect.signature(calls_method)
    (result,) = get_args(signature.return_annotation)
    method.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]
    method.__annotations__ = calls_method.__annotations__ | {"return": result}
    method.__qualname__ = f"{owner}.{method.__name__}"
    calls_method.__qualname__ = f"CrossEncoder.{calls_method.__name__}"


def one_query(query: str, documents: Iterable[str | EncodedDocument], deadline: Deadline | None = None) -> PairInputs:
    """One query with each of its documents, as they are now, whatever becomes of the caller's list meanwhile.

    Args:
        query: The query.
        documents: Any iterable that `read_documents` takes.
        deadline: Bounds what is read of what computes its documents as they are read; None for all of it.

    Raises:
        InputError: If `read_documents` refuses them.
    """
    if type(documents) not in (list, tuple):
        documents = read_documents(documents)
    if deadline is not None and type(documents) not in (list, tuple, EncodedDocuments):
        documents = deadline.read(documents)
    read = documents if isinstance(documents, tuple | EncodedDocuments) else list(documents)
    return PairInputs([query], read, np.zeros(len(read), np.intp), _are_encoded(read))


def _read_pairs(inputs: Any) -> PairInputs:
    """One pair or many."""
    queries, documents, query_index, single = split_pairs(inputs)
    return PairInputs(queries, documents, np.array(query_index, np.intp), _are_encoded(documents), single)


def _are_encoded(documents: Sequence[Any] | EncodedDocuments) -> bool:
    """Whether some documents are encoded."""
    if isinstance(documents, EncodedDocuments):
        return True
    kinds = set(map(type, documents))
    return kinds != {str} and any(issubclass(kind, EncodedDocument) for kind in kinds)
