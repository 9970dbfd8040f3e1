"""Reading folders of judged queries into one form; what is done with them is left to others.

Two forms are known by the file that marks them:

    bm25-top100.json   queries with the text of their first-stage hits, and qrels* in TREC form
    corpus.jsonl       BEIR: corpus.jsonl, queries.jsonl, and qrels* in TREC form; the candidates
                       are our own BM25's best
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossrank import InputError

from ._bm25 import top_documents

_RUN = "bm25-top100.json"
_BEIR = ("corpus.jsonl", "queries.jsonl")
_DEPTH = 100  # candidates per query, where we make them ourselves

Qrels = Mapping[str, Mapping[str, int]]  # query id -> document id -> grade


@dataclass(frozen=True, slots=True)
class Candidates:
    """One query and the documents that the first stage found for it, best first."""

    query_id: str
    query: str
    doc_ids: tuple[str, ...]
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Collection:
    """Judged queries with the candidates to rank.

    Attributes:
        name: The folder's name.
        first_stage: What found the candidates.
        candidates: One entry per judged query.
        qrels: The judgments of those queries.
        relevant_grade: The lowest grade that MRR counts as relevant.
    """

    name: str
    first_stage: str
    candidates: tuple[Candidates, ...]
    qrels: Qrels
    relevant_grade: int


def read_collection(folder: Path) -> Collection:
    """The judged queries of a folder, in the file's order.

    Raises:
        InputError: If files are missing or are not what their names say.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: a folder of judged queries is needed")
    qrels = read_qrels(_only_file(folder, "qrels*"))
    try:
        if (folder / _RUN).exists():
            name, candidates = "BM25", list(_read_run(folder / _RUN))
        elif all((folder / file).exists() for file in _BEIR):
            name, candidates = "own BM25", list(_search_beir(folder, qrels))
        else:
            raise InputError(f"{folder}: needs {_RUN}, or the BEIR files {' and '.join(_BEIR)}")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: queries and documents cannot be read: {error!r}") from error
    judged = tuple(entry for entry in candidates if entry.query_id in qrels)
    if not judged:
        raise InputError(f"{folder}: none of its {len(candidates)} queries is judged in its qrels")
    return Collection(folder.resolve().name, name, judged, qrels, relevant_grade(qrels))


def cut_collection(collection: Collection, *, queries: int | None = None, documents: int | None = None) -> Collection:
    """The first queries, the first candidates of each, and only the judgments of those queries.

    Args:
        collection: What to cut; it stays as it is.
        queries: How many queries, or None for all.
        documents: How many candidates of each, or None for all.
    """
    kept = tuple(
        replace(entry, doc_ids=entry.doc_ids[:documents], documents=entry.documents[:documents])
        for entry in collection.candidates[:queries]
    )
    return replace(
        collection, candidates=kept, qrels={entry.query_id: collection.qrels[entry.query_id] for entry in kept}
    )


def read_qrels(path: Path) -> Qrels:
    """Judgments in TREC form: ``query-id 0 document-id grade`` a line.

    Raises:
        InputError: If a line is something else.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            query_id, _, doc_id, grade = line.split()
            qrels.setdefault(query_id, {})[doc_id] = int(grade)
        except ValueError as error:
            raise InputError(f"{path}:{number}: {line!r} is not: query-id 0 document-id grade") from error
    return qrels


def relevant_grade(qrels: Qrels) -> int:
    """The lowest grade that counts as relevant: 2 where judgments are graded, as TREC's deep learning track has it.

    >>> relevant_grade({"q": {"a": 0, "b": 3}}), relevant_grade({"q": {"a": 1}})
    (2, 1)
    """
    return 2 if max((grade for grades in qrels.values() for grade in grades.values()), default=0) > 1 else 1


def _only_file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise InputError(f"{folder}: needs one file {pattern}, found {len(found)}")
    return found[0]


def _read_run(path: Path) -> Iterator[Candidates]:
    for entry in json.loads(path.read_text(encoding="utf-8")):
        hits = sorted(entry["hits"], key=lambda hit: int(hit["rank"]))
        if hits:
            ids, texts = (tuple(str(hit[key]) for hit in hits) for key in ("docid", "content"))
            yield Candidates(str(hits[0]["qid"]), str(entry["query"]), ids, texts)


def _search_beir(folder: Path, qrels: Qrels) -> Iterator[Candidates]:
    corpus, queries = (_read_jsonl(folder / file) for file in _BEIR)
    ids = [str(entry["_id"]) for entry in corpus]
    # BEIR's convention: the title, a space, the text.
    texts = [f"{entry.get('title', '')} {entry['text']}".strip() for entry in corpus]
    judged = [entry for entry in queries if str(entry["_id"]) in qrels]
    best = top_documents([str(entry["text"]) for entry in judged], texts, depth=_DEPTH)
    for entry, places in zip(judged, best, strict=True):
        yield Candidates(
            str(entry["_id"]), str(entry["text"]), tuple(ids[i] for i in places), tuple(texts[i] for i in places)
        )


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
