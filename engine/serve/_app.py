"""The ASGI application: paths, limits, keys, the time budget, and who is told of what went wrong."""

import asyncio
import contextlib
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from crossrank import InputError, __version__

from ._dialects import PATHS, Dialect, choose
from ._metrics import CONTENT_TYPE, Metrics
from ._models import Model, Served, load
from ._openapi import openapi
from ._request import Answer, Problem, Rerank

logger = logging.getLogger("crossrank.serve")

T = TypeVar("T")
_LONGEST_ID = 128
_encode = msgspec.json.Encoder().encode


class _Gone(Exception):
    """The client has gone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for.

    Attributes:
        body_bytes: Of its body.
        documents: How many.
        tokens: Of all its pairs, as far as the model reads them.
        body_seconds: Until its body is there.
    """

    body_bytes: int = 16_777_216
    documents: int = 10_000
    tokens: int = 1_000_000
    body_seconds: float = 30.0


def create_app(
    models: Model | Mapping[str, Model] = "crossrank-mini-en",
    *,
    api_keys: Sequence[str] = (),
    default_budget_ms: float | None = None,
    default_chunks: int = 1,
    max_queue_tokens: int = 200_000,
    limits: Limits | None = None,
    cors_origins: Sequence[str] = (),
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

    Raises:
        InputError: If an option is not what it can be.
        CrossrankError: If a model cannot be loaded.
    """
    if default_budget_ms is not None:
        _check_budget(default_budget_ms, InputError)
    if any(not key.strip() or not key.isascii() for key in api_keys):
        raise InputError("api_keys: a key is a text of ASCII letters, and no empty one")
    limits = limits or Limits()
    served = load(models, max_queue_tokens, chunks=default_chunks, most_tokens=limits.tokens)
    service = Service(served, [key.strip().encode() for key in api_keys], default_budget_ms, limits)
    routes = [
        Route(path, partial(service.rerank, dialects=dialects), methods=["POST"]) for path, dialects in PATHS.items()
    ]
    for path in ("/health", "/v1/health/live"):
        routes.append(Route(path, service.alive))
    for path in ("/ready", "/v1/health/ready"):
        routes.append(Route(path, service.ready))
    routes += [
        Route("/info", service.info),
        Route("/v1/models", service.models),
        Route("/metrics", service.scrape),
        Route("/openapi.json", service.openapi),
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
                expose_headers=["X-Request-Id", "X-Rerank-Status", "X-Rerank-Scored"],
            )
        )
    app = Starlette(routes=routes, middleware=middleware, lifespan=service.lifespan)
    app.state.service = service
    return app


class Service:
    """What the paths answer with.

    Args:
        models: By name, the first one for requests that name none.
        keys: That clients may show.
        budget_ms: For requests that bring none.
        limits: Of a request.

    Attributes:
        metrics: What was counted.
    """

    def __init__(
        self, models: Mapping[str, Served], keys: list[bytes], budget_ms: float | None, limits: Limits
    ) -> None:
        self._models, self._keys, self.budget_ms, self.limits = models, keys, budget_ms, limits
        self.metrics = Metrics(models)
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

    async def rerank(self, request: Request, dialects: Sequence[Dialect[Any]]) -> Response:
        """Answer a request in its dialect, whatever comes of it."""
        started, id, dialect = time.perf_counter(), _request_id(request), dialects[-1]
        answer: Answer | None = None
        try:
            self.require_key(request.headers)
            budget_ms = self._budget(request)
            body = await self._body(request)
            dialect = choose(dialects, body)
            wanted = dialect.decode(body)
            name = request.path_params.get("model", wanted.model)
            work = self.answer(wanted, name, id=id, size=len(body), started=started, budget_ms=budget_ms)
            answer = await _while_there(request, work)
            response = Response(_encode(dialect.write(wanted, answer)), media_type="application/json")
            response.headers.update(dialect.headers(answer) | _told(answer))
            outcome = "complete" if answer.complete else "partial"
        except Problem as problem:
            problem.id = id
            response, outcome = _failure(dialect, problem), outcome_of(problem)
            if problem.__cause__ is not None:
                logger.error("a model failed", exc_info=problem.__cause__, extra={"facts": {"request_id": id}})
        except _Gone:
            response, outcome = Response(status_code=499), "cancelled"  # nobody reads it
        except Exception as error:
            logger.exception("a request failed", extra={"facts": {"request_id": id}})
            response = _failure(dialect, Problem("backend", f"the server failed: {type(error).__name__}"))
            outcome = "failed"
        response.headers["X-Request-Id"] = id
        seconds = time.perf_counter() - started
        self.metrics.count(dialect.name, outcome, seconds)
        log(id, dialect.name, outcome, response.status_code, answer, seconds)
        return response

    async def answer(self, wanted: Rerank, model: str | None, *, size: int, **facts: Any) -> Answer:
        """Have a model answer a request.

        Args:
            wanted: What is asked.
            model: Which model, by its name; None for the first.
            size: Bytes of the request.
            facts: As `Served.answer` takes them.

        Raises:
            Problem: If it is refused, or the model fails.
        """
        served = self._model(model)
        self._check(wanted)
        return await served.answer(wanted, size=size, **facts)

    def require_key(self, headers: Mapping[str, str]) -> None:
        """Compare the key that a client shows with each there is, in the same time whatever it is.

        Raises:
            Problem: If it is none of them.
        """
        if not self._keys:
            return
        shown = headers.get("x-api-key", "") or headers.get("authorization", "")
        scheme, _, rest = shown.partition(" ")
        key = (rest if scheme.lower() in ("bearer", "apikey") else shown).strip().encode("latin-1", "replace")
        # Each is compared, whether or not one before it was the one.
        if not sum(hmac.compare_digest(key, known) for known in self._keys):
            raise Problem("unauthorized", "a key is needed: Authorization: Bearer KEY")

    def _budget(self, request: Request) -> float | None:
        given = request.headers.get("x-rerank-budget-ms")
        if given is None:
            return self.budget_ms
        try:
            return _check_budget(float(given), partial(Problem, "invalid"))
        except ValueError:
            raise Problem("invalid", f"X-Rerank-Budget-Ms: {given!r:.60} is no number of milliseconds") from None

    async def _body(self, request: Request) -> bytes:
        most = self.limits.body_bytes
        too_large = Problem("too_large", f"the body has more than {most:,} bytes: send fewer documents in a request")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise too_large
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Problem("invalid", "Content-Encoding: bodies are read as they are, uncompressed")
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise too_large
                    parts.append(part)
        except TimeoutError:
            raise Problem("timeout", f"the body did not come within {self.limits.body_seconds:g} s") from None
        except ClientDisconnect:
            raise _Gone from None
        return b"".join(parts)

    def _model(self, name: str | None) -> Served:
        if not name:
            return next(iter(self._models.values()))
        for served in self._models.values():
            if name in (served.name, served.info.source.partition(" at ")[0]):
                return served
        names = ", ".join(self._models)
        raise Problem("no_model", f"no model is named {name!r:.100} here; there are: {names}")

    def _check(self, wanted: Rerank) -> None:
        count, most = len(wanted.documents), self.limits.documents
        if not count:
            raise Problem("empty", "there are no documents: one at least is needed")
        if count > most:
            raise Problem("too_large", f"{count:,} documents, of {most:,} that a request may have")

    async def alive(self, request: Request) -> Response:
        """Whether the process answers."""
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether each model has just computed a score."""
        try:
            for served in self._models.values():
                await served.check()
        except Exception as error:  # whatever a model raises
            logger.warning("not ready", exc_info=error)
            return _json({"status": "not ready", "reason": type(error).__name__}, 503, {"Retry-After": "1"})
        return _json({"status": "ready"})

    async def info(self, request: Request) -> Response:
        """What text-embeddings-inference tells, of the first model."""
        return self._guarded(request, self._tei_info)

    def _tei_info(self) -> Any:
        served = next(iter(self._models.values()))
        info = served.info
        return {
            "model_id": info.source.partition(" at ")[0],
            "model_sha": None,
            "model_dtype": {"fp32": "float32", "fp16": "float16"}.get(info.precision, info.precision),
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "served_model_name": served.name,
            "max_concurrent_requests": 10_000,
            "max_input_length": info.max_length,
            "max_batch_tokens": info.batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": self.limits.documents,
            "auto_truncate": True,
            "tokenization_workers": info.threads,
            "version": __version__,
            "docker_label": None,
        }

    async def models(self, request: Request) -> Response:
        """The models that there are, as OpenAI's clients and NVIDIA's ask for them."""
        return self._guarded(
            request,
            lambda: {
                "object": "list",
                "data": [
                    {"id": served.name, "object": "model", "created": 0, "owned_by": "crossrank", "root": served.name}
                    | {"max_model_len": served.info.max_length}
                    for served in self._models.values()
                ],
            },
        )

    async def scrape(self, request: Request) -> Response:
        """What was counted."""
        try:
            self.require_key(request.headers)
        except Problem as problem:
            return _json({"error": problem.message}, 401)
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document; nothing in it is secret."""
        return Response(self._document, media_type="application/json")

    def _guarded(self, request: Request, tell: Callable[[], Any]) -> Response:
        try:
            self.require_key(request.headers)
        except Problem as problem:
            return _json({"error": problem.message}, 401)
        return _json(tell())


async def _while_there(request: Request, work: Awaitable[T]) -> T:
    """What work gives; when its client goes away before, it is cancelled, which frees its place.

    Raises:
        _Gone: If the client has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        while not task.done():
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not task.done():
                if gone.result()["type"] == "http.disconnect":
                    raise _Gone
                gone = asyncio.ensure_future(request.receive())
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _request_id(request: Request) -> str:
    """The client's own where it can stand in a header and in a log, else a new one."""
    given = request.headers.get("x-request-id", "")
    if given and len(given) <= _LONGEST_ID and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex


def _check_budget(budget_ms: float, error: Callable[[str], Exception]) -> float:
    if not 0 < budget_ms <= 1_000_000_000:  # NaN is not, either
        raise error(f"a budget of {budget_ms:g} ms: milliseconds, a number above 0")
    return float(budget_ms)


def _told(answer: Answer) -> dict[str, str]:
    """The headers of every dialect's answers."""
    told = {
        "X-Rerank-Status": "complete" if answer.complete else "partial",
        "X-Rerank-Scored": f"{answer.scored}/{answer.documents}",
    }
    if answer.truncated:
        told["X-Rerank-Truncated"] = str(len(answer.truncated))
    return told


def outcome_of(problem: Problem) -> str:
    """What became of a request, for metrics and logs."""
    if problem.kind in ("backend", "unhealthy"):
        return "failed"
    return "overloaded" if problem.kind == "overloaded" else "refused"


def _failure(dialect: Dialect[Any], problem: Problem) -> Response:
    status, body = dialect.error(problem)
    response = Response(b"" if body is None else _encode(body), status, media_type="application/json")
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(problem.retry_after_s)
    if problem.kind == "unauthorized":
        response.headers["WWW-Authenticate"] = "Bearer"
    if problem.kind == "timeout":
        response.headers["Connection"] = "close"
    return response


def log(id: str, dialect: str, outcome: str, status: int, answer: Answer | None, seconds: float) -> None:
    """One line of facts; nothing that a client wrote but its request's id."""
    if not logger.isEnabledFor(logging.INFO):
        return
    facts: dict[str, Any] = {
        "request_id": id,
        "dialect": dialect,
        "outcome": outcome,
        "status": status,
        "ms": round(1000 * seconds, 2),
    }
    if answer is not None:
        facts |= {
            "model": answer.model,
            "documents": answer.documents,
            "scored": answer.scored,
            "truncated": len(answer.truncated),
            "tokens": answer.tokens,
        }
    logger.info("request", extra={"facts": facts})


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(value), status, headers, media_type="application/json")


async def _page(request: Request, name: str) -> Response:
    """A page of the package, which loads nothing from elsewhere."""
    text = files(__package__).joinpath(name).read_text("utf-8")
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
    return HTMLResponse(text, headers={"Content-Security-Policy": f"{policy}; base-uri 'none'; frame-ancestors 'none'"})
