"""Judged queries in one form; what is done with them is left to others.

Folders are known by the file that marks them, and what is no folder is an id of ir-datasets
(https://ir-datasets.com), which downloads on first use:

    bm25-top100.json   queries with the text of their first-stage hits, and qrels* in TREC form
    corpus.jsonl       BEIR: corpus.jsonl, queries.jsonl, and qrels/test.tsv, or qrels* in TREC form; the
                       candidates are our own BM25's best
    beir/scifact/test  an id: the candidates are the data set's own, else our own BM25's best
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.engines.registry import reason_of
from crossrank import CrossrankError, InputError, MissingDependencyError

from .files import read_text
from .trec import Qrels, read_qrels

_RUN = "bm25-top100.json"
_BEIR = ("corpus.jsonl", "queries.jsonl")
_QRELS = "qrels/test.tsv"
_OWN_BM25 = "own BM25"
_DEPTH = 100  # candidates per query, where we make them ourselves


@dataclass(frozen=True, slots=True)
class Candidates:
    """One query and the documents that the first stage found for it, best first."""

    query_id: str
    query: str
    doc_ids: tuple[str, ...]
    documents: tuple[str, ...]

    def cut(self, start: int, stop: int | None) -> "Candidates":
        """Some of the documents."""
        return replace(self, doc_ids=self.doc_ids[start:stop], documents=self.documents[start:stop])


@dataclass(frozen=True, slots=True)
class Collection:
    """Judged queries with the candidates to rank.

    Attributes:
        name: The folder's name, or the id.
        first_stage: What found the candidates.
        relevant_grade: The lowest grade that MRR counts as relevant.
    """

    name: str
    first_stage: str
    candidates: tuple[Candidates, ...]
    qrels: Qrels
    relevant_grade: int


def read_collection(source: Path) -> Collection:
    """The judged queries of a folder or of a data set of ir_datasets, in their order.

    Raises:
        InputError: If files are missing or are not what their names say, or a data set cannot be had.
        MissingDependencyError: If it is an id, and ir_datasets is not installed.
    """
    if source.is_dir():
        return _read_folder(source)
    if source.exists() or source.is_absolute():
        raise InputError(f"{source} is no folder: a folder of judged queries is needed, or an id of ir_datasets")
    return _read_dataset(source.as_posix())


def cut_collection(collection: Collection, documents: int) -> Collection:
    """The first candidates of each query."""
    return replace(collection, candidates=tuple(entry.cut(0, documents) for entry in collection.candidates))


def relevant_grade(qrels: Qrels) -> int:
    """The lowest grade that counts as relevant: 2 where judgments are graded, as TREC's deep learning track has it.

    >>> relevant_grade({"q": {"a": 0, "b": 3}}), relevant_grade({"q": {"a": 1}})
    (2, 1)
    """
    return 2 if max((grade for grades in qrels.values() for grade in grades.values()), default=0) > 1 else 1


def top_documents(queries: Sequence[str], documents: Sequence[str], *, depth: int) -> list[list[int]]:
    """Indices of the documents of each query that share a word with it, best first by BM25, at most ``depth``.

    The library is bm25s (Lucene's variant) with Anserini's k1 = 0.9 and b = 0.4, English stop words, no stemming.

    >>> top_documents(["red apple"], ["green pear", "one red apple", "red car"], depth=2)
    [[1, 2]]
    """
    import bm25s  # here, so that what needs no search runs without it

    index = bm25s.BM25(k1=0.9, b=0.4)
    index.index(bm25s.tokenize(list(documents), show_progress=False), show_progress=False)
    asked = bm25s.tokenize(list(queries), show_progress=False)
    found, scores = index.retrieve(asked, k=min(depth, len(documents)), show_progress=False)
    return [row[score > 0].tolist() for row, score in zip(found, scores, strict=True)]


@contextmanager
def _unreadable(source: Path) -> Iterator[None]:
    """Turn what malformed files cause into an error that names where they lie."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CrossrankError):
            raise
        raise InputError(f"{source}: queries and documents cannot be read: {reason_of(error)}") from error


def _read_folder(folder: Path) -> Collection:
    qrels = read_qrels(_find_qrels(folder))
    with _unreadable(folder):
        if (folder / _RUN).exists():
            first_stage, candidates = "BM25", list(_read_run(folder / _RUN))
        elif all((folder / file).exists() for file in _BEIR):
            corpus, queries = (_read_jsonl(folder / file) for file in _BEIR)
            # BEIR's convention: the title, a space, the text.
            documents = ((str(entry["_id"]), f"{entry.get('title', '')} {entry['text']}".strip()) for entry in corpus)
            asked = [(str(entry["_id"]), str(entry["text"])) for entry in queries]
            first_stage, candidates = _OWN_BM25, list(_search(asked, documents, qrels))
        else:
            raise InputError(f"{folder}: needs {_RUN}, or the BEIR files {' and '.join(_BEIR)}")
    return _judged(str(folder), folder.resolve().name, first_stage, candidates, qrels)


def _judged(place: str, name: str, first_stage: str, candidates: Sequence[Candidates], qrels: Qrels) -> Collection:
    judged = tuple(entry for entry in candidates if entry.query_id in qrels)
    if not judged:
        raise InputError(f"{place}: none of its {len(candidates)} queries is judged in its qrels")
    return Collection(name, first_stage, judged, qrels, relevant_grade(qrels))


def _find_qrels(folder: Path) -> Path:
    if (folder / _QRELS).exists():
        return folder / _QRELS
    found = sorted(path for path in folder.glob("qrels*") if path.is_file())
    if len(found) != 1:
        raise InputError(f"{folder}: needs {_QRELS} or one file qrels*, found {len(found)}")
    return found[0]


def _read_run(path: Path) -> Iterator[Candidates]:
    for entry in json.loads(read_text(path)):
        hits = sorted(entry["hits"], key=lambda hit: int(hit["rank"]))
        if hits:
            ids, texts = (tuple(str(hit[key]) for hit in hits) for key in ("docid", "content"))
            yield Candidates(str(hits[0]["qid"]), str(entry["query"]), ids, texts)


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    # Not splitlines: it would also cut at characters that JSON may hold, such as U+2028.
    return [json.loads(line) for line in read_text(path).split("\n") if line.strip()]


def _search(
    queries: Iterable[tuple[str, str]], documents: Iterable[tuple[str, str]], qrels: Qrels
) -> Iterator[Candidates]:
    """The best documents of each judged query by our own BM25."""
    ids, texts = zip(*documents, strict=True)
    judged = [(query_id, query) for query_id, query in queries if query_id in qrels]
    best = top_documents([query for _, query in judged], texts, depth=_DEPTH)
    for (query_id, query), places in zip(judged, best, strict=True):
        yield Candidates(query_id, query, tuple(ids[i] for i in places), tuple(texts[i] for i in places))


def _read_dataset(name: str) -> Collection:
    try:
        import ir_datasets  # only who asks for an id needs it
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} is no folder; as an id of ir_datasets it needs that: pip install ir-datasets "
            "(or, in a checkout, pip install --group test)"
        ) from error
    try:
        try:
            source = ir_datasets.load(name)
        except KeyError as error:
            raise InputError(
                f"{name} is no folder, and no id that ir_datasets knows (https://ir-datasets.com)"
            ) from error
        missing = [part for part in ("docs", "queries", "qrels") if not getattr(source, f"has_{part}")()]
        if missing:
            raise InputError(f"{name}: the data set has no {', '.join(missing)}; a part of it may, such as {name}/test")
        qrels: dict[str, dict[str, int]] = {}
        for judged in source.qrels_iter():
            qrels.setdefault(judged.query_id, {})[judged.doc_id] = judged.relevance
        queries = [(query.query_id, query.default_text()) for query in source.queries_iter()]
        hits: dict[str, list[tuple[str, float]]] = {}
        for hit in source.scoreddocs_iter() if source.has_scoreddocs() else ():
            if hit.query_id in qrels:
                hits.setdefault(hit.query_id, []).append((hit.doc_id, hit.score))
        if hits:
            first_stage, candidates = _take_hits(source, hits, queries, qrels)
        else:
            documents = ((document.doc_id, document.default_text().strip()) for document in source.docs_iter())
            first_stage, candidates = _OWN_BM25, list(_search(queries, documents, qrels))
    except CrossrankError:
        raise
    except Exception as error:  # of downloads, archives and parsers: ir_datasets has no errors of its own
        raise InputError(f"{name}: ir_datasets cannot give it: {reason_of(error)}") from error
    return _judged(name, name, first_stage, candidates, qrels)


def _take_hits(
    source: Any, hits: Mapping[str, Sequence[tuple[str, float]]], queries: Sequence[tuple[str, str]], qrels: Qrels
) -> tuple[str, list[Candidates]]:
    """The best hits of each judged query by their scores, equal ones in their order, and who found them.

    Where all of a query's scores are equal, as MS MARCO's thousand are, there is no order: our own BM25 makes one of
    these documents alone.
    """
    unordered = all(len({score for _, score in found}) == 1 for found in hits.values())
    depth = None if unordered else _DEPTH
    best = {key: sorted(found, key=lambda hit: -hit[1])[:depth] for key, found in hits.items()}
    documents = source.docs_store().get_many({doc_id for found in best.values() for doc_id, _ in found})
    texts = {doc_id: document.default_text().strip() for doc_id, document in documents.items()}
    candidates = []
    for query_id, query in queries:
        if query_id not in qrels:
            continue
        ids = [doc_id for doc_id, _ in best.get(query_id, ())]  # a query without hits has no answer, and counts
        if unordered and ids:
            (places,) = top_documents([query], [texts[doc_id] for doc_id in ids], depth=_DEPTH)
            ids = [ids[i] for i in places]
        candidates.append(Candidates(query_id, query, tuple(ids), tuple(texts[doc_id] for doc_id in ids)))
    return f"the data set's own{', in the order of own BM25' if unordered else ''}", candidates
