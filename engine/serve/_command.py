"""``crossrank serve``: sockets, signals and logs around the application."""

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from array import array
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import lru_cache
from typing import Any, TextIO

import httptools
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from crossrank import CrossEncoder, InputError, MissingDependencyError

from ._app import create_app
from ._options import hosts, is_loopback, named_models, parse, read_keys
from ._request import Limits
from ._service import raised
from ._workers import Peers, run_workers

logger = logging.getLogger("crossrank.serve")

_MOST_HEADER_BYTES = 65_536  # of a request, its first line among them
_MOST_HEADERS = 100
_HEADER_S = 10.0  # from the first byte of a connection, or from the end of its last request, to the end of the headers
_STOOD_STILL_S = 1.0
_KEEP_ALIVE_S = 75
_LOG_S = 0.05  # that a line may wait for others
_WRITES = sys.platform != "win32"  # where sockets are files


class _Parser(httptools.HttpRequestParser):
    """httptools' parser, for which a request that asks for another protocol is one like any other.

    Java's HttpClient asks for h2c with each first request, and its body follows: a server that does not know the
    protocol is to ignore the wish (RFC 9110, 7.8). httptools stops there and cannot go on, so that another one does.
    """

    def __init__(self, protocol: "_Protocol") -> None:
        super().__init__(protocol)
        self._protocol = protocol
        if hasattr(self, "set_dangerous_leniencies"):  # as uvicorn: answer the request before what follows its end
            self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: "bytes | bytearray | memoryview[int] | array[int]") -> None:
        """Read on."""
        parser, rest = self, memoryview(data)
        while rest:
            try:
                httptools.HttpRequestParser.feed_data(parser, rest)
                return
            except httptools.HttpParserUpgrade as wish:
                rest = rest[wish.args[0] :]
                parser = self._protocol.behind_headers()


class _Joining:
    """A transport that sends what is written in one turn of the event loop at once: headers and their body.

    Else each is a system call of its own, and wakes the client twice. uvloop keeps Python's lock meanwhile: the kernel
    may let a client on this machine run first, for hundreds of microseconds in which no lane gets its next batch.

    Args:
        transport: What sends.
        loop: Its event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._file: int = transport.get_extra_info("socket").fileno()
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send at the end of this turn."""
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    def close(self) -> None:
        """Send what is written, and close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if not self._parts:
            return
        data = b"".join(self._parts)
        self._parts.clear()
        if _WRITES and not self._transport.is_closing() and not self._transport.get_write_buffer_size():
            with suppress(OSError):  # its buffer is full, or the client has gone: the transport sees to it
                data = data[os.write(self._file, data) :]
        if data:
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds for what comes before a body."""

    _left = _MOST_HEADER_BYTES
    _timer: asyncio.TimerHandle | None = None
    _again = False  # whether headers are read that were read before

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser = _Parser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first headers, and no longer than that."""
        super().connection_made(_Joining(transport, self.loop))  # type: ignore[arg-type]
        self._wait(_HEADER_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the connection was ended."""
        if not self.transport.is_closing():
            super().data_received(data)

    def behind_headers(self) -> _Parser:
        """A parser for what follows headers that ask for another protocol, by those that say how long it is."""
        framing = (b"content-length", b"transfer-encoding")
        lines = [b"%s: %s\r\n" % header for header in self.headers if header[0] in framing]
        self.parser, self._again = _Parser(self), True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n")
        self._again = False
        return self.parser

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._again:
            return
        self._left = _MOST_HEADER_BYTES
        if self._timer is None:
            self._wait(_HEADER_S)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        if self._again:
            return
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if self._again:
            return
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """The headers are there."""
        self._stop()
        if not self.transport.is_closing() and not self._again:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there, unless a parser `behind_headers` is to read it."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _wait(self, seconds: float) -> None:
        due = self.loop.time() + seconds
        self._timer = self.loop.call_later(seconds, lambda: self._late(self.loop.time() - due))

    def _late(self, by_s: float) -> None:
        """Time is up; where the process itself has stood still, what has come meanwhile is read first."""
        if by_s > _STOOD_STILL_S:
            self._wait(_STOOD_STILL_S)
        else:
            self._end(b"408 Request Timeout")

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0 or len(self.headers) > _MOST_HEADERS:
            self._end(b"431 Request Header Fields Too Large")

    def _end(self, status: bytes) -> None:
        self._stop()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """uvicorn's server, which says where it listens as soon as it does.

    Args:
        app: The application.
        drain_seconds: How long requests under way may take when it is to end.
        grpc: Host and port of the gRPC service too, or None for none.
        peers: The other workers, or None for none.
        alone: Whether the process is for nothing else.
    """

    def __init__(
        self,
        app: Starlette,
        drain_seconds: int,
        grpc: tuple[str, int] | None = None,
        peers: Peers | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self._peers, self._alone = peers, alone
        self._grpc, self._service, self._drain_seconds = grpc, app.state.service, drain_seconds
        self._grpc_server: Any = None
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=drain_seconds,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Warm up, then listen.

        Raises:
            InputError: If an address cannot be had.
        """
        sockets = sockets or []
        wanted = [listening.getsockname()[:2] for listening in sockets]
        try:
            await super().startup(sockets)
            for listening in sockets:
                listening.getsockname()  # uvloop closes it and says nothing
        except OSError:
            taken = ", ".join(f"--host {host} --port {port}" for host, port in wanted)
            raise InputError(f"{taken}: another process has come to listen there meanwhile") from None
        if self._alone:  # a full collection looks at 50,000 objects that stay, and stops all threads for 20 ms and more
            gc.collect()
            gc.freeze()
        if self._grpc is not None:
            from ._grpc import start

            try:
                self._grpc_server, port = await start(self._service, *self._grpc, shared=self._peers is not None)
            except RuntimeError:
                raise InputError(f"--host {self._grpc[0]} --grpc-port {self._grpc[1]}: it cannot be had") from None
            print(f"listening on grpc://{self._grpc[0]}:{port}", file=sys.stderr, flush=True)
        for host, port in wanted:
            print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)

    async def on_tick(self, counter: int) -> bool:
        """Tell the other workers once a second what was counted."""
        if self._peers is not None and counter % 10 == 0:
            if os.getppid() != self._peers.supervisor:  # killed: nobody else would end this worker
                logger.error("the process that started this worker is gone: it ends")
                return True
            self._peers.tell(self._service.metrics.own())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and let those under way end."""
        ends = [super().shutdown(sockets)]
        if self._grpc_server is not None:
            ends.append(self._grpc_server.stop(self._drain_seconds))
        await asyncio.gather(*ends)


class _Formatter(logging.Formatter):
    """A line of JSON for each record, of an exception without its message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": f"{_second(int(record.created))}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["error"] = raised(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines to standard error, those of a moment together.

    Each time lets other threads have Python's lock, and the event loop then waits for it beside busy ones. What warns,
    and what no event loop logs, is written at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        try:
            self._lines.append(self.format(record) + self.terminator)
            if record.levelno >= logging.WARNING:
                self.flush()
            elif len(self._lines) == 1:
                asyncio.get_running_loop().call_later(_LOG_S, self.flush)
        except RuntimeError:  # no event loop runs here
            self.flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write what there is."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
                super().flush()


@lru_cache(1)
def _second(time_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time_s))


def log_as_json() -> None:
    """Have the process log lines of JSON to standard error, without what these do not tell."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # as Python's logging cookbook has it: nobody looks for who has logged
    handler = _Handler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it says nothing of requests that we do not


def bind(host: str, port: int) -> socket.socket:
    """A socket that has its address and does not listen yet, so that nobody waits for a model to be loaded.

    Raises:
        InputError: If the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror or error}") from None
    return bound


def _require_grpc() -> None:
    try:
        from . import _grpc  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"--grpc-port needs {error.name}: pip install 'crossrank[serve,grpc]'") from error


def _load(options: argparse.Namespace, models: Mapping[str, str]) -> dict[str, CrossEncoder]:
    return {
        name: CrossEncoder(
            model,
            precision=options.precision,
            device=options.device,
            threads=options.threads,
            max_length=options.max_length,
            max_queue_tokens=options.max_queue_tokens,
        )
        for name, model in models.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``crossrank serve`` until SIGTERM or SIGINT.

    Requests under way are answered then, for ``--drain-seconds`` at most; new connections are refused.

    Args:
        arguments: Those after ``serve``.

    Returns:
        The exit status.

    Raises:
        CrossrankError: If an option, a key file, an address or a model is not what it can be.
    """
    arguments = sys.argv[2:] if arguments is None else list(arguments)
    options = parse(arguments)
    if options.grpc_port is not None:
        _require_grpc()
    log_as_json()
    named_models(options.models)
    if not _keys(options) and not is_loopback(options.host):
        logger.warning("whoever reaches %s may use it: there is no --api-key-file", options.host)
    bound = bind(options.host, options.port)
    if options.workers > 1:
        return run_workers(options, arguments, bound)
    return run(options, bound)


def run(options: argparse.Namespace, bound: socket.socket, peers: Peers | None = None) -> int:
    """Load the models, and serve them on a socket until a signal comes.

    Args:
        options: The command's.
        bound: The socket.
        peers: The other workers, or None for none.

    Returns:
        The exit status, 0.
    """
    models = _load(options, named_models(options.models))
    app = create_app(
        models,
        api_keys=_keys(options),
        default_budget_ms=options.default_budget_ms,
        default_chunks=options.default_chunks,
        limits=Limits(options.max_body_bytes, options.max_documents, options.max_request_tokens, options.body_seconds),
        cors_origins=[origin.strip() for origin in (options.cors_origins or "").split(",") if origin.strip()],
        allowed_hosts=hosts(options),
    )
    app.state.service.metrics.peers = peers
    for served in app.state.service.models.values():
        served.max_queue_tokens = options.max_queue_tokens  # as `_load` has told the models
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises again what has ended it, which is no failure
    grpc = None if options.grpc_port is None else (options.host, options.grpc_port)
    Server(app, options.drain_seconds, grpc, peers, alone=True).run([bound])
    for model in models.values():
        model.close(finish=False)
    return 0


def _keys(options: argparse.Namespace) -> list[str]:
    return [] if options.api_key_file is None else read_keys(options.api_key_file)
