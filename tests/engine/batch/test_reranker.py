"""`crossrank.batch.Reranker`: Arrow tables in and out, whole whatever is in them."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import CrossEncoder, InputError
from crossrank.batch import Reranker
from tests.support.artifacts import make_artifact

pa = pytest.importorskip("pyarrow", reason="crossrank[batch] is not installed")

QUERIES = ["how many people live in berlin", "why does bread dough rise"]
DOCUMENTS = [
    "Berlin is well known for its museums.",
    "Bread dough rises because yeast turns sugar into gas.",
    "Berlin had a population of 3,520,031 in 2015.",
]
# The same kernels on batches of other sizes; logits of up to 9.
ATOL = 1e-4


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    return CrossEncoder(threads=1)


def lists(**more: Any) -> Any:
    return pa.table({"id": [7, 8], "query": QUERIES, "documents": [DOCUMENTS, DOCUMENTS[:2]], **more})


def test_a_list_per_row_gets_the_scores_and_ranks_of_the_model(model: CrossEncoder) -> None:
    table = lists(kept=["a", None])
    out = Reranker(threads=1)(table)
    assert out.column_names == [*table.column_names, "scores", "ranks", "status"]
    assert out.select(table.column_names).equals(table)
    for query, documents, row in zip(QUERIES, [DOCUMENTS, DOCUMENTS[:2]], out.to_pylist(), strict=True):
        ranking = model.rank(query, documents)
        assert row["scores"] == pytest.approx(model.score(query, documents).tolist(), abs=ATOL)
        assert [row["ranks"][entry["corpus_id"]] for entry in ranking] == list(range(1, len(documents) + 1))
        assert row["status"] == "ok"


def test_a_pair_per_row_gets_its_score_and_its_rank_in_the_query(model: CrossEncoder) -> None:
    queries = [QUERIES[0], QUERIES[1], QUERIES[0], QUERIES[1], QUERIES[0]]
    documents = [DOCUMENTS[0], DOCUMENTS[0], DOCUMENTS[2], DOCUMENTS[1], DOCUMENTS[1]]
    out = Reranker(threads=1)(pa.table({"query": queries, "documents": documents, "id": range(5)}))
    expected = model.predict(list(zip(queries, documents, strict=True)))
    assert out["score"].to_pylist() == pytest.approx(expected.tolist(), abs=ATOL)
    assert out["rank"].to_pylist() == [2, 2, 1, 1, 3]
    best = Reranker(threads=1, top_k=1)(pa.table({"query": queries, "documents": documents, "id": range(5)}))
    assert best["id"].to_pylist() == [2, 3]


def test_top_k_keeps_the_best_of_each_list_with_what_goes_along(model: CrossEncoder) -> None:
    out = Reranker(threads=1, top_k=2, along=["ids"])(lists(ids=[["x", "y", "z"], ["u", "v"]]))
    first, second = out.to_pylist()
    assert (first["ids"], second["ids"]) == (["z", "x"], ["v", "u"])
    assert first["documents"] == [DOCUMENTS[2], DOCUMENTS[0]]
    assert first["ranks"] == [1, 2]
    assert first["scores"] == sorted(first["scores"], reverse=True)


def test_bad_rows_and_documents_are_marked_and_kept() -> None:
    table = pa.table(
        {
            "query": [QUERIES[0], None, QUERIES[0], QUERIES[0], QUERIES[1]],
            "documents": [[DOCUMENTS[0], None, DOCUMENTS[2]], DOCUMENTS, None, [], DOCUMENTS],
        }
    )
    for top_k in (None, 1):
        out = Reranker(threads=1, top_k=top_k)(table)
        assert out["status"].to_pylist() == [
            "1 of 3 documents: documents[1]: null",
            "query: null",
            "documents: null",
            "ok",
            "ok",
        ]
        rows = out.to_pylist()
        assert rows[0]["ranks"] == [2, None, 1]
        assert [score is None for score in rows[0]["scores"]] == [False, True, False]
        assert rows[0]["documents"] == [DOCUMENTS[0], None, DOCUMENTS[2]]  # whole, with top_k too
        assert rows[1]["scores"] == [None, None, None]
        assert rows[2]["scores"] is None
        assert rows[3]["scores"] == []
    pairs = Reranker(threads=1)(pa.table({"query": [None, "q", "q"], "documents": ["d", None, "d"]})).to_pylist()
    assert [row["status"] for row in pairs] == ["query: null", "document: null", "ok"]
    assert [row["rank"] for row in pairs] == [None, None, 1]
    numbers = Reranker(threads=1)(pa.table({"query": ["q", "q"], "documents": [1, None]})).to_pylist()
    assert [row["status"] for row in numbers] == ["document: int, not a text", "document: null"]
    binary = Reranker(threads=1)(pa.table({"query": ["q"], "documents": [[b"d"]]})).to_pylist()
    assert binary[0]["status"] == "1 of 1 documents: documents[0]: bytes, not a text"


KINDS = [pa.large_list(pa.large_string()), pa.list_(pa.string(), 3), pa.list_(pa.dictionary(pa.int32(), pa.string()))]


@pytest.mark.parametrize("kind", [*KINDS, pa.list_view(pa.string())])
def test_every_kind_of_list_is_one(kind: Any) -> None:
    table = pa.table({"query": pa.array(QUERIES[:1], pa.large_string()), "documents": pa.array([DOCUMENTS], kind)})
    assert Reranker(threads=1)(table)["ranks"].to_pylist() == [[2, 3, 1]]
    best = Reranker(threads=1, top_k=1)(table)
    assert best["documents"].to_pylist() == [[DOCUMENTS[2]]]
    assert best["ranks"].to_pylist() == [[1]]


def test_an_empty_table_and_a_record_batch_keep_their_kind() -> None:
    empty = Reranker(threads=1)(lists().slice(0, 0))
    full = Reranker(threads=1)(lists())
    assert len(empty) == 0
    assert empty.schema == full.schema
    batch = Reranker(threads=1)(lists().combine_chunks().to_batches()[0])
    assert isinstance(batch, pa.RecordBatch)
    assert pa.Table.from_batches([batch]).equals(full)
    none = Reranker(threads=1)(lists().combine_chunks().to_batches()[0].slice(0, 0))
    assert none.schema == full.schema


def test_scores_that_a_sigmoid_makes_equal_are_ranked_as_the_model_ranks_them(tmp_path: Path) -> None:
    documents = [*DOCUMENTS, *DOCUMENTS[::-1]]
    model = CrossEncoder(threads=1, activation_fn="sigmoid")
    (row,) = Reranker(threads=1, activation_fn="sigmoid")(
        pa.table({"query": QUERIES[:1], "documents": [documents]})
    ).to_pylist()
    assert [row["ranks"][entry["corpus_id"]] for entry in model.rank(QUERIES[0], documents)] == [1, 2, 3, 4, 5, 6]
    assert row["scores"] == pytest.approx(model.score(QUERIES[0], documents).tolist(), abs=ATOL)


def test_a_model_of_two_labels_scores_by_the_relevant_one(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path, labels=2)
    model = CrossEncoder(folder, relevant_label=1, threads=1)
    (row,) = Reranker(folder, relevant_label=1, threads=1)(
        pa.table({"query": QUERIES[:1], "documents": [DOCUMENTS]})
    ).to_pylist()
    assert row["scores"] == pytest.approx(model.score(QUERIES[0], DOCUMENTS).tolist(), abs=1e-6)
    assert [row["ranks"][entry["corpus_id"]] for entry in model.rank(QUERIES[0], DOCUMENTS)] == [1, 2, 3]


def test_bad_rows_end_nothing_on_a_model_of_two_labels(tmp_path: Path) -> None:
    table = pa.table({"query": [None, *QUERIES], "documents": [DOCUMENTS, [None], DOCUMENTS]})
    rows = Reranker(make_artifact(tmp_path, labels=2), relevant_label=1, threads=1)(table).to_pylist()
    assert [row["status"] for row in rows] == ["query: null", "1 of 1 documents: documents[0]: null", "ok"]
    assert [row["scores"] for row in rows[:2]] == [[None, None, None], [None]]
    assert sorted(rows[2]["ranks"]) == [1, 2, 3]


def test_a_pickle_holds_options_alone_and_a_process_loads_a_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = Reranker(threads=1, max_length=128)
    small = pickle.dumps(reranker)
    assert len(small) < 1_000
    reranker(lists())
    assert pickle.dumps(reranker) == small
    assert pickle.loads(small).load() is reranker.load()


def test_threads_are_the_cores_that_an_engine_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Reranker().load().info().threads == 1
    assert Reranker(threads=2).load().info().threads == 2


def test_permuting_rows_and_documents_permutes_what_is_added() -> None:
    generator = np.random.default_rng(0)
    documents = [f"{text} {i}" for i in range(5) for text in DOCUMENTS]
    order = generator.permutation(len(documents)).tolist()
    table = pa.table({"query": QUERIES[:1] * 2, "documents": [documents, [documents[i] for i in order]]})
    first, second = Reranker(threads=1)(table).to_pylist()
    assert second["scores"] == pytest.approx([first["scores"][i] for i in order], abs=ATOL)
    assert second["ranks"] == [first["ranks"][i] for i in order]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": True}, "top_k=True"),
        ({"along": "ids"}, "a list of columns"),
        ({"activation_fn": abs}, "its name is needed"),
        ({"ranks": False, "top_k": 1}, "top_k needs ranks"),
        ({"query": None}, "query=None"),
        ({"model": 3}, "model is a int"),
    ],
)
def test_bad_options_are_refused_where_they_are_given(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reranker(**options)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"query": ["q"], "text": ["d"]}), "'documents' is no column of the table, which has 'query', 'text'"),
        (pa.table({"query": ["q"], "documents": ["d"], "status": [1]}), "a column 'status' already: pass a prefix"),
        ([["q", "d"]], "list: a pyarrow Table"),
    ],
)
def test_bad_tables_are_refused(table: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reranker(threads=1)(table)


def test_a_prefix_makes_room_for_a_second_model() -> None:
    out = Reranker(threads=1, prefix="second_")(Reranker(threads=1)(lists()))
    assert out.column_names[-6:] == ["scores", "ranks", "status", "second_scores", "second_ranks", "second_status"]


def test_lines_of_json_come_back_with_all_their_keys() -> None:
    lines = [
        json.dumps({"query": QUERIES[0], "documents": DOCUMENTS, "more": {"a": [1, 2.5]}}),
        json.dumps({"query": QUERIES[0], "documents": DOCUMENTS[2]}),
        json.dumps({"query": QUERIES[0], "documents": [DOCUMENTS[0], 5, "half of an emoji: \ud83d"]}),
        "{no",
        "[1]",
        json.dumps({"query": 1, "documents": "d"}),
        json.dumps({"query": "q", "documents": "d", "score": 1}),
        '{"query": "q", "documents": "d", "title": "caf\udce9"}',  # what stands for a byte of Latin-1
    ]
    rows = [json.loads(line) for line in Reranker(threads=1).lines(lines)]
    assert len(rows) == len(lines)
    assert rows[0]["more"] == {"a": [1, 2.5]}
    assert rows[0]["ranks"] == [2, 3, 1]
    assert set(rows[1]) == {"query", "documents", "score", "status"}
    assert rows[2]["status"] == "2 of 3 documents: documents[1]: int, not a text"
    assert rows[2]["documents"][2] == "half of an emoji: \ud83d"
    assert rows[3]["line"] == "{no"
    assert rows[3]["status"].startswith("no JSON")
    assert rows[4]["status"] == "list, not an object"
    assert rows[5]["status"] == "query: int, not a text"
    assert rows[6]["status"] == "has 'score' already: a prefix for the new ones is needed"
    assert rows[7] == {"line": lines[7], "status": "no UTF-8, or half of a surrogate pair"}
    (cut,) = Reranker(threads=1, top_k=1).lines(lines[1:2])
    assert json.loads(cut)["status"] == "documents: str, not a list"


def test_without_pyarrow_the_error_names_the_extra_and_lines_work() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from crossrank.batch import Reranker\n"
        'print(Reranker(threads=1).lines([\'{"query": "q", "documents": "d"}\'])[0][-14:])\n'
        "try: Reranker()(None)\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ['"status": "ok"}'[-14:], "tables need pyarrow: pip install 'crossrank[batch]'"]
