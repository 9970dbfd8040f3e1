"""The ASGI application: its paths, and the answers of those that are read."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from crossrank import InputError, Overloaded, __version__

from ._dialects import PATHS, Dialect
from ._hosts import AllowedHosts
from ._metrics import CONTENT_TYPE
from ._models import Model, load
from ._openapi import HEADERS, openapi
from ._request import Kind, Limits, Problem, check_budget
from ._service import Service, raised

logger = logging.getLogger("crossrank.serve")

_encode = msgspec.json.Encoder().encode


def create_app(
    models: Model | Mapping[str, Model] = "crossrank-mini-en",
    *,
    api_keys: Sequence[str] = (),
    default_budget_ms: float | None = None,
    default_chunks: int = 1,
    max_queue_tokens: int = 200_000,
    limits: Limits | None = None,
    cors_origins: Sequence[str] = (),
    allowed_hosts: Sequence[str] | None = None,
) -> Starlette:
    """An ASGI application that answers every rerank client, to be run or mounted in another one.

    Args:
        models: One model or several by the names that requests call them, the first of which answers requests that
            name none. What is given by name or folder is loaded here and closed with the application; a `CrossEncoder`
            or `AsyncCrossEncoder` stays its owner's.
        api_keys: Those that clients may show; none lets everybody in.
        default_budget_ms: Milliseconds for requests that bring no ``X-Rerank-Budget-Ms``, None for as long as it takes.
        default_chunks: In how many parts a long document is read where a request does not say it.
        max_queue_tokens: How many tokens may wait for a model that is loaded here; beyond it requests get 429.
        limits: What one request may ask for.
        cors_origins: Web origins whose pages may call; none by default.
        allowed_hosts: What a request's Host may be, without ports; None for anything. A server that everybody on this
            machine may use, without a key, should say it: a web page can point its own name at 127.0.0.1.

    Raises:
        InputError: If an option is not what it can be.
        CrossrankError: If a model cannot be loaded.
    """
    if default_budget_ms is not None:
        check_budget(default_budget_ms, InputError)
    lists = (("api_keys", api_keys), ("cors_origins", cors_origins), ("allowed_hosts", allowed_hosts or ()))
    for name, texts in lists:
        # One text is a sequence of texts too: each of its letters would be a key.
        if isinstance(texts, str | bytes) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{name}: a list of texts is needed")
    if any(not key.strip() or not key.isascii() for key in api_keys):
        raise InputError("api_keys: a key is a text of ASCII letters, and no empty one")
    if default_chunks < 1:
        raise InputError(f"default_chunks={default_chunks}: 1 or more is needed")
    limits = limits or Limits()
    served = load(models, max_queue_tokens, chunks=default_chunks, most_tokens=limits.tokens)
    service = Service(served, [key.strip().encode() for key in api_keys], default_budget_ms, limits)
    facts = _Facts(service)
    routes = [Route(path, _Reranks(service, dialects), methods=["POST"]) for path, dialects in PATHS.items()]
    for path in ("/health", "/v1/health/live"):
        routes.append(Route(path, facts.alive))
    for path in ("/ready", "/v1/health/ready"):
        routes.append(Route(path, facts.ready))
    routes += [
        Route("/info", facts.info),
        Route("/v1/models", facts.models),
        Route("/metrics", facts.scrape),
        Route("/openapi.json", facts.openapi),
        Route("/docs", partial(_page, name="docs.html")),
        Route("/", partial(_page, name="page.html")),
    ]
    middleware = []
    if cors_origins:
        allowed = ["Authorization", "Content-Type", "X-API-Key", "X-Request-Id", "X-Rerank-Budget-Ms"]
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=allowed,
                expose_headers=[*HEADERS],
            )
        )
    if allowed_hosts is not None:
        middleware.insert(0, Middleware(AllowedHosts, hosts=allowed_hosts))
    app = Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=facts.lifespan,
        exception_handlers={404: partial(_unknown, kind="no_path"), 405: partial(_unknown, kind="no_method")},
    )
    app.state.service = service
    return app


class _Reranks:
    """The application behind a path that ranks. Starlette would have functions for each request around a function.

    Args:
        service: What answers.
        dialects: Those of the path.
    """

    def __init__(self, service: Service, dialects: Sequence[Dialect[Any]]) -> None:
        self._service, self._dialects = service, dialects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._service.rerank(Request(scope, receive, send), self._dialects)
        await response(scope, receive, send)


class _Facts:
    """What the paths answer that are read.

    Args:
        service: The rerank calls, whose models these are about.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._models = service, service.models
        self._document = _encode(openapi()).replace(b"crossrank.serve._dialects.", b"")

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Warm up before the port opens, and close what was loaded here when it is closed."""
        for served in self._models.values():
            await served.warm_up()
        yield
        for served in self._models.values():
            if served.owned:
                await served.model.close()

    async def alive(self, request: Request) -> Response:
        """Whether the process answers."""
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether each model has just computed a score."""
        try:
            for served in self._models.values():
                await served.check()
        except Overloaded:  # it computes as fast as it can: to take it out of service would load the others
            return _json({"status": "busy"})
        except Exception as error:  # whatever a model raises
            logger.warning("not ready: %s", raised(error))
            return _json({"status": "not ready", "reason": type(error).__name__}, 503, {"Retry-After": "1"})
        return _json({"status": "ready"})

    async def info(self, request: Request) -> Response:
        """What text-embeddings-inference tells, of the first model."""
        return self._guarded(request, self._tei_info)

    def _tei_info(self) -> Response:
        served = next(iter(self._models.values()))
        info = served.info
        facts = {
            "model_id": info.name,
            "model_sha": None,
            "model_dtype": {"fp32": "float32", "fp16": "float16"}.get(info.precision, info.precision),
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "served_model_name": served.name,
            "max_concurrent_requests": 10_000,
            "max_input_length": info.max_length,
            "max_batch_tokens": info.batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": self._service.limits.documents,
            "auto_truncate": True,
            "tokenization_workers": info.threads,
            "version": __version__,
            "docker_label": None,
        }
        return _json(facts)

    async def models(self, request: Request) -> Response:
        """The models that there are, as OpenAI's clients and NVIDIA's ask for them."""
        return self._guarded(
            request,
            lambda: _json(
                {
                    "object": "list",
                    "data": [
                        {
                            "id": served.name,
                            "object": "model",
                            "created": 0,
                            "owned_by": "crossrank",
                            "root": served.name,
                        }
                        | {"max_model_len": served.info.max_length}
                        for served in self._models.values()
                    ],
                }
            ),
        )

    async def scrape(self, request: Request) -> Response:
        """What was counted."""
        return self._guarded(request, lambda: Response(self._service.metrics.text(), media_type=CONTENT_TYPE))

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document; nothing in it is secret."""
        return Response(self._document, media_type="application/json")

    def _guarded(self, request: Request, tell: Callable[[], Response]) -> Response:
        try:
            self._service.require_key(request.headers)
        except Problem as problem:
            return _json({"error": problem.message}, 401)
        return tell()


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(value), status, headers, media_type="application/json")


async def _unknown(request: Request, error: Exception, kind: Kind) -> Response:
    """What a path that is none is told, or one that is asked in another way, in the form of its dialect."""
    assert isinstance(error, HTTPException)
    dialect = PATHS.get(request.url.path, PATHS["/v1/rerank"])[-1]
    paths = "POST /v1/rerank, /v2/rerank, /rerank and others rank; GET /docs lists them"
    what = f"no path {request.url.path!r:.100}" if kind == "no_path" else f"{request.method} is not for this path"
    status, body = dialect.error(Problem(kind, f"{what}: {paths}"))
    return _json(body, status, error.headers)


async def _page(request: Request, name: str) -> Response:
    """A page of the package, which loads nothing from elsewhere."""
    text = files(__package__).joinpath(name).read_text("utf-8")
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
    return HTMLResponse(text, headers={"Content-Security-Policy": f"{policy}; base-uri 'none'; frame-ancestors 'none'"})
