"""Servers for tests: in this process, or as a process of their own."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from starlette.applications import Starlette

from crossrank.serve._command import Server, bind

WAIT_S = 60
QUERY = "how many people live in berlin"
ANSWER = "Berlin had a population of 3,520,031 in 2015."
DOCUMENTS = ["Berlin is well known for its museums.", "Bread dough rises because yeast turns sugar into gas.", ANSWER]


@contextmanager
def serving(
    app: Starlette, drain_seconds: int = 10, grpc: tuple[str, int] | None = None, *, service: Starlette | None = None
) -> Iterator[httpx.Client]:
    """A client of the application, which may hold the one of ``service``, on a port of this process's."""
    if service is not None:
        app.state.service = service.state.service
    server, bound = Server(app, drain_seconds, grpc), bind("127.0.0.1", 0)
    port = bound.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    end = time.monotonic() + WAIT_S
    while not server.started and time.monotonic() < end:
        time.sleep(0.005)
    assert server.started
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive()


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``crossrank serve`` on a free port, and its address."""
    code = "import sys; from crossrank._cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", *arguments]
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "CROSSRANK_SERVE_PORT": "0", **environment}
    )
    try:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("listening on "):
                break
        else:
            raise AssertionError(f"it ended with status {running.wait()}")
        yield running, line.split()[-1]
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGKILL)
        running.communicate(timeout=WAIT_S)


def raw(client: httpx.Client) -> socket.socket:
    """A connection of its own to the same server."""
    url = client.base_url
    assert url.port is not None
    return socket.create_connection((url.host, url.port), timeout=WAIT_S)


def request_bytes(path: str, body: Any, **headers: str) -> bytes:
    """A request as it goes over the wire."""
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


@contextmanager
def serving_grpc(app: Starlette) -> Iterator[str]:
    """The address of the application's gRPC service."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(app, grpc=("127.0.0.1", port)):
        yield f"127.0.0.1:{port}"
