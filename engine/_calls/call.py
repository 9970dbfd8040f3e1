"""A call: what it wants computed, and what it makes of the logits, whoever computes those."""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.activation import Activation, apply_activation, is_ours, order_key, softmax
from crossrank._device.batches import check_batch_size
from crossrank._errors import InputError
from crossrank._machine.device import Device
from crossrank._options import switch
from crossrank._text.encoded import EncodedDocument
from crossrank._text.windows import Windows, read_windows

from .answers import Ranking, check_top_k, kept_texts, rank_found, to_tensor
from .compatibility import PREDICT, RANK, Own, PredictOptions, RankOptions, check_options, other_name
from .deadline import Deadline, Lateness
from .found import Found
from .inputs import PairInputs, one_query, split_pairs
from .relevance import Meaning

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
        most = check_top_k(top_k)
        batch_size = check_batch_size(batch_size)
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
