"""Judgments and runs in the forms that evaluation tools exchange."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from crossrank import InputError

from .files import read_text, write_whole

Qrels = Mapping[str, Mapping[str, int]]  # query id -> document id -> grade
Run = Mapping[str, Sequence[tuple[str, float]]]  # query id -> document ids and scores, best first

_BEIR_HEADER = ["query-id", "corpus-id", "score"]


def read_qrels(path: Path) -> Qrels:
    """Judgments in TREC form, ``query-id 0 document-id grade`` a line, or in BEIR's, three columns with a header.

    Raises:
        InputError: If the file cannot be read or a line is something else.
    """
    qrels: dict[str, dict[str, int]] = {}
    lines = read_text(path).splitlines()
    beir = bool(lines) and lines[0].split() == _BEIR_HEADER
    wanted = " ".join(_BEIR_HEADER) if beir else "query-id 0 document-id grade"
    for number, line in list(enumerate(lines, 1))[beir:]:
        try:
            query_id, *_, doc_id, grade = values = line.split()
            if len(values) != (3 if beir else 4):
                raise ValueError(line)
            qrels.setdefault(query_id, {})[doc_id] = int(grade)
        except ValueError as error:
            raise InputError(f"{path}:{number}: {line!r} is not: {wanted}") from error
    return qrels


def read_run(path: Path) -> Run:
    """A run in TREC form, ``query-id Q0 document-id rank score tag`` a line.

    Scores decide, as for every tool that reads runs; equal ones keep the file's order.

    Raises:
        InputError: If the file cannot be read, a line is something else, or a query has a document twice.
    """
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            query_id, _, doc_id, _, text, _ = line.split()
            score = float(text)
            if np.isnan(score):
                raise ValueError(text)
        except ValueError as error:
            raise InputError(f"{path}:{number}: {line!r} is not: query-id Q0 document-id rank score tag") from error
        scores = found.setdefault(query_id, {})
        if doc_id in scores:
            raise InputError(f"{path}:{number}: query {query_id} has document {doc_id} twice")
        scores[doc_id] = score
    return {query_id: sorted(scores.items(), key=lambda hit: -hit[1]) for query_id, scores in found.items()}


def run_tag(name: str) -> str:
    """A system's name as a word that a run's lines and its file's name can hold.

    >>> run_tag("a, cpu int8"), run_tag("bge-m3.v2")
    ('a-cpu-int8', 'bge-m3.v2')
    """
    return re.sub(r"[^\w.-]+", "-", name)


def write_run(path: Path, run: Run, *, tag: str) -> None:
    """Write a run in TREC form; the tag names the system.

    Tools break ties their own ways, and trec_eval reads scores as float32: a score that is not below the one before
    it becomes the next float32 that is. All others are the system's own.

    Raises:
        InputError: If an id or the tag is empty or has a blank in it, which the form has no place for.
    """
    lines = []
    for query_id, hits in run.items():
        score = np.float32(np.inf)
        for rank, (doc_id, value) in enumerate(hits, 1):
            score = min(np.float32(value), np.nextafter(score, np.float32(-np.inf)))
            fields = (query_id, "Q0", doc_id, str(rank), str(score), tag)
            if any(field.split() != [field] for field in fields):
                raise InputError(
                    f"{path}: a line of a TREC run is six words; {fields} has a blank in one, or an empty one"
                )
            lines.append(" ".join(fields) + "\n")
    write_whole(path, "".join(lines))
