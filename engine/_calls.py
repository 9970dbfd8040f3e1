"""What a call wants computed and what it makes of the logits, whoever computes those."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._activation import Activation, apply_activation, softmax
from ._deadline import Deadline, Lateness
from ._encoded import EncodedDocument
from ._errors import InputError
from ._found import Found
from ._inputs import PairInputs, either, one_query, split_pairs
from ._outputs import Ranking, check_top_k, kept_texts, rank_found, to_tensor
from ._relevance import Meaning, choose_activation
from ._windows import Windows, read_windows

logger = logging.getLogger(__name__)

T = TypeVar("T")
Floats = NDArray[np.float32]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOptions:
    """The options of `CrossEncoder.rank`, as the caller wrote them."""

    top_k: int | None
    return_documents: bool
    batch_size: int | None
    show_progress_bar: bool | None
    activation_fn: Activation | None
    activation_fct: Activation | None
    max_windows: int | None
    window_overlap: int
    deadline_ms: float | None


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one model.

    Attributes:
        meaning: What its logits mean.
        model: Its name, for messages.
        lateness: Of its calls with a deadline.
        told: Holds something once a warning has said that documents are truncated.
    """

    meaning: Meaning
    model: str
    lateness: Lateness = field(default_factory=Lateness)
    told: set[str] = field(default_factory=set)

    def score(self, query: str, documents: Iterable[str | EncodedDocument]) -> Call[Floats]:
        """As `CrossEncoder.score`."""
        self.meaning.require_relevance("score", self.model)

        def finish(found: Found) -> Floats:
            self._tell(found)
            return self.meaning.relevance(found.logits, self.meaning.of_relevance)

        return Call(one_query(query, documents), finish)

    def score_any(self, query: str, documents: Sequence[str]) -> Call[Floats]:
        """The logits, float32 [pairs, labels], of any model."""
        return Call(one_query(query, documents), lambda found: found.logits)

    def rank(self, query: str, documents: Iterable[str | EncodedDocument], options: RankOptions) -> Call[Ranking[Any]]:
        """As `CrossEncoder.rank`."""
        # Time runs from here on.
        deadline = None if options.deadline_ms is None else Deadline(options.deadline_ms, self.lateness)
        self.meaning.require_relevance("rank", self.model)
        check_top_k(options.top_k)
        windows = read_windows(options.max_windows, options.window_overlap)
        pairs = one_query(query, documents)
        texts = kept_texts(pairs.documents) if options.return_documents else None
        activation = choose_activation(options.activation_fn, options.activation_fct, self.meaning.of_relevance)

        def finish(found: Found) -> Ranking[Any]:
            scores = self.meaning.relevance(found.logits, activation)
            ranking = rank_found(found, scores, options.top_k, texts, deadline.reason if deadline else None)
            if deadline is not None:
                deadline.answered()
            return ranking

        return Call(pairs, finish, options.batch_size, options.show_progress_bar, windows, deadline)

    def predict(
        self,
        inputs: Sequence[Any] | None,
        batch_size: int | None,
        show_progress_bar: bool | None,
        activation_fn: Activation | None,
        apply_softmax: bool,
        convert_to_numpy: bool,
        convert_to_tensor: bool,
        sentences: Sequence[Any] | None,
        activation_fct: Activation | None,
    ) -> Call[Any]:
        """As `CrossEncoder.predict`."""
        given = either("inputs", inputs, "sentences", sentences)
        if given is None:
            raise InputError("predict needs inputs: a pair (query, document) or a list of pairs")
        pairs = split_pairs(given)
        activation = choose_activation(activation_fn, activation_fct, self.meaning.activation)

        def finish(found: Found) -> Any:
            self._tell(found)
            scores = apply_activation(activation, found.logits)
            if self.meaning.head.labels == 1:
                scores = scores.reshape(-1)
            elif apply_softmax:
                scores = softmax(scores)
            result = scores[0] if pairs.single else scores
            if convert_to_tensor:
                return to_tensor(result)
            return result if convert_to_numpy or pairs.single else list(result)

        return Call(pairs, finish, batch_size, show_progress_bar)

    def _tell(self, found: Found) -> None:
        """Log that documents were truncated, where the result has no place for it: the first time as a warning."""
        if len(found.truncated):
            logger.log(
                logging.DEBUG if self.told else logging.WARNING,
                "%d of %d documents are longer than %s reads, first %d: rank(max_windows=…) scores long ones in parts",
                len(found.truncated),
                found.documents,
                self.model,
                found.truncated[0],
            )
            self.told.add("truncated")
