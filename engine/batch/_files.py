"""Files reranked block by block: what is written is kept, so that a job that was killed goes on where it was."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock, Timeout

from crossrank import CrossrankError, InputError, __version__

from ._reranker import Reranker, holds_lists, require_pyarrow
from ._trec import TrecRun, run_lines

# Lines of text, or a pyarrow Table.
Block: TypeAlias = Any
# Numbered blocks to numbered blocks, in any order; blocks are made when they are called.
Run: TypeAlias = Callable[[Reranker, Iterable[tuple[int, Callable[[], Block]]]], Iterable[tuple[int, Block]]]

BLOCK_BYTES = 2_000_000
_SUFFIXES = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".trec": "trec", ".run": "trec"}
_READ_ROWS = 64  # of Parquet at a time
_JOB = "job.json"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a job did.

    Attributes:
        rows: Rows, or of a run topics, in all.
        marked: Those among them whose status is not "ok".
        blocks: Blocks in all.
        resumed: Those that an earlier, killed job had written.
    """

    rows: int
    marked: int
    blocks: int
    resumed: int


@dataclass(frozen=True, slots=True)
class _Cut:
    """One block of the input.

    Attributes:
        number: From 0.
        rows: How many it has.
        make: Reads it.
    """

    number: int
    rows: int
    make: Callable[[], Block]


def rerank_file(
    input: str | Path,
    output: str | Path,
    model: str | Path = "crossrank-mini-en",
    *,
    queries: str | Path | None = None,
    corpus: str | Path | None = None,
    block_bytes: int = BLOCK_BYTES,
    run: Run | None = None,
    report: Callable[[int, int], object] | None = None,
    **options: Any,
) -> Summary:
    """Rerank a Parquet file, JSONL or a TREC run into another of the same kind, which appears whole or not at all.

    Finished blocks lie in a folder beside the output until all are there; the same call, made again after a kill,
    scores only the others. Rows that cannot be scored say so in their status. In a run, documents without a text come
    last in their topic, with the tag ``unscored``.

    Args:
        input: ``.parquet``, ``.jsonl`` or ``.ndjson`` with columns or keys as `Reranker` has them; or a run, ``.trec``
            or ``.run``, whose topics' lines stand together.
        output: A file of the same kind. Pairs get no rank, since those of a query may lie in several blocks.
        model: A name or folder that `CrossEncoder` loads.
        queries: Of a run the queries: ``id<tab>text`` a line, or ``.jsonl`` with ``_id`` or ``id``, and ``text``.
        corpus: Of a run the documents, in the same form; a ``title`` is put before the text.
        block_bytes: About how much text a block has.
        run: Scores the blocks; None does so in this process, `crossrank.ray.actors` gives one that uses Ray.
        report: Called with the number of rows done now, and of all rows.
        options: Of `Reranker`.

    Returns:
        What was done.

    Raises:
        InputError: If a file or option is not what it can be, another job writes this output, or one of other input or
            options began it.
        CrossrankError: If the model cannot be loaded.
    """
    source, target = Path(input), Path(os.path.abspath(output))
    kind = _kind(source)
    if _kind(target) != kind:
        raise InputError(f"{output}: of a {kind} input the output is one too, with the same suffix: {source.suffix}")
    if (queries is not None and corpus is not None) != (kind == "trec"):
        raise InputError("a TREC run needs the files of its queries and of its corpus; other inputs hold their texts")
    if type(block_bytes) is not int or block_bytes < 1:
        raise InputError(f"block_bytes={block_bytes!r:.60}: an integer from 1 is needed")
    if kind == "parquet":
        require_pyarrow()
        if options.get("top_k") is None:
            options["ranks"] = False
    elif kind == "trec":
        options |= {"query": "query", "documents": "documents", "along": ["docids"]}
    reranker = Reranker(model, **options)
    folder = target.with_name(f".{target.name}.blocks")
    job = _describe(reranker, block_bytes, source, queries, corpus)
    if target.exists() and not (folder / _JOB).exists():
        raise InputError(f"{output} is there already: remove it, or write to another file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", timeout=0):
            _begin(folder, job, target)
            total, cuts = _READERS[kind](source, block_bytes, queries, corpus, reranker)
            summary = _score(reranker, folder, kind, total, cuts, run or _here, report)
            _join(folder, kind, summary.blocks, target)
    except Timeout:
        raise InputError(f"{output}: another process is writing it") from None
    except CrossrankError:  # some are OSErrors too
        raise
    except OSError as error:
        raise InputError(f"{input} to {output}: {error}") from error
    for path in folder.iterdir():
        if path.name != _JOB:  # last: it says what the blocks are of
            path.unlink()
    shutil.rmtree(folder)
    return summary


def _kind(file: Path) -> str:
    if file.suffix not in _SUFFIXES:
        raise InputError(f"{file}: its name must end in one of {', '.join(_SUFFIXES)}, which say what it holds")
    return _SUFFIXES[file.suffix]


def _describe(reranker: Reranker, block_bytes: int, *files: str | Path | None) -> dict[str, Any]:
    """What blocks hang on: those of another job are not to be mixed with ours."""
    given = [Path(file) for file in files if file is not None]
    for file in given:
        if not file.is_file():
            raise InputError(f"{file}: no such file")
    marks = {}
    for file in (*given, *_model_files(Path(reranker.model))):
        facts = file.stat()
        marks[os.path.abspath(file)] = [facts.st_size, facts.st_mtime_ns]
    options = {name: value for name, value in vars(reranker).items() if name != "threads"}
    described = {"crossrank": __version__, "files": marks, "block_bytes": block_bytes, "reranker": options}
    return json.loads(json.dumps(described, default=str))  # type: ignore[no-any-return]


def _model_files(model: Path) -> list[Path]:
    """Those of a model's folder, or of a graph with what lies beside it under its name; none of a name's."""
    if model.is_dir():
        found = [*model.iterdir(), *(model / "onnx").glob("*")]
    else:
        found = [path for path in model.parent.iterdir() if path.name.startswith(model.name)] if model.is_file() else []
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _begin(folder: Path, job: dict[str, Any], target: Path) -> None:
    """Check that blocks which are there belong to this job; without blocks, begin it."""
    place = folder / _JOB
    if any(path.suffix.removeprefix(".") in _READERS for path in folder.iterdir()):
        if not place.exists():
            raise InputError(f"{folder} does not say what its blocks are of: remove it, or write to another file")
        before = json.loads(place.read_text("utf-8"))
        if before != job:
            other = ", ".join(name for name in job if job[name] != before.get(name))
            raise InputError(f"{target} was begun with other {other}: remove {folder}, or write to another file")
    else:
        _write(place, lambda file: file.write(json.dumps(job).encode()))


def _score(
    reranker: Reranker,
    folder: Path,
    kind: str,
    total: int,
    cuts: Iterator[_Cut],
    run: Run,
    report: Callable[[int, int], object] | None,
) -> Summary:
    count = resumed = 0
    rows: dict[int, int] = {}  # of blocks under way

    def missing() -> Iterator[tuple[int, Callable[[], Block]]]:
        nonlocal count, resumed
        for cut in cuts:
            count += 1
            if _place(folder, kind, cut.number).exists():
                resumed += 1
                if report is not None:
                    report(cut.rows, total)
            else:
                rows[cut.number] = cut.rows
                yield cut.number, cut.make

    for number, block in run(reranker, missing()):
        _write(_place(folder, kind, number), partial(_WRITERS[kind], block, reranker))
        if report is not None:
            report(rows.pop(number), total)
    marked = sum(_marked(folder, kind, i, reranker) for i in range(count))
    return Summary(total, marked, count, resumed)


def _here(reranker: Reranker, blocks: Iterable[tuple[int, Callable[[], Block]]]) -> Iterator[tuple[int, Block]]:
    for number, make in blocks:
        yield number, reranker.block(make())


def _place(folder: Path, kind: str, number: int) -> Path:
    return folder / f"{number:08}.{kind}"


def _write(place: Path, write: Callable[[Any], object]) -> None:
    """A file that is there whole or not at all, after a loss of power too."""
    part = place.with_name(f"{place.name}.part")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(place)


def _write_lines(block: Sequence[str], reranker: Reranker, file: Any) -> None:
    file.writelines(f"{line}\n".encode("utf-8", "surrogateescape") for line in block)


def _write_run(block: Sequence[str], reranker: Reranker, file: Any) -> None:
    _write_lines([line for topic in block for line in run_lines(json.loads(topic), reranker.prefix)], reranker, file)


def _write_table(block: Any, reranker: Reranker, file: Any) -> None:
    require_pyarrow().parquet.write_table(block, file)


def _marked(folder: Path, kind: str, number: int, reranker: Reranker) -> int:
    """Rows of a block that are not "ok"."""
    place, status = _place(folder, kind, number), reranker.prefix + "status"
    if kind == "parquet":
        column = _read_block(place, [status]).column(0)
        return sum(value != "ok" for value in column.to_pylist())
    with place.open("rb") as file:
        if kind == "trec":
            return len({line.split()[0] for line in file if line.endswith(b" unscored\n")})
        # the last key, in both ways in which a line may be written
        names = json.dumps(status), json.dumps(status, ensure_ascii=False)
        endings = tuple(f'{name}: "ok"}}\n'.encode("utf-8", "surrogatepass") for name in names)
        return sum(not line.endswith(endings) for line in file)


def _read_block(place: Path, columns: Sequence[str] | None = None) -> Any:
    """A table; not by ``read_table``, for which all names must differ."""
    with require_pyarrow().parquet.ParquetFile(place) as file:
        return file.read(columns)


def _join(folder: Path, kind: str, count: int, target: Path) -> None:
    """Write all blocks, in their order, to the output."""
    places = [_place(folder, kind, i) for i in range(count)]
    part = folder / "output"
    if kind == "parquet":
        parquet = require_pyarrow().parquet
        with parquet.ParquetWriter(part, parquet.read_schema(places[0])) as writer:
            for place in places:
                writer.write_table(_read_block(place))
    else:
        with part.open("wb") as file:
            for place in places:
                with place.open("rb") as block:
                    shutil.copyfileobj(block, file)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)


def _read_parquet(
    source: Path, block_bytes: int, _queries: object, _corpus: object, reranker: Reranker
) -> tuple[int, Iterator[_Cut]]:
    pa = require_pyarrow()
    try:
        file = pa.parquet.ParquetFile(source)
    except pa.ArrowInvalid as error:
        raise InputError(f"{source}: {error}") from error
    schema = file.schema_arrow
    reranker.check(schema.names)
    if reranker.top_k is not None and not holds_lists(pa, schema.field(reranker.documents).type, []):
        raise InputError(
            f"top_k needs a list of documents in each row, and {reranker.documents!r} holds one: a query's pairs may "
            "lie in several blocks; group the rows by their query first"
        )

    # A dictionary counts, and is stored, as a whole, which may be more than the file's texts: a block gets its own.
    plain = pa.schema([field.with_type(_decoded(pa, field.type)) for field in schema])

    def whole(parts: list[Any]) -> Any:
        # the empty table makes a copy also of what is part of one batch
        return pa.concat_tables([*parts, plain.empty_table()]).combine_chunks().cast(schema)

    def cuts() -> Iterator[_Cut]:
        waiting: list[Any] = []
        number = size = 0
        for batch in file.iter_batches(_READ_ROWS):
            table = pa.Table.from_batches([batch]).cast(plain)
            rows = max(1, len(table) * block_bytes // max(1, 8 * table.nbytes))  # an eighth of a block
            for start in range(0, len(table), rows):
                waiting.append(table.slice(start, rows))
                size += waiting[-1].nbytes
                if size >= block_bytes:
                    yield _Cut(number, sum(map(len, waiting)), partial(whole, waiting))
                    number, size, waiting = number + 1, 0, []
        if waiting or number == 0:
            yield _Cut(number, sum(map(len, waiting)), partial(whole, waiting))

    return file.metadata.num_rows, cuts()


def _decoded(pa: Any, kind: Any) -> Any:
    """A type of Arrow with the values in place of a dictionary's indices."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_decoded(pa, field.type)) for field in kind])
    for is_list, make in ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list)):
        if is_list(kind):
            return make(kind.value_field.with_type(_decoded(pa, kind.value_type)))
    return kind


def _read_jsonl(source: Path, block_bytes: int, *_: Any) -> tuple[int, Iterator[_Cut]]:
    with source.open("rb") as file:
        total = sum(bool(line.strip()) for line in file)

    def cuts() -> Iterator[_Cut]:
        number, size = 0, 0
        lines: list[str] = []
        with source.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                lines.append(line.decode("utf-8", "surrogateescape").rstrip("\r\n").removeprefix("\ufeff"))
                size += len(line)
                if size >= block_bytes:
                    yield _Cut(number, len(lines), partial(list, lines))
                    number, size, lines = number + 1, 0, []
        if lines:
            yield _Cut(number, len(lines), partial(list, lines))

    return total, cuts()


def _read_trec(
    source: Path, block_bytes: int, queries: str | Path, corpus: str | Path, reranker: Reranker
) -> tuple[int, Iterator[_Cut]]:
    run = TrecRun(source, Path(queries), Path(corpus))

    def cuts() -> Iterator[_Cut]:
        for number, topics in enumerate(run.blocks(block_bytes)):
            yield _Cut(number, len(topics), partial(run.lines, topics))

    return run.topics, cuts()


_READERS: dict[str, Callable[..., tuple[int, Iterator[_Cut]]]] = {
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
    "trec": _read_trec,
}
_WRITERS: dict[str, Callable[..., None]] = {"parquet": _write_table, "jsonl": _write_lines, "trec": _write_run}
