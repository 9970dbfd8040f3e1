"""examples/: each file is run as a reader would.

What a test changes in one is data: a port, a bound, how processes start.
"""

import asyncio
import importlib.util
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from crossrank import CrossEncoder

EXAMPLES = Path(__file__).parents[2] / "examples"

FASTAPI, GRPC, WORKERS, FORK = "fastapi_service", "grpc_service", "worker_processes", "before_the_fork"
QUICK_START, CASCADE = "quick_start", "cascade"
SEARCH, LONG, METRICS = "search_engine", "long_documents", "metrics"
BM25S, TANTIVY, ELASTIC = "bm25s_cascade", "tantivy_cascade", "elasticsearch_cascade"
POSTGRES, LANCEDB = "postgres_cascade", "lancedb_reranker"
RAY, RAY_SERVE, BEAM = "ray_rerank", "ray_serve", "beam_rerank"
SPARK, DASK = "spark_rerank", "dask_rerank"
LANGCHAIN, LLAMA_INDEX, HAYSTACK = "langchain_reranker", "llama_index_reranker", "haystack_ranker"

QUERY = "how many people live in berlin"
ANSWER = "Berlin had a population of 3,520,031 in 2015."
DOCUMENTS = ["Berlin is well known for its museums.", "Bread dough rises because yeast turns sugar into gas.", ANSWER]
LONG_TEXT = "the rest of a sentence that nobody has asked for " * 30
# The same kernels on batches of other sizes; logits of up to 9.
ATOL = 1e-4
WAIT_S = 60

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    return CrossEncoder(threads=1)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import an example."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def run_example(name: str, folder: Path, *, arguments: Any = (), wait_s: Any = WAIT_S, **changes: str) -> list[str]:
    """Run an example as a program. Returns the lines that it prints."""
    path = folder / "program.py"
    path.write_text(changed(name, **changes), encoding="utf-8")
    command = [sys.executable, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=wait_s, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def changed(name: str, **changes: str) -> str:
    code = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    for old, new in changes.items():
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    return code


def test_every_example_is_run_here() -> None:
    tested = {
        FASTAPI,
        GRPC,
        WORKERS,
        FORK,
        SEARCH,
        LONG,
        METRICS,
        LANGCHAIN,
        LLAMA_INDEX,
        HAYSTACK,
        QUICK_START,
        CASCADE,
        *(BM25S, TANTIVY, ELASTIC, POSTGRES, LANCEDB),
        *(RAY, RAY_SERVE, BEAM, SPARK, DASK),
    }
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested | {"demo"}  # which has a test of its own


def test_quick_start_prints_what_the_readme_shows(tmp_path: Path) -> None:
    """On int8 kernels of another processor the last digits may differ."""
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    code = (EXAMPLES / f"{QUICK_START}.py").read_text(encoding="utf-8").split("\n\n", 1)[1]
    assert f"```python\n{code}```\n" in readme
    (shown,) = re.findall(r"```text\n(  7.*?)```", readme, re.DOTALL)
    printed = run_example(QUICK_START, tmp_path)
    for line, expected in zip(printed, shown.splitlines(), strict=True):
        assert line.split(maxsplit=1)[1] == expected.split(maxsplit=1)[1]
        assert float(line.split()[0]) == pytest.approx(float(expected.split()[0]), abs=0.05)


def test_cascade_ranks_with_both_models(tmp_path: Path) -> None:
    lines = run_example(CASCADE, tmp_path, **{'"ms-marco-MiniLM-L12-v2"': '"crossrank-mini-en"'})
    assert [line.split(maxsplit=1)[1] for line in lines] == [ANSWER, DOCUMENTS[0]]


# FastAPI


def ask(service: Any, *bodies: dict[str, Any]) -> list[Any]:
    """The answers to requests that come at once, from opening to closing the service."""
    httpx = pytest.importorskip("httpx")

    async def main() -> list[Any]:
        app = service.app
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            options = {"base_url": "http://service", "headers": {"Content-Type": "application/json"}, "timeout": WAIT_S}
            async with httpx.AsyncClient(transport=transport, **options) as client:
                contents = [json.dumps(body) for body in bodies]  # unlike httpx's own, with half an emoji too
                return await asyncio.gather(*(client.post("/rank", content=content) for content in contents))

    return asyncio.run(main())


def test_fastapi_service_ranks_as_the_model(load: Callable[[str], Any], model: CrossEncoder) -> None:
    pytest.importorskip("fastapi")
    service = load(FASTAPI)
    service.DEADLINE_MS = 1000 * WAIT_S  # a loaded machine shall not fail this
    first, second = ask(
        service,
        {"query": QUERY, "documents": DOCUMENTS},
        {"query": QUERY, "documents": DOCUMENTS, "top_k": 1},
    )
    assert first.status_code == 200
    assert first.json()["complete"] is True
    expected = model.rank(QUERY, DOCUMENTS)
    assert [hit["corpus_id"] for hit in first.json()["hits"]] == [hit["corpus_id"] for hit in expected]
    assert [hit["score"] for hit in first.json()["hits"]] == pytest.approx([hit["score"] for hit in expected], abs=ATOL)
    assert [hit["corpus_id"] for hit in second.json()["hits"]] == [2]


def test_fastapi_service_refuses_what_is_too_large_or_no_text(load: Callable[[str], Any]) -> None:
    pytest.importorskip("fastapi")
    bodies: list[dict[str, Any]] = [
        {"query": QUERY, "documents": ["sea"] * 1_001},
        {"query": QUERY, "documents": ["sea" * 10_000]},
        {"query": "sea" * 1_000, "documents": ["sea"]},
        {"query": QUERY, "documents": []},
        {"query": QUERY, "documents": ["sea"], "top_k": 0},
        {"query": QUERY},
        {"query": QUERY, "documents": ["half of an emoji: \ud83d"]},
    ]
    answers = ask(load(FASTAPI), *bodies)
    assert [answer.status_code for answer in answers] == [422] * len(bodies)
    assert all(len(answer.content) < 1_000 for answer in answers)  # the input is not sent back


def test_fastapi_service_answers_503_under_overload(load: Callable[[str], Any]) -> None:
    pytest.importorskip("fastapi")
    service = load(FASTAPI)
    service.MAX_QUEUE_TOKENS, service.DEADLINE_MS = 500, 1000 * WAIT_S
    documents = [f"{i} {LONG_TEXT}" for i in range(4)]
    answers = ask(service, *({"query": f"{QUERY} {i}", "documents": documents} for i in range(30)))
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["Retry-After"] == "1"
            assert "tokens wait already" in answer.json()["detail"]


def test_fastapi_service_answers_by_its_deadline(load: Callable[[str], Any]) -> None:
    pytest.importorskip("fastapi")
    service = load(FASTAPI)
    service.DEADLINE_MS = 100
    documents = [f"{i} {LONG_TEXT}" for i in range(1_000)]  # many seconds of work
    (answer,) = ask(service, {"query": QUERY, "documents": documents, "top_k": 1_000})
    assert answer.status_code == 200
    assert answer.json()["complete"] is False
    hits = answer.json()["hits"]
    assert sorted(hit["corpus_id"] for hit in hits) == list(range(1_000))
    unscored = [hit["corpus_id"] for hit in hits if hit["score"] is None]
    assert unscored == sorted(unscored)
    assert set(range(500, 1_000)) < set(unscored)  # the beginning of the list was read
    assert [hit["score"] is None for hit in hits] == [False] * (1_000 - len(unscored)) + [True] * len(unscored)


@contextmanager
def program(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own, which is ended whatever happens."""
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail((folder / "log").read_text())


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_fastapi_service_ends_what_is_under_way_on_sigterm(tmp_path: Path) -> None:
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package)
    httpx = pytest.importorskip("httpx")
    (tmp_path / "service.py").write_text(changed(FASTAPI, **{"DEADLINE_MS = 500": f"DEADLINE_MS = {1000 * WAIT_S}"}))
    port = free_port()
    options = ["--port", str(port), "--timeout-graceful-shutdown", str(WAIT_S)]
    with program([sys.executable, "-m", "uvicorn", "service:app", *options], tmp_path) as process:
        wait_for_port(port, process, tmp_path)
        url = f"http://127.0.0.1:{port}/rank"
        long = {"query": QUERY, "documents": [f"{i} {LONG_TEXT}" for i in range(40)]}
        with httpx.Client(timeout=WAIT_S) as client, ThreadPoolExecutor(1) as pool:
            assert client.post(url, json={"query": QUERY, "documents": DOCUMENTS}).status_code == 200
            call = pool.submit(client.post, url, json=long)
            time.sleep(0.3)  # it is under way, and takes longer
            process.send_signal(signal.SIGTERM)
            answer = call.result()
        assert (answer.status_code, answer.json()["complete"]) == (200, True)
        assert process.wait(WAIT_S) in (0, -signal.SIGTERM)  # uvicorn raises the signal again when it is done
        assert "Application shutdown complete" in (tmp_path / "log").read_text()


# gRPC


@contextmanager
def grpc_server(folder: Path, **changes: str) -> Iterator[tuple[Any, Any, subprocess.Popen[bytes]]]:
    """The gRPC block as a program: the library, a client's call, the process."""
    grpc = pytest.importorskip("grpc")
    port = free_port()
    code = changed(GRPC, **{"localhost:50051": f"127.0.0.1:{port}"}, **changes)
    (folder / "server.py").write_text(code, encoding="utf-8")
    with program([sys.executable, "server.py"], folder) as process:
        wait_for_port(port, process, folder)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/Reranker/Rank", lambda body: json.dumps(body).encode(), json.loads)
            yield grpc, call, process


def test_grpc_service_ranks_by_the_callers_deadline_and_ends_on_sigterm(tmp_path: Path, model: CrossEncoder) -> None:
    with grpc_server(tmp_path) as (_, call, process):
        answer = call({"query": QUERY, "documents": DOCUMENTS}, timeout=WAIT_S)
        expected = [hit["corpus_id"] for hit in model.rank(QUERY, DOCUMENTS)]
        assert ([hit["corpus_id"] for hit in answer["hits"]], answer["complete"]) == (expected, True)
        many = {"query": QUERY, "documents": [f"{i} {LONG_TEXT}" for i in range(1_000)]}
        answer = call(many, timeout=5)  # not DEADLINE_EXCEEDED
        assert answer["complete"] is False
        under_way = call.future({"query": QUERY, "documents": many["documents"][:40]}, timeout=WAIT_S)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert under_way.result()["complete"] is True
        assert process.wait(WAIT_S) == 0


def test_grpc_service_refuses_under_overload(tmp_path: Path) -> None:
    with grpc_server(tmp_path, **{"200_000": "500"}) as (grpc, call, _):
        documents = [f"{i} {LONG_TEXT}" for i in range(4)]
        calls = [
            call.future({"query": f"{QUERY} {i}", "documents": documents}, timeout=WAIT_S, wait_for_ready=True)
            for i in range(30)
        ]
        assert {call.code() for call in calls} == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


# Processes


@pytest.mark.parametrize("start", ["spawn", pytest.param("fork", marks=needs_fork)])
def test_worker_processes_give_the_same_scores(tmp_path: Path, model: CrossEncoder, start: str) -> None:
    lines = run_example(
        WORKERS, tmp_path, **{'START, WORKERS, THREADS = "spawn"': f'START, WORKERS, THREADS = "{start}"'}
    )
    expected = model.score(QUERY, [DOCUMENTS[0], ANSWER]).tolist()
    assert [json.loads(line) for line in lines] == [expected] * 4  # the same graph, batches and threads


@needs_fork
def test_a_model_loaded_before_the_fork_works_in_the_children_and_counts_anew(
    tmp_path: Path, model: CrossEncoder
) -> None:
    parent, *children = (line.split(" ", 2) for line in run_example(FORK, tmp_path))
    expected = model.score(QUERY, [DOCUMENTS[0], ANSWER]).tolist()
    assert [json.loads(scores) for _, _, scores in (parent, *children)] == [expected] * 5
    assert parent[0] not in {process for process, _, _ in children}
    for process in {process for process, _, _ in children}:
        counts = [int(requests) for own, requests, _ in children if own == process]
        assert sorted(counts) == list(range(1, len(counts) + 1))


@needs_fork
def test_a_model_that_was_closed_before_the_fork_is_closed_in_the_child(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import os, crossrank\n"
        "model = crossrank.CrossEncoder(threads=1)\n"
        "model.close()\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        model.score('sea', ['sea'])\n"
        "    except crossrank.Closed:\n"
        "        os._exit(7)\n"
        "    os._exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, timeout=WAIT_S, check=True)
    assert done.stdout == b"7\n"


def test_a_model_that_is_sent_to_another_process_is_loaded_there(model: CrossEncoder) -> None:
    sent = pickle.dumps(model)
    assert len(sent) < 2000
    assert pickle.loads(sent).score(QUERY, ["sea"]).tolist() == model.score(QUERY, ["sea"]).tolist()


# Searching


def test_search_ranks_what_the_first_stage_found(load: Callable[[str], Any], model: CrossEncoder) -> None:
    pytest.importorskip("bm25s")
    search = load(SEARCH)
    found = search.candidates(QUERY)
    assert found[0] != ANSWER  # there is something to do
    expected = [found[hit["corpus_id"]] for hit in model.rank(QUERY, found)]
    assert search.search(QUERY, deadline_ms=1000 * WAIT_S) == expected
    assert expected[0] == ANSWER


def test_search_falls_back_on_the_first_stage_where_time_is_up(load: Callable[[str], Any]) -> None:
    pytest.importorskip("bm25s")
    search = load(SEARCH)
    assert search.search(QUERY, deadline_ms=1e-6) == search.candidates(QUERY)


# 1,000 candidates, a cascade, 10 hits

EMBEDDED = {'LARGE = "ms-marco-MiniLM-L12-v2"': 'LARGE = "crossrank-mini-en"'}


@pytest.mark.parametrize(("name", "package"), [(BM25S, "bm25s"), (TANTIVY, "tantivy")])
def test_a_cascade_ranks_what_an_engine_in_the_process_found(tmp_path: Path, name: str, package: str) -> None:
    pytest.importorskip(package)
    lines = run_example(name, tmp_path, **EMBEDDED)
    assert len(lines) >= 3
    assert lines[0] == ANSWER


def test_a_cascade_ranks_what_elasticsearchs_own_client_found(tmp_path: Path) -> None:
    pytest.importorskip("elasticsearch")
    asked: list[tuple[str, Any]] = []

    class Documented(BaseHTTPRequestHandler):
        """Elasticsearch, as its reference shows an answer of _search."""

        def do_POST(self) -> None:
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            hits = [
                {"_index": "passages", "_id": str(i), "_score": 3.0 - i, "_source": {"text": text}}
                for i, text in enumerate(DOCUMENTS)
            ]
            found = {"total": {"value": 3, "relation": "eq"}, "max_score": 3.0, "hits": hits}
            shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
            body = json.dumps({"took": 5, "timed_out": False, "_shards": shards, "hits": found}).encode()
            self.send_response(200)
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Type", "application/vnd.elasticsearch+json; compatible-with=9")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Documented) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            lines = run_example(ELASTIC, tmp_path, arguments=[url, "passages", QUERY], **EMBEDDED)
        finally:
            server.shutdown()
    assert lines[0] == f"2 {ANSWER}"
    assert len(lines) == 3
    ((path, body),) = asked
    assert path.startswith("/passages/_search")
    assert (body["query"], body["size"]) == ({"match": {"text": QUERY}}, 1_000)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server of its own on a socket in a folder. Gives its address."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("no Postgres in /usr/lib/postgresql")
    place = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path is short, and its owner another user
    options: dict[str, Any] = {"cwd": place, "check": True, "capture_output": True, "timeout": WAIT_S}
    if os.geteuid() == 0:  # which Postgres refuses
        shutil.chown(place, "nobody", "nogroup")
        options |= {"user": "nobody", "group": "nogroup"}
    data, control = str(place / "data"), str(programs[-1].with_name("pg_ctl"))
    try:
        subprocess.run([str(programs[-1]), "-D", data, "-U", "test", "--auth=trust", "-N"], **options)
        flags = f"-k {place} -c listen_addresses= -c fsync=off"
        subprocess.run([control, "-D", data, "-l", str(place / "log"), "-o", flags, "-w", "start"], **options)
        try:
            yield f"postgresql://test@/postgres?host={place}"
        finally:
            subprocess.run([control, "-D", data, "-m", "immediate", "stop"], **options)
    finally:
        shutil.rmtree(place)


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
def test_a_cascade_ranks_what_postgres_found(tmp_path: Path, load: Callable[[str], Any]) -> None:
    psycopg = pytest.importorskip("psycopg")
    example = load(POSTGRES)
    with postgres(tmp_path) as address:
        with psycopg.connect(address) as connection:
            connection.execute(example.TABLE)
            for i, text in enumerate([*DOCUMENTS, "a sentence about nothing"]):
                connection.execute("INSERT INTO passages (id, text) VALUES (%s, %s)", (i, text))
        lines = run_example(
            POSTGRES, tmp_path, arguments=[address, "how many people live in Berlin's houses?"], **EMBEDDED
        )
    assert sorted(lines) == [f"0 {DOCUMENTS[0]}", f"2 {ANSWER}"]


def test_lancedb_reranks_by_its_own_interface(tmp_path: Path, load: Callable[[str], Any], model: CrossEncoder) -> None:
    lancedb = pytest.importorskip("lancedb")
    pyarrow = pytest.importorskip("pyarrow")
    reranker = load(LANCEDB).CrossrankReranker(model)
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array([0.0, 0, 1, 0, 0, 1], pyarrow.float32()), 2)
    table = lancedb.connect(tmp_path).create_table("passages", pyarrow.table({"text": DOCUMENTS, "vector": vectors}))
    table.create_fts_index("text")
    expected = model.rank(QUERY, DOCUMENTS)
    by_vector = table.search([0.0, 0.0]).limit(10).rerank(reranker, QUERY).to_list()
    assert [row["text"] for row in by_vector] == [DOCUMENTS[hit["corpus_id"]] for hit in expected]
    assert [row["_relevance_score"] for row in by_vector] == pytest.approx([hit["score"] for hit in expected], abs=ATOL)
    words = table.search("berlin", query_type="fts").limit(10).rerank(reranker).to_list()
    assert {row["text"] for row in words} == {DOCUMENTS[0], ANSWER}
    both = table.search(query_type="hybrid").vector([0.0, 0.0]).text(QUERY).limit(10).rerank(reranker).to_list()
    assert both[0]["text"] == ANSWER
    assert table.search("nothing of it", query_type="fts").limit(10).rerank(reranker).to_list() == []


# Beyond one machine


def test_ray_keeps_the_best_of_each_list(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="crossrank[ray] is not installed; make test-scale")
    lines = run_example(RAY, tmp_path, wait_s=5 * WAIT_S)
    assert [line for line in lines if line[:1].isdecimal()] == [
        f"{i} Berlin had 3,520,031 people in 2015." for i in range(4)
    ]


def test_ray_serve_gets_an_application(load: Callable[[str], Any]) -> None:
    pytest.importorskip("ray.serve", reason="crossrank[ray] is not installed; make test-scale")
    pytest.importorskip("msgspec")
    deployed = load(RAY_SERVE).app._bound_deployment
    assert deployed.max_ongoing_requests == 8
    assert deployed._deployment_config.autoscaling_config.target_ongoing_requests == pytest.approx(5.6)


def test_beam_prints_the_best_and_the_bad(tmp_path: Path) -> None:
    pytest.importorskip("apache_beam", reason="crossrank[beam] is not installed; make test-scale")
    lines = sorted(run_example(BEAM, tmp_path))
    assert [line.partition(" [")[0] for line in lines] == [
        "failed None",
        "how many people live in berlin",
        "why does bread dough rise",
    ]
    assert lines[1].endswith(", 1]")


def test_spark_marks_a_bad_row_and_keeps_it(tmp_path: Path) -> None:
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    lines = run_example(SPARK, tmp_path, wait_s=5 * WAIT_S)
    assert lines[0] == "0 [1, 2] ok"
    assert lines[1].endswith("1 of 4 documents: documents[3]: null")
    assert len(lines) == 4


def test_dask_scores_its_partitions(tmp_path: Path) -> None:
    pytest.importorskip("dask.dataframe")
    lines = run_example(DASK, tmp_path)
    assert [line.split()[:2] for line in lines] == [["2", "ok"], ["0", "ok"], ["1", "ok"]]


def test_long_documents_are_found_in_windows(tmp_path: Path) -> None:
    cut, read = run_example(LONG, tmp_path)
    assert cut == "[0, 1] (0, 1)"  # both begin the same
    ids, truncated = re.findall(r"\((\d+), (\d+)\)", read), read.rsplit("] ")[1]
    assert ids[0][0] == "1"
    assert int(ids[0][1]) > 0
    assert truncated == "()"


# Metrics


def test_metrics_count_calls_and_their_seconds(load: Callable[[str], Any]) -> None:
    service = load(METRICS)
    for count in (1, 2, 3):
        service.model.score(QUERY, DOCUMENTS[:count])
    with pytest.raises(ValueError, match="document 0"):
        service.model.score(QUERY, [3])
    lines = service.metrics().splitlines()
    types = dict(line.split()[2:] for line in lines if line.startswith("#"))
    values = {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}
    for name in values:
        assert re.fullmatch(r'[a-z_]+(\{le="[^"]+"\})?', name)
        assert re.sub(r"(_bucket|_sum|_count)?(\{.*)?$", "", name) in types, name
    assert values["crossrank_requests_total"] == 4
    assert values["crossrank_failed_total"] == 1
    assert values["crossrank_documents_total"] == 6
    assert values["crossrank_call_seconds_count"] == values['crossrank_call_seconds_bucket{le="+Inf"}'] == 3
    buckets = [value for name, value in values.items() if "_bucket" in name]
    assert buckets == sorted(buckets)
    assert QUERY not in service.metrics()


# Frameworks


def test_langchain_reranks_what_a_retriever_finds(load: Callable[[str], Any], model: CrossEncoder) -> None:
    pytest.importorskip("langchain_classic")
    adapter = load(LANGCHAIN)
    document = pytest.importorskip("langchain_core.documents").Document

    base: Any = adapter.BaseRetriever

    class Everything(base):  # type: ignore[misc]
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Any]:
            return [document(page_content=text, metadata={"place": i}) for i, text in enumerate(DOCUMENTS)]

    found = adapter.reranked(Everything(), model, top_n=2).invoke(QUERY)
    expected = model.rank(QUERY, DOCUMENTS, 2)
    assert [hit.metadata["place"] for hit in found] == [hit["corpus_id"] for hit in expected]
    scores = adapter.CrossrankEncoder(model).score([(QUERY, text) for text in DOCUMENTS])
    assert scores == model.score(QUERY, DOCUMENTS).tolist()
    assert adapter.CrossrankEncoder(model).score([]) == []


def test_llama_index_reranks_what_a_retriever_finds(load: Callable[[str], Any], model: CrossEncoder) -> None:
    schema = pytest.importorskip("llama_index.core.schema")
    adapter = load(LLAMA_INDEX)
    rerank = adapter.CrossrankRerank(model=model, top_n=2)
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text), score=0.5) for text in DOCUMENTS]
    expected = model.rank(QUERY, DOCUMENTS, 2, return_documents=True)
    query = schema.QueryBundle(QUERY)
    for found in (
        rerank.postprocess_nodes(nodes, query_str=QUERY),
        asyncio.run(rerank.apostprocess_nodes(nodes, query)),
    ):
        assert [(hit.node.text, hit.score) for hit in found] == [(hit["text"], hit["score"]) for hit in expected]
    assert [node.score for node in nodes] == [0.5] * 3


def test_haystack_reranks_in_a_pipeline(
    load: Callable[[str], Any], model: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    haystack = pytest.importorskip("haystack")
    adapter = load(HAYSTACK)
    pipeline = haystack.Pipeline()
    pipeline.add_component("ranker", adapter.CrossrankRanker())
    pipeline = haystack.Pipeline.loads(pipeline.dumps(), allowed_modules=[adapter.__name__])
    documents = [haystack.Document(content=text) for text in DOCUMENTS]
    found = pipeline.run({"ranker": {"query": QUERY, "documents": documents, "top_k": 2}})["ranker"]["documents"]
    expected = model.rank(QUERY, DOCUMENTS, 2, return_documents=True)
    assert [hit.content for hit in found] == [hit["text"] for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit["score"] for hit in expected], abs=ATOL)
    assert [document.score for document in documents] == [None] * 3
