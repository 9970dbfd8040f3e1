"""The rerank calls of a server: keys, bounds, the time budget, and who is told of what went wrong."""

import asyncio
import hmac
import logging
import random
import time
import traceback
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ._dialects import Dialect, choose
from ._metrics import Metrics
from ._models import Served
from ._request import Answer, Limits, Problem, Rerank, check_budget
from ._tracing import Tell, request_span

logger = logging.getLogger("crossrank.serve")

T = TypeVar("T")
_LONGEST_ID = 128
_MOST_FRAMES = 20  # of an exception, in a log
_encode = msgspec.json.Encoder().encode


class _Gone(Exception):
    """The client has gone."""


class Service:
    """What rerank calls of every dialect are answered with.

    Args:
        models: By name, the first one for requests that name none.
        keys: That clients may show.
        budget_ms: For requests that bring none.
        limits: Of a request.

    Attributes:
        models: As given.
        budget_ms: As given.
        limits: As given.
        metrics: What was counted.
    """

    def __init__(
        self, models: Mapping[str, Served], keys: list[bytes], budget_ms: float | None, limits: Limits
    ) -> None:
        self.models, self._keys, self.budget_ms, self.limits = models, keys, budget_ms, limits
        self.metrics = Metrics(models)

    async def rerank(self, request: Request, dialects: Sequence[Dialect[Any]]) -> Response:
        """Answer a request in its dialect, whatever comes of it."""
        with request_span(request.headers) as tell:
            return await self._rerank(request, dialects, tell)

    async def _rerank(self, request: Request, dialects: Sequence[Dialect[Any]], tell: Tell) -> Response:
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
            body, status, headers = _encode(dialect.write(wanted, answer)), 200, dialect.headers(answer) | _told(answer)
            outcome = "complete" if answer.complete else "partial"
        except _Gone:
            body, status, headers, outcome = b"", 499, {}, "cancelled"  # nobody reads it
        except Exception as error:
            problem = problem_of(error, id)
            (status, body, headers), outcome = _failure(dialect, problem), outcome_of(problem)
        headers["X-Request-Id"] = id
        seconds = time.perf_counter() - started
        self.metrics.count(dialect.name, outcome, seconds)
        tell(log(id, dialect.name, outcome, status, answer, seconds))
        return Response(body, status, headers, media_type="application/json")

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
            return check_budget(float(given), partial(Problem, "invalid"))
        except ValueError:
            raise Problem("invalid", f"X-Rerank-Budget-Ms: {given!r:.60} is no number of milliseconds") from None

    async def _body(self, request: Request) -> bytes:
        most = self.limits.body_bytes
        too_large = Problem("too_large", f"the body has more than {most:,} bytes: send fewer documents in a request")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise too_large
        if request.headers.get("content-encoding", "identity").lower() != "identity":
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
            return next(iter(self.models.values()))
        for served in self.models.values():
            if name in (served.name, served.info.name):
                return served
        names = ", ".join(self.models)
        raise Problem("no_model", f"no model is named {name!r:.100} here; there are: {names}")

    def _check(self, wanted: Rerank) -> None:
        count, most = len(wanted.documents), self.limits.documents
        if not count:
            raise Problem("empty", "there are no documents: one at least is needed")
        if count > most:
            raise Problem("too_large", f"{count:,} documents, of {most:,} that a request may have")


async def _while_there(request: Request, work: Awaitable[T]) -> T:
    """What work gives; when its client goes away before, it is cancelled, which frees its place.

    Raises:
        _Gone: If the client has gone.
    """
    here, waits = asyncio.current_task(), True

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        if waits and here is not None:
            here.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if here is None or not watching.done() or here.uncancel():  # others end it
            raise
        raise _Gone from None
    finally:
        waits = False
        watching.cancel()


def _request_id(request: Request) -> str:
    """The client's own where it can stand in a header and in a log, else a new one."""
    given = request.headers.get("x-request-id", "")
    if given and len(given) <= _LONGEST_ID and given.isascii() and given.isprintable():
        return given
    return f"{random.getrandbits(128):032x}"


def _told(answer: Answer) -> dict[str, str]:
    """The headers of every dialect's answers."""
    told = {
        "X-Rerank-Status": "complete" if answer.complete else "partial",
        "X-Rerank-Scored": f"{answer.scored}/{answer.documents}",
    }
    if answer.truncated:
        told["X-Rerank-Truncated"] = str(len(answer.truncated))
    return told


def problem_of(error: Exception, id: str) -> Problem:
    """What a client is told of an exception; what it is beside a refusal goes to the log.

    Args:
        error: A problem, which has a cause if a model failed, or whatever the server raised.
        id: The request's.
    """
    facts = {"facts": {"request_id": id}}
    if not isinstance(error, Problem):
        logger.error("a request failed: %s", raised(error), extra=facts)
        error = Problem("backend", f"the server failed: {type(error).__name__}")
    elif error.__cause__ is not None:
        logger.error("a model failed: %s", raised(error.__cause__), extra=facts)
    error.id = id
    return error


def raised(error: BaseException | None) -> str:
    """An exception's type, the lines through which it came, the innermost last, and what it came of.

    Its message is left out: it may hold what a client wrote.
    """
    parts, seen = list[str](), list[int]()
    while error is not None and id(error) not in seen:  # an exception may be its own cause
        seen.append(id(error))
        lines = [f"{frame.f_code.co_filename}:{number}" for frame, number in traceback.walk_tb(error.__traceback__)]
        parts.append(f"{type(error).__name__} ({', '.join(lines[-_MOST_FRAMES:])})")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return " from ".join(parts)


def outcome_of(problem: Problem) -> str:
    """What became of a request, for metrics and logs."""
    if problem.kind in ("backend", "unhealthy"):
        return "failed"
    return "overloaded" if problem.kind == "overloaded" else "refused"


def _failure(dialect: Dialect[Any], problem: Problem) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers."""
    status, body = dialect.error(problem)
    headers = {}
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    if problem.kind == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    if problem.kind == "timeout":
        headers["Connection"] = "close"
    return status, _encode(body), headers


def log(
    id: str, dialect: str, outcome: str, status: int, answer: Answer | None, seconds: float
) -> dict[str, str | int | float]:
    """Log a line of facts, and give them; nothing that a client wrote but its request's id."""
    facts: dict[str, str | int | float] = {
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
    return facts
