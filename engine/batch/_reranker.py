"""`Reranker`: the worker of Ray Data, Spark, Dask and others, Arrow tables in and out."""

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from crossrank import CrossEncoder, InputError, MissingDependencyError

from ._judge import OK, Judged, judge, judge_pairs, problem_of

T = TypeVar("T")

NEW = ("score", "rank", "scores", "ranks", "status")  # columns

_loading = Lock()


class Reranker:
    """Scores tables of queries and documents; what makes it is all that its pickle holds.

    The model is loaded at the first table, once in a process, however many copies of the object it gets.

    A table has a row per pair, or in each row a list of documents; the type of its documents column decides. Every
    column is kept, and these are added:

    - to pairs ``score`` (float32), ``rank`` (int32, from 1, among the pairs of the same query in this table) and
      ``status``;
    - to lists ``scores`` and ``ranks``, lists in the documents' order, and ``status``.

    ``status`` is "ok", or says what cannot be scored in the row: null, no text, no list. Such rows and documents have
    null for score and rank, and end nothing.

    Args:
        model: A name or folder that `CrossEncoder` loads.
        query: The column of queries.
        documents: The column of documents.
        top_k: Keep each query's best only: of pairs the rows, of lists the entries, then best first. Rows
            whose status is not "ok" are kept whole.
        along: Other list columns, as long as the documents', that are sorted and cut with them: ids, titles.
        ranks: Whether pairs get their ``rank``, which means little where a query's pairs are spread over tables.
        prefix: In front of the names of new columns.
        threads: CPU threads, or None for ``OMP_NUM_THREADS``, which Ray, Spark and Dask set to the cores that they
            give a worker; without it for as many as the process may use.
        options: Of `CrossEncoder`. ``activation_fn`` by name.

    Raises:
        InputError: If an option is not what it can be; for columns that are absent, when a table comes.
        CrossrankError: When the first table comes, if the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path = "crossrank-mini-en",
        *,
        query: str = "query",
        documents: str = "documents",
        top_k: int | None = None,
        along: Sequence[str] = (),
        ranks: bool = True,
        prefix: str = "",
        threads: int | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, str | Path):
            raise InputError(f"model is a {type(model).__name__}: a name or a folder, which each worker loads itself")
        if not isinstance(options.get("activation_fn"), str | None):
            raise InputError("activation_fn: its name is needed, such as 'sigmoid', which any worker knows")
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise InputError(f"top_k={top_k!r:.60}: how many to keep, an integer from 1, or None for all")
        if top_k is not None and not ranks:
            raise InputError("top_k needs ranks=True")
        if isinstance(along, str):
            raise InputError(f"along={along!r:.60}: a list of columns is needed")
        for name, value in (("query", query), ("documents", documents), ("prefix", prefix)):
            if not isinstance(value, str):
                raise InputError(f"{name}={value!r:.60}: a text is needed")
        self.model: str = str(model)  # a Path is not what another system's worker may unpickle
        self.query: str = query
        self.documents: str = documents
        self.prefix: str = prefix
        self.top_k: int | None = top_k
        self.along: tuple[str, ...] = tuple(along)
        self.ranks: bool = ranks
        self.threads: int | None = threads
        self.options: dict[str, Any] = options

    def load(self) -> CrossEncoder:
        """The model, which this process may have loaded already."""
        threads = self.threads
        if threads is None and os.environ.get("OMP_NUM_THREADS", "").isdecimal():
            threads = int(os.environ["OMP_NUM_THREADS"]) or None
        with _loading:
            return _load(self.model, threads, tuple(sorted(self.options.items())))

    def __call__(self, table: T) -> T:
        """Score a table.

        Args:
            table: A pyarrow Table or RecordBatch.

        Returns:
            One of the same kind, with new columns, and with ``top_k`` of pairs with fewer rows.

        Raises:
            InputError: If it is none, a column is absent, or has the name of a new one.
        """
        pa = require_pyarrow()
        if isinstance(table, pa.RecordBatch):
            whole = self(pa.Table.from_batches([table]))
            (batch,) = whole.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], whole.schema)]
            return batch  # type: ignore[no-any-return]
        if not isinstance(table, pa.Table):
            raise InputError(f"{type(table).__name__}: a pyarrow Table or RecordBatch is needed")
        self.check(table.column_names)
        column = table.column(self.documents)
        queries, documents = table.column(self.query).to_pylist(), column.to_pylist()
        if holds_lists(pa, column.type, documents):
            return self._lists(pa, table, queries, documents)  # type: ignore[no-any-return]
        judged = judge_pairs(self.load(), queries, documents)
        new = {"score": pa.array([_number(found, 0) for found in judged], pa.float32())}
        if self.ranks:
            new["rank"] = pa.array([_rank(found, 0) for found in judged], pa.int32())
        added = self._add(pa, table, new, [found.status for found in judged])
        if self.top_k is None:
            return added  # type: ignore[no-any-return]
        return added.filter(pa.array([found.ranks[0] <= self.top_k for found in judged], pa.bool_()))  # type: ignore[no-any-return]

    def block(self, block: Any) -> Any:
        """Score a table, or a list of lines of JSON."""
        return self.lines(block) if isinstance(block, list) else self(block)

    def lines(self, lines: Sequence[str]) -> list[str]:
        """Score lines of JSON, each an object with the query and its document or list of documents.

        Args:
            lines: The lines; what is no such object comes back as ``{"line": …, "status": …}``.

        Returns:
            As many lines, objects with the same keys as they were, and those of the columns of a table.
        """
        new = {self.prefix + name for name in NEW}
        rows = [_read(line, new) for line in lines]
        whole = [i for i, row in enumerate(rows) if isinstance(row, dict)]
        # with top_k what is no list is a bad row: a query's pairs may lie in several blocks
        lists = [i for i in whole if self.top_k is not None or isinstance(rows[i].get(self.documents), list)]
        pairs = sorted({*whole} - {*lists})
        model = self.load()
        for places, judging in ((lists, judge), (pairs, judge_pairs)):
            queries, documents = ([rows[i].get(name) for i in places] for name in (self.query, self.documents))
            for i, found in zip(places, judging(model, queries, documents), strict=True):
                if judging is judge:
                    rows[i] |= self._entry(rows[i], found)
                else:
                    rows[i] |= {self.prefix + "score": _number(found, 0), self.prefix + "status": found.status}
        return [
            _dumped(row if isinstance(row, dict) else {"line": line, self.prefix + "status": row})
            for line, row in zip(lines, rows, strict=True)
        ]

    def _lists(self, pa: Any, table: Any, queries: list[Any], documents: list[Any]) -> Any:
        judged = judge(self.load(), queries, documents)
        names = [self.documents, *self.along] if self.top_k is not None else []
        rows = table.select(names).to_pylist()
        entries = [self._entry(row, found) for row, found in zip(rows, judged, strict=True)]
        for name in names:
            at, field = table.column_names.index(name), table.schema.field(name)
            if pa.types.is_fixed_size_list(field.type):  # which the best of it are not
                field = field.with_type(pa.list_(field.type.value_field))
            values = pa.array([{**row, **entry}[name] for row, entry in zip(rows, entries, strict=True)], field.type)
            table = table.set_column(at, field, values)
        new = {}
        for name, kind in (("scores", pa.list_(pa.float32())), ("ranks", pa.list_(pa.int32()))):
            new[name] = pa.array([entry[self.prefix + name] for entry in entries], kind)
        return self._add(pa, table, new, [entry[self.prefix + "status"] for entry in entries])

    def _entry(self, row: dict[str, Any], found: Judged) -> dict[str, Any]:
        """What a row of a list gets, in place of what it has where its best are kept alone."""
        count, status = len(found.scores), found.status
        entry: dict[str, Any] = {}
        places = list(range(count))
        if self.top_k is not None and status == OK:
            columns: dict[str, Any] = {name: row.get(name) for name in (self.documents, *self.along)}
            for name, value in columns.items():
                if not isinstance(value, list) or len(value) != count:
                    status = f"{name}: a list of {count}, as long as the documents', is needed to be cut with them"
            if status == OK:
                places = np.argsort(found.ranks, kind="stable")[: self.top_k].tolist()
                entry = {name: [value[i] for i in places] for name, value in columns.items()}
        unread = count == 0 and status != OK
        entry[self.prefix + "scores"] = None if unread else [_number(found, i) for i in places]
        entry[self.prefix + "ranks"] = None if unread else [_rank(found, i) for i in places]
        return entry | {self.prefix + "status": status}

    def _add(self, pa: Any, table: Any, new: dict[str, Any], statuses: Sequence[str]) -> Any:
        new["status"] = pa.array(statuses, pa.string())
        for name, values in new.items():
            table = table.append_column(self.prefix + name, values)
        return table

    def check(self, names: Sequence[str]) -> None:
        """Raise `InputError` if a table of these columns lacks one, or has one of a new one's name."""
        for name in (self.query, self.documents, *self.along):
            if names.count(name) != 1:
                raise InputError(f"{name!r} is no column of the table, which has {', '.join(map(repr, names)):.300}")
        for name in NEW:
            if self.prefix + name in names:
                raise InputError(
                    f"the table has a column {self.prefix + name!r} already: pass a prefix for the new ones"
                )


def require_pyarrow() -> Any:
    """pyarrow, imported when it is needed.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise MissingDependencyError("tables need pyarrow: pip install 'crossrank[batch]'") from error


@lru_cache(maxsize=2)
def _load(model: str, threads: int | None, options: tuple[tuple[str, Any], ...]) -> CrossEncoder:
    return CrossEncoder(model, threads=threads, **dict(options))


def holds_lists(pa: Any, kind: Any, values: Sequence[Any]) -> bool:
    """Whether a column of this type, and these values, holds lists of documents."""
    if pa.types.is_nested(kind) and hasattr(kind, "value_type"):
        return True
    # Ray's column of Python objects, of rows of several types
    return isinstance(kind, pa.BaseExtensionType) and any(isinstance(value, list) for value in values)


def _read(line: str, new: set[str]) -> Any:
    """An object, or what is wrong with the line."""
    if (problem := problem_of(line)) is not None:  # it would come out with other characters
        return problem
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    if not isinstance(value, dict):
        return f"{type(value).__name__}, not an object"
    taken = sorted(new & value.keys())
    return f"has {taken[0]!r} already: a prefix for the new ones is needed" if taken else value


def _dumped(value: dict[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if problem_of(text) is None else json.dumps(value)  # of a half of an emoji


def _number(found: Judged, i: int) -> float | None:
    return None if found.ranks[i] == 0 else float(found.scores[i])


def _rank(found: Judged, i: int) -> int | None:
    return int(found.ranks[i]) or None
