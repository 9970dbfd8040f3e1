"""`rerank_file` and ``crossrank rerank``: files in and out, whole, and resumed after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crossrank import CrossEncoder, InputError
from crossrank._cli.main import main
from crossrank.batch import Reranker, rerank_file

QUERY = "how many people live in berlin"
DOCUMENTS = [
    "Berlin is well known for its museums.",
    "Bread dough rises because yeast turns sugar into gas.",
    "Berlin had a population of 3,520,031 in 2015.",
]
ATOL = 1e-4  # the same kernels on batches of other sizes
OPTIONS: dict[str, Any] = {"threads": 1, "block_bytes": 400}


def write_jsonl(file: Path, count: int) -> None:
    rows = [
        {"id": i, "query": f"{QUERY} {i}", "documents": [f"{text} {i}" for text in DOCUMENTS]} for i in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def read_jsonl(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_jsonl_comes_out_line_for_line_as_one_process_scores_it(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", 20)
    reports: list[tuple[int, int]] = []
    summary = rerank_file(
        tmp_path / "in.jsonl",
        tmp_path / "out.jsonl",
        top_k=2,
        report=lambda rows, total: reports.append((rows, total)),
        **OPTIONS,
    )
    assert (summary.rows, summary.marked, summary.resumed) == (20, 0, 0)
    assert summary.blocks > 5
    assert sum(rows for rows, _ in reports) == 20
    model = CrossEncoder(threads=1)
    for before, after in zip(read_jsonl(tmp_path / "in.jsonl"), read_jsonl(tmp_path / "out.jsonl"), strict=True):
        ranking = model.rank(before["query"], before["documents"], top_k=2)
        assert after["id"] == before["id"]
        assert after["documents"] == [before["documents"][entry["corpus_id"]] for entry in ranking]
        assert after["scores"] == pytest.approx([entry["score"] for entry in ranking], abs=ATOL)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_bad_lines_come_out_marked_in_their_place(tmp_path: Path) -> None:
    lines = [
        json.dumps({"query": QUERY, "documents": DOCUMENTS}).encode(),
        b"\xff no text",
        json.dumps({"query": None, "documents": DOCUMENTS}).encode(),
        json.dumps({"query": QUERY, "documents": [1, DOCUMENTS[0]]}).encode(),
        b'{"query": "caf\xe9", "documents": ["a"]}',  # Latin-1
        b'{"query": "q", "documents": ["a"], "title": "caf\xe9"}',  # in what is not scored
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines * 5))
    summary = rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", **OPTIONS)
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert (len(rows), summary.marked) == (30, 25)
    states = [row["status"].partition(":")[0] for row in rows[:6]]
    encoding = "no UTF-8, or half of a surrogate pair"
    assert states == ["ok", encoding, "query", "1 of 2 documents", encoding, encoding]
    assert rows[5]["line"].encode("utf-8", "surrogateescape") == lines[5]


def test_lines_that_are_ok_are_not_counted_as_marked_whatever_the_prefix_is(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", 2)
    with (tmp_path / "in.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"query": QUERY, "documents": DOCUMENTS, "title": "half of an emoji: \ud83d"}) + "\n")
    summary = rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", prefix="é", threads=1)
    assert (summary.rows, summary.marked) == (3, 0)
    assert [row["éstatus"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["ok"] * 3


def test_parquet_keeps_columns_types_and_order(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="crossrank[batch] is not installed")
    import pyarrow.parquet as parquet

    table = pa.table(
        {
            "id": pa.array(range(30), pa.int16()),
            "query": [f"{QUERY} {i}" for i in range(29)] + [None],
            "documents": [DOCUMENTS] * 30,
            "when": pa.array([0] * 30, pa.timestamp("ms")),
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    summary = rerank_file(tmp_path / "in.parquet", tmp_path / "out.parquet", threads=1, block_bytes=10)
    out = parquet.read_table(tmp_path / "out.parquet")
    assert (summary.rows, summary.marked) == (30, 1)
    assert out.select(table.column_names).equals(table)
    expected = Reranker(threads=1)(table)
    assert out.schema.equals(expected.schema)
    assert out["ranks"].equals(expected["ranks"])
    assert out["status"].equals(expected["status"])
    empty = table.slice(0, 0)
    parquet.write_table(empty, tmp_path / "none.parquet")
    rerank_file(tmp_path / "none.parquet", tmp_path / "none-out.parquet", threads=1)
    assert parquet.read_table(tmp_path / "none-out.parquet").schema.equals(expected.schema)


def test_pairs_of_a_parquet_file_get_scores_and_no_rank(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="crossrank[batch] is not installed")
    import pyarrow.parquet as parquet

    parquet.write_table(pa.table({"query": [QUERY] * 3, "documents": DOCUMENTS}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="group the rows by their query first"):
        rerank_file(tmp_path / "in.parquet", tmp_path / "out.parquet", top_k=1, threads=1)
    rerank_file(tmp_path / "in.parquet", tmp_path / "out.parquet", threads=1)
    out = parquet.read_table(tmp_path / "out.parquet")
    assert out.column_names == ["query", "documents", "score", "status"]
    assert out["score"].to_pylist() == pytest.approx(CrossEncoder(threads=1).score(QUERY, DOCUMENTS).tolist(), abs=ATOL)


def keep(reranker: Reranker, blocks: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Tables as they were, with a status."""
    import pyarrow as pa

    for number, make in blocks:
        table = make()
        yield number, table.append_column("status", pa.array(["ok"] * len(table)))


def test_a_parquet_file_with_two_columns_of_one_name_is_reranked(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="crossrank[batch] is not installed")
    import pyarrow.parquet as parquet

    columns = [pa.array([1, 2]), pa.array([QUERY, None]), pa.array([DOCUMENTS] * 2), pa.array(["a", "b"])]
    table = pa.Table.from_arrays(columns, names=["same", "query", "documents", "same"])
    parquet.write_table(table, tmp_path / "in.parquet")
    summary = rerank_file(tmp_path / "in.parquet", tmp_path / "out.parquet", threads=1, block_bytes=1)
    assert (summary.rows, summary.marked, summary.blocks) == (2, 1, 2)
    with parquet.ParquetFile(tmp_path / "out.parquet") as file:
        out = file.read()
    assert out.column_names == ["same", "query", "documents", "same", "scores", "ranks", "status"]
    assert out.select(range(4)).equals(table)


def test_blocks_of_a_parquet_file_are_about_as_large_as_asked_for(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="crossrank[batch] is not installed")
    import pyarrow.parquet as parquet

    kinds = [f"{i} {'x' * 500}" for i in range(200)]
    encoded = pa.dictionary(pa.int32(), pa.string())
    table = pa.table(
        {
            "query": [QUERY] * 200,
            "documents": [[f"{i} {'y' * 100}"] * (1 + i % 9) for i in range(200)],
            "kind": pa.array(kinds).dictionary_encode(),
            "kinds": pa.array([[kind] for kind in kinds], pa.list_(encoded)),
            "facts": pa.array([{"kind": kind} for kind in kinds], pa.struct([("kind", encoded)])),
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    sizes: list[int] = []

    def measure(reranker: Reranker, blocks: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        for number, block in keep(reranker, blocks):
            sizes.append(block.nbytes)
            yield number, block

    rerank_file(tmp_path / "in.parquet", tmp_path / "out.parquet", block_bytes=20_000, run=measure)
    assert 15 < len(sizes) < 25  # of 200 rows of 2,000 bytes
    assert max(sizes) < 30_000
    out = parquet.read_table(tmp_path / "out.parquet")
    assert out.drop_columns(["status"]).schema.equals(parquet.read_schema(tmp_path / "in.parquet"))
    assert out.drop_columns(["status"]).to_pylist() == table.to_pylist()


def write_run(folder: Path) -> list[str]:
    (folder / "queries.tsv").write_text(f"q1\t{QUERY}\nq2\twhy does bread dough rise\n", "utf-8")
    rows = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(DOCUMENTS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    lines = [f"{qid} Q0 d{i} {i + 1} {10 - i} bm25" for qid in ("q1", "q2", "q3") for i in range(3)]
    lines[4:4] = ["q2 Q0 absent 2 9.5 bm25"]
    (folder / "in.trec").write_text("\n".join(lines) + "\n", "utf-8")
    return lines


def test_a_run_is_reranked_and_what_has_no_text_comes_last(tmp_path: Path) -> None:
    write_run(tmp_path)
    files: dict[str, Any] = {"queries": tmp_path / "queries.tsv", "corpus": tmp_path / "corpus.jsonl"}
    summary = rerank_file(tmp_path / "in.trec", tmp_path / "out.trec", threads=1, block_bytes=1, **files)
    assert (summary.rows, summary.marked, summary.blocks) == (3, 2, 3)
    rows = [line.split() for line in (tmp_path / "out.trec").read_text("utf-8").splitlines()]
    assert [(row[0], row[2], row[5]) for row in rows] == [
        ("q1", "d2", "crossrank"),
        ("q1", "d0", "crossrank"),
        ("q1", "d1", "crossrank"),
        ("q2", "d1", "crossrank"),
        ("q2", "d0", "crossrank"),
        ("q2", "d2", "crossrank"),
        ("q2", "absent", "unscored"),
        ("q3", "d0", "unscored"),
        ("q3", "d1", "unscored"),
        ("q3", "d2", "unscored"),
    ]
    for qid in ("q1", "q2", "q3"):
        scores = [float(row[4]) for row in rows if row[0] == qid]
        assert scores == sorted(scores, reverse=True)
        assert [int(row[3]) for row in rows if row[0] == qid] == list(range(1, len(scores) + 1))
    assert [float(row[4]) for row in rows[:3]] == pytest.approx(
        sorted(CrossEncoder(threads=1).score(QUERY, DOCUMENTS).tolist(), reverse=True), abs=ATOL
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines + lines[:1], "topic q1 comes twice"),
        (lambda lines: ["q1 d0 1"], "line 1 has 3 fields"),
    ],
)
def test_a_run_that_is_none_is_refused_before_anything_is_scored(tmp_path: Path, change: Any, message: str) -> None:
    lines = write_run(tmp_path)
    (tmp_path / "in.trec").write_text("\n".join(change(lines)), "utf-8")
    with pytest.raises(InputError, match=message):
        rerank_file(
            tmp_path / "in.trec",
            tmp_path / "out.trec",
            queries=tmp_path / "queries.tsv",
            corpus=tmp_path / "corpus.jsonl",
        )


def test_lines_that_are_no_document_and_byte_order_marks_do_not_matter(tmp_path: Path) -> None:
    write_run(tmp_path)
    for name in ("in.trec", "queries.tsv"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    good = (tmp_path / "corpus.jsonl").read_text("utf-8")
    bad = ["null", "[1]", "3", "[" * 100_000, "{no", '"d0"']
    (tmp_path / "corpus.jsonl").write_text("\ufeff" + good + "\n".join(bad) + "\n", "utf-8")
    tsv = "".join(f"d{i}\t{text}\n" for i, text in enumerate(DOCUMENTS))
    (tmp_path / "corpus.tsv").write_text("\ufeff" + tsv, "utf-8")
    for corpus in ("corpus.jsonl", "corpus.tsv"):
        out = tmp_path / f"{corpus}.trec"
        summary = rerank_file(
            tmp_path / "in.trec", out, queries=tmp_path / "queries.tsv", corpus=tmp_path / corpus, threads=1
        )
        assert (summary.rows, summary.marked) == (3, 2)
        rows = [line.split() for line in out.read_text("utf-8").splitlines()]
        assert [row[2] for row in rows if row[0] == "q1" and row[5] == "crossrank"] == ["d2", "d0", "d1"]


def test_a_job_that_failed_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", 20)
    scored: list[int] = []

    def few(reranker: Reranker, blocks: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        for number, make in blocks:
            if len(scored) == 3:
                raise KeyboardInterrupt
            scored.append(number)
            yield number, reranker.block(make())

    with pytest.raises(KeyboardInterrupt):
        rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", run=few, **OPTIONS)
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(InputError, match="was begun with other reranker: remove"):
        rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", top_k=1, **OPTIONS)
    summary = rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", **OPTIONS)
    assert summary.resumed == 3
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 20
    with pytest.raises(InputError, match="is there already"):
        rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", **OPTIONS)


def begin(folder: Path, **options: Any) -> None:
    """Write the first block of a job, whatever is in it, and fail."""

    def first(reranker: Reranker, blocks: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        for number, make in blocks:
            yield number, make()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rerank_file(folder / "in.jsonl", folder / "out.jsonl", run=first, **{**OPTIONS, **options})


def test_blocks_of_an_unknown_job_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", 20)
    begin(tmp_path)
    (tmp_path / ".out.jsonl.blocks" / "job.json").unlink()
    with pytest.raises(InputError, match="does not say what its blocks are of: remove it"):
        rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", **OPTIONS)


def test_what_says_whose_the_blocks_are_is_removed_behind_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "in.jsonl", 3)
    left: list[str] = []
    monkeypatch.setattr("shutil.rmtree", lambda folder: left.extend(path.name for path in folder.iterdir()))
    rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", **OPTIONS)
    assert left == ["job.json"]


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        ("checkpoint", "checkpoint/model.safetensors"),
        ("checkpoint", "checkpoint/onnx/model.onnx"),
        ("model.onnx", "model.onnx"),
        ("model.onnx", "model.onnx_data"),
    ],
)
def test_a_model_that_was_trained_again_since_is_another_one(tmp_path: Path, model: str, changed: str) -> None:
    write_jsonl(tmp_path / "in.jsonl", 20)
    (tmp_path / "checkpoint" / "onnx").mkdir(parents=True)
    for name in ("checkpoint/model.safetensors", "checkpoint/onnx/model.onnx", "model.onnx", "model.onnx_data"):
        (tmp_path / name).write_bytes(b"weights")
    begin(tmp_path, model=tmp_path / model)
    begin(tmp_path, model=tmp_path / model)  # goes on
    (tmp_path / changed).write_bytes(b"other weights")
    with pytest.raises(InputError, match="was begun with other files: remove"):
        rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / model, **OPTIONS)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_after_kill_9_no_block_that_was_written_is_scored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "in.jsonl", 60)
    command = [sys.executable, "-c", "import sys; from crossrank._cli.main import main; sys.exit(main(sys.argv[1:]))"]
    command += ["rerank", "in.jsonl", "out.jsonl", "--block-bytes", "1", "--threads", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    blocks, until = tmp_path / ".out.jsonl.blocks", time.monotonic() + 60
    while len(list(blocks.glob("*.jsonl"))) < 5 and time.monotonic() < until:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = {path: path.stat().st_mtime_ns for path in blocks.glob("*.jsonl")}
    assert 5 <= len(written) < 60
    again: list[int] = []

    def counting(reranker: Reranker, cuts: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        for number, make in cuts:
            again.append(number)
            yield number, reranker.block(make())
            assert {path: path.stat().st_mtime_ns for path in written} == written

    options: dict[str, Any] = {"precision": "auto", "device": None, "max_length": None, "relevant_label": None}
    monkeypatch.chdir(tmp_path)
    summary = rerank_file("in.jsonl", "out.jsonl", block_bytes=1, threads=1, run=counting, **options)
    assert summary.resumed == len(written)
    assert {int(path.stem) for path in written}.isdisjoint(again)
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == list(range(60))


def test_two_jobs_of_one_output_at_once_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", 3)

    def second(reranker: Reranker, blocks: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        with pytest.raises(InputError, match="another process is writing it"):
            rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", **OPTIONS)
        for number, make in blocks:
            yield number, reranker.block(make())

    rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", run=second, **OPTIONS)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("in.csv", "out.csv"), {}, "its name must end in one of"),
        (("in.jsonl", "out.parquet"), {}, "of a jsonl input the output is one too"),
        (("in.jsonl", "out.jsonl"), {"corpus": "c", "queries": "q"}, "a TREC run needs"),
        (("in.trec", "out.trec"), {}, "a TREC run needs the files"),
        (("absent.jsonl", "out.jsonl"), {}, "no such file"),
        (("in.jsonl", "out.jsonl"), {"block_bytes": 0}, "block_bytes=0"),
    ],
)
def test_bad_files_and_options_are_refused(tmp_path: Path, names: Any, options: dict[str, Any], message: str) -> None:
    write_jsonl(tmp_path / "in.jsonl", 1)
    with pytest.raises(InputError, match=message):
        rerank_file(*(tmp_path / name for name in names), **options)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl"}


def test_the_command_says_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "in.jsonl", 2)
    with (tmp_path / "in.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"query": null}\n')
    files = [str(tmp_path / name) for name in ("in.jsonl", "out.jsonl")]
    assert main(["rerank", *files, "--top-k", "1", "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"{files[1]}: 3 rows, 1 marked in their status\n")
    assert [len(row.get("scores") or []) for row in read_jsonl(tmp_path / "out.jsonl")] == [1, 1, 0]
    assert main(["rerank", *files]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--actors", "--cores"])
def test_the_commands_options_of_ray_are_refused_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["rerank", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), option, "2"]) != 0
    assert "--ray ADDRESS is needed" in capsys.readouterr().err
