"""``crossrank serve``: sockets and signals around the application."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette

from crossrank import CrossEncoder, InputError, MissingDependencyError

from ._app import create_app
from ._log import log_as_json
from ._options import hosts, is_loopback, named_models, parse, read_keys
from ._protocol import Protocol
from ._request import Limits
from ._workers import Peers, run_workers

logger = logging.getLogger("crossrank.serve")

_KEEP_ALIVE_S = 75


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
            http=Protocol,
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
