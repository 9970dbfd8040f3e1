"""`crossrank serve` under load over loopback, beside the model in process and sentence-transformers behind FastAPI.

All take the same texts, threads and weights, in turns. Callers are threads of this process, each with a connection of
its own: what they cost is in the figures of both servers, on the machine's same cores.
"""

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure.load import Answers, Callers, Score, Texts, arrivals, closed_loop, open_loop
from benchmarks.measure.turns import percentiles, spread
from benchmarks.options import add_options, check_output, open_benchmark_model
from benchmarks.reporting.result import describe_machine, describe_run, write_result
from benchmarks.reporting.tables import format_table
from crossrank import CrossEncoder, Overloaded, Ranking

_TIMED = "whole requests, texts in and a ranking out; where requests arrive by themselves, from when they were meant to"
_CALLERS, _DOCUMENTS, _OPEN_CALLERS, _BUDGET_MS, _WAIT_S = 16, 10, 64, 100, 300
_IN_PROCESS, _OURS, _PEER = "in process", "crossrank serve", "FastAPI + sentence-transformers"
_SERVE = "import sys; from crossrank._cli.main import main; sys.exit(main())"
_FASTAPI = """
import sys, torch, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder
torch.set_num_threads(int(sys.argv[2]))
model = CrossEncoder(sys.argv[1], device="cpu")
class Body(BaseModel):
    query: str
    documents: list[str]
app = FastAPI()
@app.post("/v1/rerank")
def rerank(body: Body) -> dict:
    ranked = model.rank(body.query, body.documents)
    return {"results": [{"index": r["corpus_id"], "relevance_score": float(r["score"])} for r in ranked]}
class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"listening on http://127.0.0.1:{port}", file=sys.stderr, flush=True)
Server(uvicorn.Config(app, port=0, log_level="critical")).run()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    model = {"default": "tinybert-l2", "help": "in fp32 (default: %(default)s)"}
    add_options(parser, "model", "threads", "output", "bench", "rounds", model=model, rounds={"default": 3})
    add = parser.add_argument
    add("--seconds", type=float, default=4.0, metavar="S", help="of a load (default: %(default)s)")
    add("--soak", type=int, default=0, metavar="N", help="documents to score at the end, with memory before and after")


def run(options: argparse.Namespace) -> None:
    """Put load on each in turns, print the table and write the result."""
    check_output(options)
    machine, texts, seconds = describe_machine(), Texts(), options.seconds
    model = open_benchmark_model(options, options.model)
    found: dict[str, dict[str, list[dict[str, float | None]]]] = {}
    with ExitStack() as stack:
        own = CrossEncoder(model.folder, device="cpu", precision="fp32", threads=options.threads)
        own.warm_up()
        scores: dict[str, Score] = {_IN_PROCESS: own.rank}
        arguments = ["serve", "--port", "0", "--device", "cpu", "--precision", "fp32", str(model.folder)]
        arguments += ["--threads", str(options.threads), "--max-queue-tokens", "20000"]
        process, address = stack.enter_context(_server(_SERVE, *arguments))
        scores[_OURS] = _caller(address)
        _, peer_address = stack.enter_context(_server(_FASTAPI, str(model.folder), str(options.threads)))
        scores[_PEER] = _caller(peer_address)

        def note(load: str, name: str, answers: Answers) -> None:
            found.setdefault(load, {}).setdefault(name, []).append(answers.figures())
            if answers.failed:
                print(f"{load}, {name}: {answers.failed} failed, first: {answers.error}", file=sys.stderr)

        for number in range(options.rounds):
            for name, score in scores.items():
                for count in (1, _CALLERS):
                    (answers,) = closed_loop([Callers(score, count, _DOCUMENTS)], texts, seconds=seconds, seed=number)
                    note(f"{count} closed", name, answers)
            peak = found[f"{_CALLERS} closed"][_OURS][-1]["docs_per_s"] or 1.0
            for share, budget_ms in ((0.7, None), (3.0, None), (0.9, _BUDGET_MS)):
                planned = arrivals(share * peak, _DOCUMENTS, seconds=seconds, seed=number)
                asked = _caller(address, budget_ms)
                answers = open_loop(asked, planned, texts, seconds=seconds, callers=_OPEN_CALLERS)
                note(f"{share:.0%} open" + (f", budget {budget_ms} ms" if budget_ms else ""), _OURS, answers)
        soak = _soak(scores[_OURS], process.pid, texts, options.soak) if options.soak else None
    spreads = {
        load: {name: {key: spread(f[key] or 0.0 for f in rounds) for key in rounds[0]} for name, rounds in all_.items()}
        for load, all_ in found.items()
    }
    rows = [("load", "server", "docs/s", "p50 ms", "p99 ms", "rejected", "failed")]
    for load, servers in spreads.items():
        for name, figures in servers.items():
            m = {key: value.median for key, value in figures.items()}
            cells = (f"{m['docs_per_s']:,.0f}", f"{m['p50_ms']:.2f}", f"{m['p99_ms']:.1f}")
            rows.append((load, name, *cells, f"{m['rejected']:.1%}", f"{m['failed']:.1%}"))
    print(f"{model.name} fp32, {options.threads} threads, medians of {options.rounds} rounds\n{_TIMED}")
    print(format_table(rows))
    if soak:
        print("soak: " + ", ".join(f"{name} {value:,.1f}" for name, value in soak.items()))
    if options.output:
        loads = {load: {n: {k: asdict(v) for k, v in f.items()} for n, f in s.items()} for load, s in spreads.items()}
        facts = {"threads": options.threads, "models": [model.describe()], "rounds": options.rounds, "loads": loads}
        write_result(options.output, describe_run(options, machine, timed=_TIMED) | facts | {"soak": soak})


@contextmanager
def _server(code: str, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server in a process of its own, and its address."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        try:
            address = next(line.split("//")[1].strip() for line in lines if line.startswith("listening on "))
            threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()  # or the pipe would fill
            yield process, address
        finally:
            process.terminate()


def _caller(address: str, budget_ms: float | None = None) -> Score:
    """What asks a server, with a connection for each thread."""
    own = threading.local()
    headers = {"Content-Type": "application/json"}
    if budget_ms is not None:
        headers["X-Rerank-Budget-Ms"] = str(budget_ms)

    def ask(query: str, documents: list[str]) -> Ranking:
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection(address, timeout=_WAIT_S)
        body = json.dumps({"query": query, "documents": documents}).encode()
        own.connection.request("POST", "/v1/rerank", body, headers)
        answer = own.connection.getresponse()
        content = json.loads(answer.read())
        if answer.status == 429:
            raise Overloaded(0, 0, 0)
        if answer.status != 200 or len(content["results"]) != len(documents):
            raise ValueError(f"status {answer.status}")
        return Ranking(scored=int(answer.headers.get("X-Rerank-Scored", f"{len(documents)}/").split("/")[0]))

    return ask


def _soak(score: Score, pid: int, texts: Texts, documents: int) -> Mapping[str, float]:
    """Memory of the server and latency of calls at the start and at the end of many documents."""
    size, took = 100, list[float]()
    before = _rss_mb(pid)
    for _ in range(max(20, documents // size)):
        start = time.perf_counter()
        score(*texts.take(size))
        took.append(time.perf_counter() - start)
    few = len(took) // 10
    return {
        "documents": len(took) * size,
        "rss_mb_before": before,
        "rss_mb_after": _rss_mb(pid),
        "p50_ms_first_tenth": percentiles(took[:few])["p50_ms"],
        "p50_ms_last_tenth": percentiles(took[-few:])["p50_ms"],
    }


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().split()
    return round(int(status[status.index("VmRSS:") + 1]) / 1000, 1)
