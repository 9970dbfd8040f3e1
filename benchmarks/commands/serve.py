"""`crossrank serve` under load over loopback, beside the model in process and sentence-transformers behind FastAPI.

All take the same texts, threads and weights, in turns. The clients of the servers are connections that one thread of a
process of its own drives, on the machine's same cores: what they cost is told beside the figures. In process, callers
are threads.
"""

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.engines.environments import ENVIRONMENTS
from benchmarks.engines.registry import EngineUnavailable
from benchmarks.measure.clients import Clients
from benchmarks.measure.load import Answers, Callers, Texts, arrivals, closed_loop, made_ahead
from benchmarks.measure.turns import percentiles, spread
from benchmarks.options import add_load_option, add_options, check_output, open_benchmark_model
from benchmarks.reporting.result import describe_run, look_at_machine, write_result
from benchmarks.reporting.tables import format_table
from crossrank import CrossEncoder

_TIMED = "whole requests, texts in and a ranking out; where requests arrive by themselves, from when they were meant to"
_CALLERS, _DOCUMENTS, _BUDGET_MS = 16, 10, 100
_OFF = 1e-4  # between scores of one model and one text
_OPEN = 256  # connections; a request that finds none free waits, which counts
_QUEUE_TOKENS = 20_000  # what 16 callers send, and half as much again
_SOAK_CALLERS, _SOAK_DOCUMENTS, _SOAK_S = 2, 50, 600
_IN_PROCESS, _OURS, _PEER = "in process", "crossrank serve", "FastAPI + sentence-transformers"
_INFINITY_PEER = "infinity torch"
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
@app.post("/rerank")
def rerank(body: Body) -> dict:
    ranked = model.rank(body.query, body.documents)
    return {"results": [{"index": r["corpus_id"], "relevance_score": float(r["score"])} for r in ranked]}
"""
_INFINITY = """
import sys, torch, uvicorn
from infinity_emb import EngineArgs
from infinity_emb.infinity_server import create_server
torch.set_num_threads(int(sys.argv[2]))
app = create_server(engine_args_list=[EngineArgs(model_name_or_path=sys.argv[1], engine="torch", device="cpu")])
"""
_LISTEN = """
class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"listening on http://127.0.0.1:{port}", file=sys.stderr, flush=True)
Server(uvicorn.Config(app, port=0, log_level="critical")).run()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    model = {"default": "tinybert-l2", "help": "what is served (default: %(default)s)"}
    add_options(parser, "model", "threads", "output", "bench", "rounds", model=model, rounds={"default": 3})
    add = parser.add_argument
    add("--seconds", type=float, default=4.0, metavar="S", help="of a load (default: %(default)s)")
    add("--precision", default="fp32", help="of ours; the peer computes in fp32 (default: %(default)s)")
    add_load_option(parser)
    add("--soak", type=int, default=0, metavar="N", help="documents to score at the end, with memory before and after")


def run(options: argparse.Namespace) -> None:
    """Put load on each in turns, print the table and write the result."""
    check_output(options)
    machine, _ = look_at_machine(options.threads, allow_load=options.allow_load)
    texts, seconds = Texts(), options.seconds
    model = open_benchmark_model(options, options.model)
    found: dict[str, dict[str, list[dict[str, float | None]]]] = {}
    with ExitStack() as stack:
        own = CrossEncoder(model.folder, device="cpu", precision=options.precision, threads=options.threads)
        own.warm_up()
        arguments = ["serve", "--port", "0", "--device", "cpu", "--precision", options.precision, str(model.folder)]
        arguments += ["--threads", str(options.threads), "--max-queue-tokens", str(_QUEUE_TOKENS)]
        peers = [str(model.folder), str(options.threads)]
        started = {_OURS: (_SERVE, arguments, ""), _PEER: (_FASTAPI + _LISTEN, peers, "")}
        started[_INFINITY_PEER] = (_INFINITY + _LISTEN, peers, "infinity")
        processes, clients, absent = {_IN_PROCESS: os.getpid()}, dict[str, Clients](), dict[str, str]()
        for name, (code, given, environment) in started.items():
            try:
                processes[name], address = stack.enter_context(_server(code, *given, environment=environment))
            except EngineUnavailable as error:
                absent[name] = str(error)
                print(f"{name}: {error}", file=sys.stderr)
                continue
            clients[name] = stack.enter_context(Clients(address, "/rerank"))
        ours = clients[_OURS]
        _check_scores(own, ours, texts)

        def put(load: str, name: str, make: Callable[[], Answers]) -> None:
            before = _cpu_s(processes[name])
            answers = make()
            if answers.failed:
                print(f"{load}, {name}: {answers.failed} failed, first: {answers.error}", file=sys.stderr)
            figures = answers.figures() | {
                "cpu_us_per_doc": 1e6 * (_cpu_s(processes[name]) - before) / max(1, answers.documents),
                "clients_cores": answers.cpu_s / answers.elapsed_s,
            }
            found.setdefault(load, {}).setdefault(name, []).append(figures)

        for number in range(options.rounds):
            for count in (1, _CALLERS):
                load = f"{count} closed"
                put(load, _IN_PROCESS, partial(_in_process, own, count, texts, seconds, number))
                for name, asked in clients.items():
                    put(load, name, partial(asked.closed, count, _DOCUMENTS, seconds=seconds))
            peak = found[f"{_CALLERS} closed"][_OURS][-1]["docs_per_s"] or 1.0
            for share, budget_ms in ((0.7, None), (3.0, None), (0.9, _BUDGET_MS)):
                planned = arrivals(share * peak, _DOCUMENTS, seconds=seconds, seed=number)
                load = f"{share:.0%} open" + (f", budget {budget_ms} ms" if budget_ms else "")
                put(load, _OURS, partial(ours.open, planned, seconds=seconds, callers=_OPEN, budget_ms=budget_ms))
        soak = _soak(ours, processes[_OURS], options.soak) if options.soak else None
    spreads = {
        load: {name: {key: spread(f[key] or 0.0 for f in rounds) for key in rounds[0]} for name, rounds in all_.items()}
        for load, all_ in found.items()
    }
    medians = {
        load: {n: {k: v.median for k, v in f.items()} for n, f in all_.items()} for load, all_ in spreads.items()
    }
    rows = [
        ("load", "server", "docs/s", "p50 ms", "p99 ms", "429", "429 p99 ms", "failed", "CPU us/doc", "clients' cores")
    ]
    for load, servers in medians.items():
        for name, m in servers.items():
            speed = (f"{m['docs_per_s']:,.0f}", f"{m['p50_ms']:.2f}", f"{m['p99_ms']:.1f}")
            lost = (f"{m['rejected']:.1%}", f"{m['refused_p99_ms']:.1f}", f"{m['failed'] + m['unanswered']:.1%}")
            rows.append((load, name, *speed, *lost, f"{m['cpu_us_per_doc']:.0f}", f"{m['clients_cores']:.2f}"))
    print(f"{model.name} {options.precision}, {options.threads} threads, medians of {options.rounds} rounds\n{_TIMED}")
    print(format_table(rows))
    print(format_table(_goals(medians)))
    if soak:
        print("soak: " + ", ".join(f"{name} {value:,.1f}" for name, value in soak.items()))
    if options.output:
        loads = {load: {n: {k: asdict(v) for k, v in f.items()} for n, f in s.items()} for load, s in spreads.items()}
        facts = {
            "threads": options.threads,
            "precision": options.precision,
            "models": [model.describe()],
            "rounds": options.rounds,
            "loads": loads,
        }
        write_result(
            options.output, describe_run(options, machine, timed=_TIMED) | facts | {"soak": soak, "absent": absent}
        )


def _in_process(own: CrossEncoder, count: int, texts: Texts, seconds: float, seed: int) -> Answers:
    texts.make(_DOCUMENTS, made_ahead(seconds))  # as the clients of the servers have theirs
    (answers,) = closed_loop([Callers(own.rank, count, _DOCUMENTS)], texts, seconds=seconds, seed=seed)
    return answers


def _goals(medians: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[tuple[str, ...]]:
    """What is wanted of medians and what was reached, as a table."""
    one, full = medians["1 closed"], medians[f"{_CALLERS} closed"]
    inside, ours, steady, over = full[_IN_PROCESS], full[_OURS], medians["70% open"][_OURS], medians["300% open"][_OURS]
    peer = full.get(_PEER)
    peak = max(figures["docs_per_s"] for load in medians.values() if (figures := load.get(_OURS)))
    return [
        ("", "wanted", "reached"),
        (
            "docs/s to the peer's, 16 callers",
            ">= 5",
            f"{ours['docs_per_s'] / peer['docs_per_s']:.2f}" if peer else "not measured",
        ),
        ("docs/s to those in process, 16 callers", ">= 85%", f"{ours['docs_per_s'] / inside['docs_per_s']:.1%}"),
        (
            "CPU time in process to the server's, 16 callers",
            "",
            f"{inside['cpu_us_per_doc'] / ours['cpu_us_per_doc']:.1%}",
        ),
        ("added to the p50 of one caller, ms", "<= 1", f"{one[_OURS]['p50_ms'] - one[_IN_PROCESS]['p50_ms']:.2f}"),
        ("p99 to p50 at 70%", "<= 3", f"{steady['p99_ms'] / steady['p50_ms']:.2f}"),
        ("goodput at 300% to the most", ">= 95%", f"{over['docs_per_s'] / peak:.1%}"),
        ("p99 at 300% to that of 16 callers", "<= 2", f"{over['p99_ms'] / ours['p99_ms']:.2f}"),
        ("429 at 300%, p99 ms", "<= 10", f"{over['refused_p99_ms']:.1f}"),
    ]


def _check_scores(own: CrossEncoder, ours: Clients, texts: Texts) -> None:
    """Whether a server's scores are those in process.

    Raises:
        ValueError: If they are not.
    """
    query, documents = texts.take(_DOCUMENTS)
    ranking, served = own.rank(query, documents, activation_fn="sigmoid"), ours.scores(query, documents)
    off = max(abs((entry["score"] or 0.0) - served[entry["corpus_id"]]) for entry in ranking)
    if off > _OFF:
        raise ValueError(f"the server's scores are up to {off:g} from those in process, of {_OFF} that are allowed")


@contextmanager
def _server(code: str, *arguments: str, environment: str = "") -> Iterator[tuple[int, str]]:
    """A server in a process of its own: its id and its address.

    Raises:
        EngineUnavailable: If its environment has not been made, or it ends before it listens.
    """
    command = [str(ENVIRONMENTS.interpreter(environment)), "-c", code, *arguments]
    offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with subprocess.Popen(command, env=os.environ | offline, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        address = next((line.split("//")[1].strip() for line in lines if line.startswith("listening on ")), None)
        if address is None:
            raise EngineUnavailable(f"it ended with status {process.wait()} before it listened")
        reader = threading.Thread(target=lambda: [None for _ in lines])  # or the pipe would fill
        reader.start()
        try:
            yield process.pid, address
        finally:
            process.terminate()
            reader.join()


def _soak(clients: Clients, pid: int, documents: int) -> Mapping[str, float]:
    """Memory of the server and latency of calls at the start and at the end of many documents."""
    before = _rss_mb(pid)
    answers = clients.closed(_SOAK_CALLERS, _SOAK_DOCUMENTS, seconds=_SOAK_S, requests=documents // _SOAK_DOCUMENTS)
    few = max(1, len(answers.seconds) // 10)
    return {
        "documents": answers.documents,
        "lost_or_wrong": answers.failed + answers.unanswered + answers.rejected,
        "docs_per_s": answers.documents / answers.elapsed_s,
        "rss_mb_before": before,
        "rss_mb_after": _rss_mb(pid),
        "p50_ms_first_tenth": percentiles(answers.seconds[:few])["p50_ms"],
        "p50_ms_last_tenth": percentiles(answers.seconds[-few:])["p50_ms"],
    }


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().split()
    return round(int(status[status.index("VmRSS:") + 1]) / 1000, 1)


def _cpu_s(pid: int) -> float:
    """CPU time of a process until now."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
