"""crossrank.ray with the real Ray: rows as one process gives them, whatever dies."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossrank import CrossEncoder, CrossrankError, InputError, ModelNotFoundError
from crossrank.batch import Reranker, rerank_file

pa = pytest.importorskip("pyarrow", reason="crossrank[batch] is not installed")
ray = pytest.importorskip("ray", reason="crossrank[ray] is not installed; make test-scale")

QUERY = "how many people live in berlin"
DOCUMENTS = [
    "Berlin is well known for its museums.",
    "Bread dough rises because yeast turns sugar into gas.",
    "Berlin had a population of 3,520,031 in 2015.",
]
ATOL = 1e-4  # the same kernels on batches of other sizes


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
    context = __import__("ray.data", fromlist=["DataContext"]).DataContext.get_current()
    context.enable_progress_bars = False
    yield
    ray.shutdown()


def table(rows: int, seed: int = 0) -> Any:
    generator = random.Random(seed)
    documents: list[Any] = [
        [f"{generator.choice(DOCUMENTS)} {generator.random():.4f}" for _ in range(generator.randint(1, 12))]
        for _ in range(rows)
    ]
    queries: list[Any] = [f"{QUERY} {i}" for i in range(rows)]
    if rows > 12:
        documents[3], documents[7], queries[11] = None, [None, *DOCUMENTS], None
    return pa.table({"id": range(rows), "query": queries, "documents": pa.array(documents, pa.list_(pa.string()))})


def assert_equal(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    found = sorted(found, key=lambda row: row["id"])
    assert [row["id"] for row in found] == [row["id"] for row in expected]  # none lost, none doubled
    for one, other in zip(found, expected, strict=True):
        assert {k: v for k, v in one.items() if k not in ("scores", "ranks")} == {
            k: v for k, v in other.items() if k not in ("scores", "ranks")
        }
        if other["scores"] is None:
            assert one["scores"] is None
            continue
        # approx takes None for None
        assert list(one["scores"]) == [None if s is None else pytest.approx(s, abs=ATOL) for s in other["scores"]]
        assert list(one["ranks"]) == list(other["ranks"])


def test_a_dataset_is_reranked_as_by_one_process_row_for_row() -> None:
    from crossrank.ray import rerank

    whole = table(300)
    ds = ray.data.from_arrow([whole.slice(i, 50) for i in range(0, 300, 50)])
    assert_equal(rerank(ds, actors=2, top_k=5).take_all(), Reranker(threads=1, top_k=5)(whole).to_pylist())


def test_the_class_itself_is_what_map_batches_takes() -> None:
    whole = table(60)
    out = ray.data.from_arrow(whole).map_batches(
        Reranker,
        fn_constructor_kwargs={"model": "crossrank-mini-en"},
        batch_format="pyarrow",
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )
    assert_equal(out.take_all(), Reranker(threads=1)(whole).to_pylist())


def test_an_actor_has_as_many_threads_as_it_was_given_cores() -> None:
    class Count:
        def __call__(self, batch: Any) -> Any:
            return pa.table({"threads": [Reranker().load().info().threads]})

    for cores in (1, 2):
        ds = ray.data.from_arrow(table(1)).map_batches(
            Count, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=1), num_cpus=cores
        )
        assert ds.take_all() == [{"threads": cores}]


def test_pairs_get_scores_and_with_top_k_ranks_among_all_of_their_query() -> None:
    from crossrank.ray import rerank

    rows = [{"id": i, "query": f"{QUERY} {i % 3}", "documents": f"{DOCUMENTS[i % 2]} {i}"} for i in range(30)]
    ds = ray.data.from_items(rows, override_num_blocks=4)
    expected = CrossEncoder(threads=1).predict([(row["query"], row["documents"]) for row in rows])
    found = sorted(rerank(ds, actors=2).take_all(), key=lambda row: row["id"])
    assert [row["score"] for row in found] == pytest.approx(expected.tolist(), abs=ATOL)
    assert "rank" not in found[0]
    best = rerank(ds, actors=1, top_k=2).take_all()
    for query in {row["query"] for row in rows}:
        own = sorted((i for i, row in enumerate(rows) if row["query"] == query), key=lambda i: -expected[i])
        assert [row["id"] for row in sorted(best, key=lambda row: row["rank"]) if row["query"] == query] == own[:2]


def test_bad_columns_and_options_are_refused_before_any_actor_starts() -> None:
    from crossrank.ray import rerank

    ds = ray.data.from_arrow(table(2))
    with pytest.raises(InputError, match="'text' is no column"):
        rerank(ds, documents="text")
    with pytest.raises(InputError, match=r"num_cpus=0\.5"):
        rerank(ds, num_cpus=0.5)  # type: ignore[arg-type]


def test_a_file_is_reranked_by_actors_as_by_one_process(tmp_path: Path) -> None:
    from crossrank.ray import actors

    rows = table(40).to_pylist()
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    summary = rerank_file(
        tmp_path / "in.jsonl", tmp_path / "out.jsonl", block_bytes=500, run=actors(count=2, num_cpus=1)
    )
    assert (summary.rows, summary.marked) == (40, 3)
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["id"] for row in out] == list(range(40))
    expected = [json.loads(line) for line in Reranker(threads=1).lines([json.dumps(row) for row in rows])]
    assert_equal([row for row in out if "scores" in row], [row for row in expected if "scores" in row])


@pytest.mark.slow
def test_the_command_starts_a_ray_of_its_own(tmp_path: Path) -> None:
    rows = [{"id": i, "query": QUERY, "documents": DOCUMENTS} for i in range(12)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    code = "import sys; from crossrank._cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = ["rerank", "in.jsonl", "out.jsonl", "--ray", "local", "--actors", "2", "--block-bytes", "500"]
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("out.jsonl: 12 rows\n")
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [(row["id"], row["ranks"]) for row in out] == [(i, [2, 3, 1]) for i in range(12)]


def test_what_a_worker_raises_reaches_the_caller_as_it_is(tmp_path: Path) -> None:
    from crossrank.ray import actors

    pytest.importorskip("pyarrow.parquet")
    import pyarrow.parquet as parquet

    rows = pa.table({"query": ["q"], "documents": [["d"]], "ids": [["a", "b"]]})
    parquet.write_table(rows, tmp_path / "in.parquet")
    (out,) = _parquet_out(tmp_path, parquet, actors(count=1))
    assert out["status"].startswith("ids: a list of 1")  # a bad row is none
    (tmp_path / "in.jsonl").write_text('{"query": "q", "documents": "d"}\n', "utf-8")
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        rerank_file(tmp_path / "in.jsonl", tmp_path / "o.jsonl", "/nowhere/at/all", run=actors(count=1))


def test_workers_that_are_gone_for_good_are_an_error_of_ours() -> None:
    from crossrank.ray._data import _next

    class Pool:
        def get_next_unordered(self) -> Any:
            raise ray.exceptions.ActorDiedError

    with pytest.raises(CrossrankError, match="Ray gave up on its workers: The actor died"):
        _next(Pool())


def test_more_actors_than_the_cluster_has_room_for_are_refused(tmp_path: Path) -> None:
    from crossrank.ray import actors

    (tmp_path / "in.jsonl").write_text('{"query": "q", "documents": "d"}\n', "utf-8")
    for run, message in (
        (actors(count=3), "3 actors with num_cpus=1: ask for fewer; there is room for 2, on nodes of 2 cores"),
        (actors(num_cpus=3), "1 actors with num_cpus=3: ask for fewer; there is room for 0"),
        (actors(count=2, num_cpus=2), "room for 1"),
    ):
        with pytest.raises(InputError, match=message):
            rerank_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", run=run)


@pytest.mark.parametrize("options", [{"count": 0}, {"count": -1}, {"count": True}, {"num_cpus": 0}, {"num_cpus": 0.5}])
def test_numbers_of_actors_and_cores_are_integers_from_one(options: dict[str, Any]) -> None:
    from crossrank.ray import actors

    ((name, value),) = options.items()
    with pytest.raises(InputError, match=f"{name}={value}: an integer from 1 is needed"):
        actors(**options)


def test_a_dataset_without_rows_is_given_back_and_one_without_a_type_refused() -> None:
    from crossrank.ray import rerank

    assert rerank(ray.data.from_items([])).take_all() == []
    nulls = ray.data.from_arrow(pa.table({"query": ["q"], "documents": pa.nulls(1)}))
    with pytest.raises(InputError, match="'documents' has nulls alone in the first rows"):
        rerank(nulls)


def _parquet_out(folder: Path, parquet: Any, run: Any) -> list[dict[str, Any]]:
    rerank_file(folder / "in.parquet", folder / "out.parquet", top_k=1, along=["ids"], run=run)
    return parquet.read_table(folder / "out.parquet").to_pylist()  # type: ignore[no-any-return]


@pytest.mark.slow
def test_ten_actors_killed_at_random_lose_double_and_change_no_row() -> None:
    from crossrank.ray import rerank

    whole = table(8_000, seed=1)
    ds = ray.data.from_arrow([whole.slice(i, 200) for i in range(0, 8_000, 200)])
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        generator = random.Random(0)
        while len(killed) < 10 and not done.wait(2.0):
            pids = [pid for pid in _actors() if pid not in killed]
            if pids:
                pid = generator.choice(pids)
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        rows = rerank(ds, actors=2, batch_size=50).take_all()
    finally:
        done.set()
        thread.join()
    assert len(killed) == 10
    assert_equal(rows, Reranker(threads=2)(whole).to_pylist())


def _actors() -> list[int]:
    """Processes of Ray's actors that have the model, of this cluster."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            name = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
        except OSError:
            continue
        if name.startswith((b"ray::MapWorker", b"ray::_MapWorker")):
            found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_a_deployment_answers_rerank_clients_and_says_whether_it_is_healthy() -> None:
    pytest.importorskip("ray.serve", reason="ray[serve] is not installed")
    pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")
    from ray import serve

    from crossrank.ray import deployment

    application = deployment(name="mini", documents_per_s=200, documents=10, latency_ms=500)
    assert application._bound_deployment.max_ongoing_requests == 10
    serve.start(http_options={"host": "127.0.0.1", "port": 8123})
    try:
        serve.run(application, name="reranking")
        body = json.dumps({"model": "mini", "query": QUERY, "documents": DOCUMENTS, "top_n": 2}).encode()
        for path in ("/v1/rerank", "/v2/rerank"):
            request = urllib.request.Request(f"http://127.0.0.1:8123{path}", body, {"Content-Type": "application/json"})
            answer = json.load(urllib.request.urlopen(request, timeout=60))
            assert [result["index"] for result in answer["results"]] == [2, 0]
        handle = serve.get_deployment_handle("crossrank", app_name="reranking")
        assert handle.check_health.remote().result(timeout_s=60) is None
        until = time.monotonic() + 30
        while serve.status().applications["reranking"].status != "RUNNING" and time.monotonic() < until:
            time.sleep(0.5)
        assert serve.status().applications["reranking"].status == "RUNNING"
    finally:
        serve.shutdown()
