"""A TREC run with the texts of its queries and documents, read topic by topic."""

import codecs
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from crossrank import InputError

_DOCUMENT_BYTES = 400  # about, of a passage: what it counts in a block


@dataclass(frozen=True, slots=True)
class Topic:
    """A query of a run with its documents, best first.

    Attributes:
        qid: Its id.
        docids: The documents' ids.
    """

    qid: str
    docids: list[str]


class TrecRun:
    """A run and where its texts lie; of the corpus only the places of the run's own documents are kept in memory.

    Args:
        run: ``qid Q0 docid rank score tag`` a line, a topic's lines together.
        queries: ``id<tab>text`` a line, or JSONL.
        corpus: The same.

    Attributes:
        topics: How many there are.

    Raises:
        InputError: If a line is none, or a topic's lines do not stand together.
    """

    def __init__(self, run: Path, queries: Path, corpus: Path) -> None:
        self._run, self._corpus = run, corpus
        qids: set[str] = set()
        docids: set[str] = set()
        for topic in self._read():
            if topic.qid in qids:
                raise InputError(f"{run}: topic {topic.qid} comes twice: its lines must stand together (sort -s -k1,1)")
            qids.add(topic.qid)
            docids.update(topic.docids)
        self.topics = len(qids)
        self._queries = {qid: text for qid, _, text in _texts(queries, qids)}
        self._places = {docid: place for docid, place, _ in _texts(corpus, docids)}

    def blocks(self, block_bytes: int) -> Iterator[list[Topic]]:
        """Topics in blocks of about so many bytes of text."""
        topics: list[Topic] = []
        for topic in self._read():
            topics.append(topic)
            if sum(len(topic.docids) for topic in topics) * _DOCUMENT_BYTES >= block_bytes:
                yield topics
                topics = []
        if topics:
            yield topics

    def lines(self, topics: Sequence[Topic]) -> list[str]:
        """Topics as JSON, with their texts; null stands for one that is not there."""
        with self._corpus.open("rb") as file:
            parse = _parser(self._corpus)

            def text(docid: str) -> str | None:
                if docid not in self._places:
                    return None
                file.seek(self._places[docid])
                found: str | None = parse(file.readline())[1]
                return found

            return [
                json.dumps(
                    {
                        "qid": topic.qid,
                        "query": self._queries.get(topic.qid),
                        "docids": topic.docids,
                        "documents": [text(docid) for docid in topic.docids],
                    }
                )
                for topic in topics
            ]

    def _read(self) -> Iterator[Topic]:
        with self._run.open("rb") as file:
            for qid, lines in groupby(_fields(self._run, file), lambda fields: fields[0]):
                yield Topic(qid, [fields[2] for fields in lines])


def run_lines(topic: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines of a run of a topic that was scored; what has no score comes last, with the tag ``unscored``."""
    docids = topic["docids"]
    scores, ranks = (topic[prefix + name] or [None] * len(docids) for name in ("scores", "ranks"))
    scored = sorted((rank, score, docid) for rank, score, docid in zip(ranks, scores, docids, strict=True) if rank)
    lowest = scored[-1][1] if scored else 0.0
    left = [docid for docid, rank in zip(docids, ranks, strict=True) if not rank]
    entries = [(docid, repr(score), "crossrank") for _, score, docid in scored]
    entries += [(docid, repr(lowest - i), "unscored") for i, docid in enumerate(left, 1)]
    return [f"{topic['qid']} Q0 {docid} {i} {score} {tag}" for i, (docid, score, tag) in enumerate(entries, 1)]


def _fields(run: Path, file: Any) -> Iterator[list[str]]:
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        fields = line.decode("utf-8", "surrogateescape").split()
        if len(fields) == 6:
            yield fields
        elif fields:
            raise InputError(
                f"{run}: line {number} has {len(fields)} fields; 6 are needed: qid Q0 docid rank score tag"
            )


def _texts(file: Path, wanted: Collection[str]) -> Iterator[tuple[str, int, str | None]]:
    """Ids, places in the file and texts of the lines that are wanted."""
    parse, place = _parser(file), 0
    with file.open("rb") as lines:
        for line in lines:
            try:
                key, text = parse(line if place else line.removeprefix(codecs.BOM_UTF8))
            except (ValueError, RecursionError):
                key, text = "", None
            if key in wanted:
                yield key, place, text
            place += len(line)


def _parser(file: Path) -> Any:
    return _of_json if file.suffix in (".jsonl", ".ndjson", ".json") else _of_tsv


def _of_tsv(line: bytes) -> tuple[str, str | None]:
    key, tab, text = line.decode("utf-8", "surrogateescape").rstrip("\r\n").partition("\t")
    return key, text if tab else None


def _of_json(line: bytes) -> tuple[str, str | None]:
    row = json.loads(line)  # skips a byte order mark
    if not isinstance(row, dict):
        raise ValueError(f"{type(row).__name__}, not an object")
    key = next((str(row[name]) for name in ("_id", "id", "docid", "qid") if name in row), "")
    text, title = row.get("text"), row.get("title")
    return key, f"{title} {text}" if title and isinstance(text, str) else text
