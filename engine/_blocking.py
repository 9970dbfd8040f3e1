"""`score`, `rank` and `predict` with their options, for a class that runs calls and waits for them."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from ._activation import Activation
from ._calls import Call, Calls, RankOptions
from ._encoded import EncodedDocument
from ._outputs import RankedDocument, Ranking, TimedDocument

T = TypeVar("T")
Floats = NDArray[np.float32]


class BlockingCalls:
    """What callers of `CrossEncoder` write."""

    _calls: Calls

    def _run(self, call: Call[T]) -> T:
        raise NotImplementedError

    def score(self, query: str, documents: Iterable[str | EncodedDocument]) -> Floats:
        """Relevance scores of documents for a query: the lean call, and what `rank` sorts by.

        Args:
            query: The query.
            documents: The documents, any number: texts, or what `encode` made of them, whole or in part.

        Returns:
            float32 [documents], with the activation applied; of a relevance model with two labels the
            softmax probability of the relevant one.

        Raises:
            InputError: If a text is no string, documents were encoded with another tokenizer, or the model has
                several labels and none means "relevant".
        """
        return self._run(self._calls.score(query, documents))

    @overload
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
        activation_fct: Activation | None = None,
        max_windows: int | None = None,
        window_overlap: int = 0,
        deadline_ms: None = None,
    ) -> Ranking[RankedDocument]: ...

    @overload
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
        activation_fct: Activation | None = None,
        max_windows: int | None = None,
        window_overlap: int = 0,
        deadline_ms: float,
    ) -> Ranking[TimedDocument]: ...

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
        activation_fct: Activation | None = None,
        max_windows: int | None = None,
        window_overlap: int = 0,
        deadline_ms: float | None = None,
    ) -> Ranking[Any]:
        """Documents by falling score; ties keep the input's order.

        Args:
            query: The query.
            documents: The documents, as in `score`.
            top_k: How many to return, or None for all.
            return_documents: Whether entries hold the document's text; not of encoded documents.
            batch_size: Most pairs of a batch, or None for the planner's own batches.
            show_progress_bar: Draw progress on standard error.
            activation_fn: In place of the model's own.
            activation_fct: Older name of ``activation_fn``.
            max_windows: Score a document that is too long in so many parts at most, from its start, each beside the
                whole query; the highest score counts. None truncates it.
            window_overlap: Tokens that a part shares with the one before it.
            deadline_ms: Milliseconds from the call to its answer, or None for as long as it takes. Documents are
                scored in the order given, so put the most promising first; those left over come last, with a score of
                None. It stops as much sooner, up to a fifth, as answering took of late. The answer is late by the
                tokenizing of a few documents at most, on a busy machine by some milliseconds, on a GPU by a batch.

        Returns:
            A list of ``{"corpus_id": index, "score": float}``, with ``"text"`` if asked for, and with ``"window"``,
            the part that won, if there are any; see `Ranking` for what else it tells.

        Raises:
            InputError: If a text is no string, an option is out of range, or the model has several
                labels and none means "relevant" (use `predict`).
        """
        options = RankOptions(
            top_k=top_k,
            return_documents=return_documents,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
            activation_fct=activation_fct,
            max_windows=max_windows,
            window_overlap=window_overlap,
            deadline_ms=deadline_ms,
        )
        return self._run(self._calls.rank(query, documents, options))

    @overload
    def predict(
        self,
        inputs: Sequence[Any] | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: Literal[True] = True,
        convert_to_tensor: Literal[False] = False,
        sentences: Sequence[Any] | None = None,
        activation_fct: Activation | None = None,
    ) -> Floats: ...

    @overload
    def predict(
        self,
        inputs: Sequence[Any] | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        sentences: Sequence[Any] | None = None,
        activation_fct: Activation | None = None,
    ) -> Any: ...

    def predict(
        self,
        inputs: Sequence[Any] | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        sentences: Sequence[Any] | None = None,
        activation_fct: Activation | None = None,
    ) -> Any:
        """Scores of pairs, as sentence-transformers' ``CrossEncoder.predict``.

        Args:
            inputs: A list of pairs (tuples or lists of two strings, or a numpy array of them), or one pair. A
                document may also be one of those that `encode` gives.
            batch_size: Most pairs of a batch, or None for the planner's own batches.
            show_progress_bar: Draw progress on standard error.
            activation_fn: In place of the model's own.
            apply_softmax: Softmax over the labels, for models with several.
            convert_to_numpy: An array; False gives a list of its entries.
            convert_to_tensor: A torch tensor (needs torch); wins over ``convert_to_numpy``.
            sentences: Older name of ``inputs``.
            activation_fct: Older name of ``activation_fn``.

        Returns:
            float32 [pairs], or [pairs, labels] for a model with several labels; of one pair its entry.

        Raises:
            InputError: If something is no pair of strings, or an option is out of range.
            MissingDependencyError: If ``convert_to_tensor`` and torch is not installed.
        """
        return self._run(
            self._calls.predict(
                inputs,
                batch_size,
                show_progress_bar,
                activation_fn,
                apply_softmax,
                convert_to_numpy,
                convert_to_tensor,
                sentences,
                activation_fct,
            )
        )
