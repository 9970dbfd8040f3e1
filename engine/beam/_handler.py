"""`RerankModelHandler`: a `Reranker` as Beam's RunInference takes one."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from apache_beam.ml.inference.base import PredictionResult

from crossrank import CrossEncoder, InputError
from crossrank.batch import Reranker, judge, problem_of

if TYPE_CHECKING:  # Beam has no types

    class ModelHandler:
        """Beam's."""

        def __init__(self, **options: Any) -> None: ...

else:
    from apache_beam.ml.inference.base import ModelHandler

Element = Any  # (query, documents)

_LETTERS_OF_A_TOKEN = 4
_LISTS = (list, tuple, np.ndarray)  # of documents


class RerankModelHandler(ModelHandler):
    """Scores queries, each with its list of documents, in batches of about so many tokens.

    Elements are pairs ``(query, documents)``; with a key before them through Beam's ``KeyedModelHandler``. The
    ``inference`` of a result is ``{"scores": [float | None, …], "ranks": [int | None, …], "status": str}`` in the
    documents' order, 1 the best. Bad elements are marked in their status, as by `Reranker`.

    The model is loaded once in a process and shared by its threads, on which it works at the same time.

    Args:
        model: A name, or a folder that every worker has.
        max_batch_weight: Most tokens of a batch, as estimated from the texts' letters. A larger element is one alone.
        max_batch_duration_secs: In streams, how long a batch may wait to become full.
        dead_letter: Fail on bad elements, each alone, in place of marking them: RunInference's
            ``with_exception_handling()`` gives them then in ``failed_preprocessing[0]``, what the model raises in
            ``failed_inferences``.
        threads: As in `Reranker`; 1 where a runner has a process for each core.
        options: Of `CrossEncoder`.

    Raises:
        InputError: If an option is not what it can be.
    """

    def __init__(
        self,
        model: str | Path = "crossrank-mini-en",
        *,
        max_batch_weight: int = 200_000,
        max_batch_duration_secs: int | None = None,
        dead_letter: bool = False,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        if type(max_batch_weight) is not int or max_batch_weight < 1:
            raise InputError(f"max_batch_weight={max_batch_weight!r:.60}: tokens of a batch, an integer from 1")
        # BatchElements counts its sizes by element_size_fn, and knows no max_batch_weight
        super().__init__(
            min_batch_size=max(1, max_batch_weight // 2),
            max_batch_size=max_batch_weight,
            max_batch_duration_secs=max_batch_duration_secs,
            element_size_fn=weight,
        )
        self._reranker = Reranker(model, threads=threads, **options)
        self._dead_letter = dead_letter

    def load_model(self) -> CrossEncoder:
        """The model, loaded here or in this process before."""
        return self._reranker.load()

    def run_inference(
        self, batch: Sequence[Element], model: CrossEncoder, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Any]:
        """A `PredictionResult` for each element, in order."""
        pairs = [element if _is_pair(element) else (None, None) for element in batch]
        judged = judge(model, [query for query, _ in pairs], [documents for _, documents in pairs])
        for element, found in zip(batch, judged, strict=True):
            scored = [bool(rank) for rank in found.ranks]
            inference = {
                "scores": [float(s) if good else None for s, good in zip(found.scores, scored, strict=True)],
                "ranks": [int(rank) or None for rank in found.ranks],
                "status": found.status,
            }
            yield PredictionResult(element, inference, self._reranker.model)

    def get_num_bytes(self, batch: Sequence[Element]) -> int:
        """Of a batch's texts, about."""
        return sum(map(weight, batch)) * _LETTERS_OF_A_TOKEN

    def get_metrics_namespace(self) -> str:
        """What Beam's metrics of this handler are under."""
        return "crossrank"

    def get_preprocess_fns(self) -> Iterable[Callable[[Element], Element]]:
        """What refuses bad elements, where they are to fail."""
        return [refuse_bad] if self._dead_letter else []

    def validate_inference_args(self, inference_args: Mapping[str, Any] | None) -> None:
        """Refuse all: the handler has its options."""
        if inference_args:
            raise InputError(f"inference_args {json.dumps(sorted(inference_args))}: pass options to RerankModelHandler")


def weight(element: Element) -> int:
    """About how many tokens an element's pairs have, with a key before it or none; 1 for what is none."""
    if _is_pair(element) and _is_pair(element[1]) and isinstance(element[1][1], _LISTS):  # (key, (query, documents))
        element = element[1]
    if not _is_pair(element) or not isinstance(element[1], _LISTS):
        return 1
    texts = [len(document) for document in element[1] if isinstance(document, str)]
    query = len(element[0]) if isinstance(element[0], str) else 0
    return max(1, (query * len(texts) + sum(texts)) // _LETTERS_OF_A_TOKEN)


def _is_pair(element: Any) -> bool:
    return isinstance(element, list | tuple) and len(element) == 2


def refuse_bad(element: Element) -> Element:
    """The element, or `InputError` if not all of its texts are."""
    if not _is_pair(element):
        raise InputError(f"{element!r:.80}: a pair (query, documents) is needed")
    query, documents = element
    if (problem := problem_of(query)) is not None:
        raise InputError(f"query: {problem}")
    if not isinstance(documents, list | tuple):
        raise InputError(f"documents: {type(documents).__name__}, not a list")
    for i, document in enumerate(documents):
        if (problem := problem_of(document)) is not None:
            raise InputError(f"documents[{i}]: {problem}")
    return element
