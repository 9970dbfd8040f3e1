"""Data sets by the ids of ir-datasets (https://ir-datasets.com), which downloads them on first use."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossrank import InputError, MissingDependencyError

from .trec import Qrels


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a data set brings.

    Attributes:
        queries: Ids and texts, in its order.
        qrels: Its judgments.
        hits: Judged query id -> ids and scores of its first stage, in its order; None where it has no such.
        source: Its documents are read from here, when they are wanted.
    """

    queries: Sequence[tuple[str, str]]
    qrels: Qrels
    hits: Mapping[str, Sequence[tuple[str, float]]] | None
    source: Any

    def documents(self) -> Iterator[tuple[str, str]]:
        """Ids and texts of all documents."""
        for document in self.source.docs_iter():
            yield document.doc_id, document.default_text().strip()

    def texts(self, doc_ids: set[str]) -> dict[str, str]:
        """Id -> text of some documents, by the data set's index, which is made on first use."""
        found = self.source.docs_store().get_many(doc_ids)
        return {doc_id: document.default_text().strip() for doc_id, document in found.items()}


def open_dataset(name: str) -> Dataset:
    """A data set with queries, documents and judgments.

    Args:
        name: Such as "beir/scifact/test".

    Raises:
        InputError: If there is none of that name, or it lacks something.
        MissingDependencyError: If ir_datasets is not installed.
    """
    try:
        import ir_datasets  # only who asks for an id needs it
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} is no folder; as an id of ir_datasets it needs that: pip install ir-datasets "
            "(or, in a checkout, pip install --group test)"
        ) from error
    try:
        source = ir_datasets.load(name)
    except KeyError as error:
        raise InputError(f"{name} is no folder, and no id that ir_datasets knows (https://ir-datasets.com)") from error
    missing = [part for part in ("docs", "queries", "qrels") if not getattr(source, f"has_{part}")()]
    if missing:
        raise InputError(f"{name}: the data set has no {', '.join(missing)}; a part of it may, such as {name}/test")
    qrels: dict[str, dict[str, int]] = {}
    for judged in source.qrels_iter():
        qrels.setdefault(judged.query_id, {})[judged.doc_id] = judged.relevance
    hits: dict[str, list[tuple[str, float]]] | None = None
    if source.has_scoreddocs():
        hits = {}
        for hit in source.scoreddocs_iter():
            if hit.query_id in qrels:
                hits.setdefault(hit.query_id, []).append((hit.doc_id, hit.score))
    queries = [(query.query_id, query.default_text()) for query in source.queries_iter()]
    return Dataset(queries, qrels, hits, source)
