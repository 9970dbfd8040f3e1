"""`Cascade`: a small model ranks all documents, larger ones the best of them.

It is made of `CrossEncoder.rank` alone, so a stage's scores are its model's own.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypeAlias, TypedDict

from ._attributes import KnownAttributes
from ._calls.answers import check_top_k, kept_texts
from ._calls.call import one_query
from ._cross_encoder import CrossEncoder
from ._errors import InputError
from ._numbers import as_whole
from ._options import switch
from ._text.encoded import EncodedDocument, EncodedDocuments

_Documents: TypeAlias = Sequence[str | EncodedDocument] | EncodedDocuments


class CascadedDocument(TypedDict):
    """One entry of a cascade's ranking.

    Attributes:
        corpus_id: The document's index in the input.
        score: The last model's score, or None if that model has not read the document.
        scores: The score by each model that has read it, the first stage's first.
        text: The document, if asked for.
    """

    corpus_id: int
    score: float | None
    scores: list[float]
    text: NotRequired[str]


class Cascade(KnownAttributes):
    """Ranks all documents with a first, small model, and the best of them with the next.

    It has no `score` and no `predict`: which models read a document hangs on the other documents of the call, so
    there is no score of a pair alone.

    Args:
        stages: At least one pair of a model and its depth, the number of documents that it reads: the best by the stage
            before. The first depth is None, which means all; the others fall. A model is a `CrossEncoder`, or a name
            or folder that `CrossEncoder` loads with default options.

    Attributes:
        stages: The models, loaded, with their depths. They may be used by themselves too.

    Raises:
        InputError: If these are no such pairs, or a model has several labels and none means "relevant".
        CrossrankError: If a model cannot be loaded, as `CrossEncoder` raises it.

    >>> cascade = Cascade([("ms-marco-TinyBERT-L2-v2", None), ("ms-marco-MiniLM-L12-v2", 50)])  # doctest: +SKIP
    >>> cascade.rank(query, documents, top_k=10)  # doctest: +SKIP
    """

    stages: tuple[tuple[CrossEncoder, int | None], ...]
    _assigned = frozenset({"stages"})
    _driven = ("stages[i][0]", CrossEncoder)

    def __init__(self, stages: Sequence[tuple[CrossEncoder | str | Path, int | None]]) -> None:
        _check_stages(stages)  # all of them, before one is downloaded or exported
        self.stages = tuple(
            (model if isinstance(model, CrossEncoder) else CrossEncoder(model), depth) for model, depth in stages
        )
        for model, _ in self.stages:
            model._calls.meaning.require_relevance("rank", model._calls.model)  # now, not in the first call

    def rank(
        self,
        query: str,
        documents: Iterable[str | EncodedDocument],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> list[CascadedDocument]:
        """All documents, best first: those that the last model has read by its score, then those of the stage before.

        Scores of different models cannot be compared, so ``score`` is the last model's alone. It falls from entry to
        entry and is None in the entries behind, which that model has not read: code that sorts by it or holds it
        against a threshold fails there instead of mixing models. While ``top_k`` is at most the last stage's depth,
        every entry has a number. ``scores`` holds the other models' too; by ``(len(scores), scores[-1])`` the whole
        list falls.

        Args:
            query: The query.
            documents: As in `CrossEncoder.rank`; encoded documents if all stages have one tokenizer.
            top_k: How many to return, or None for all. What the stages read does not hang on it.
            return_documents: Whether entries hold the document's text; not of encoded documents.
            batch_size: Most pairs of a batch in every stage, or None for the planner's own batches.
            show_progress_bar: Draw progress on standard error, a line per stage.

        Returns:
            ``{"corpus_id": index, "score": float or None, "scores": [float, …]}``, and ``"text"`` if asked for. A
            stage's ties keep the input's order, also where the next stage's documents are chosen.

        Raises:
            InputError: If a text is no string, an option is out of range, or documents are encoded and the stages'
                tokenizers or the documents' differ.
        """
        check_top_k(top_k)
        read = one_query(query, documents).documents
        self._check_encoded(read)
        texts = kept_texts(read) if switch("return_documents", return_documents) else None
        order = list(range(len(read)))
        scores: list[list[float]] = [[] for _ in order]
        for model, depth in self.stages:
            places = sorted(order[:depth])  # in the input's order, which ties keep
            hits = model.rank(query, _select(read, places), batch_size=batch_size, show_progress_bar=show_progress_bar)
            best = [places[hit["corpus_id"]] for hit in hits]
            order[: len(best)] = best
            for i, hit in zip(best, hits, strict=True):
                assert hit["score"] is not None, "only a deadline leaves documents without one"
                scores[i].append(hit["score"])
        ranking: list[CascadedDocument] = []
        for i in order[:top_k]:
            score = scores[i][-1] if len(scores[i]) == len(self.stages) else None
            entry: CascadedDocument = {"corpus_id": i, "score": score, "scores": scores[i]}
            if texts is not None:
                entry["text"] = texts[i]
            ranking.append(entry)
        return ranking

    def _check_encoded(self, documents: _Documents) -> None:
        """Raise `InputError` if documents are encoded and no one tokenizer could have made the ids for all stages."""
        if not isinstance(documents, EncodedDocuments) and not any(isinstance(d, EncodedDocument) for d in documents):
            return
        first, *others = (model.encode([]).tokenizer for model, _ in self.stages)
        for i, tokenizer in enumerate(others, 1):
            if tokenizer != first:
                raise InputError(
                    f"encoded documents need stages of one tokenizer; stage 0 has that of {first}, "
                    f"stage {i} that of {tokenizer}: pass texts"
                )


def _select(documents: _Documents, places: list[int]) -> _Documents:
    if len(places) == len(documents):
        return documents
    return documents[places] if isinstance(documents, EncodedDocuments) else [documents[i] for i in places]


def _check_stages(stages: Any) -> None:
    if not isinstance(stages, list | tuple) or not stages:
        raise InputError(
            f"stages={stages!r:.80}: a list of pairs (model, depth) is needed, such as [(small, None), (large, 50)]"
        )
    before: int | None = None
    for i, stage in enumerate(stages):
        if not isinstance(stage, list | tuple) or len(stage) != 2:
            raise InputError(f"stage {i} is {stage!r:.80}: a pair (model, depth) is needed")
        model, depth = stage
        if not isinstance(model, CrossEncoder | str | Path):
            kind = f"{type(model).__module__}.{type(model).__qualname__}"
            raise InputError(f"the model of stage {i} is a {kind}: a crossrank.CrossEncoder, a name or a folder")
        if i == 0:
            if depth is not None:
                raise InputError(f"the depth of stage 0 is {depth!r}: the first model reads all documents, pass None")
            continue
        number = as_whole(depth)
        if number is None or number < 1:
            raise InputError(
                f"the depth of stage {i} is {depth!r}: how many of the best documents it reads, an integer from 1"
            )
        if before is not None and number >= before:
            raise InputError(
                f"the depth of stage {i} is {depth}, that of stage {i - 1} {before}: each must be smaller than the one "
                f"before it; order the stages from small models to large ones"
            )
        before = number
