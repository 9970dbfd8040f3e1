"""Clients of a server: connections that one thread of a process of its own drives, so that they cost it little.

What is sent is written before a load begins. Each answer is read whole and looked at: its status, its length, that
every document has one score and that the best come first. `Clients` asks for a load, this module's process makes it.
"""

import gc
import math
import re
import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice, repeat
from typing import Any, Self
from urllib.request import Request, urlopen

import msgspec

from benchmarks.engines.answer import answer
from benchmarks.engines.process import Process

from .load import MOST_REQUESTS, Answers, Texts, answers_of, made_ahead

_GRACE_S, _WAIT_S, _CONNECT_S = 0.5, 60.0, 30.0
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(?:.*\r\n)*?content-length: (\d+)\r\n(?:.*\r\n)*?\r\n", re.IGNORECASE)
_SCORED = re.compile(rb"\r\nx-rerank-scored: (\d+)/", re.IGNORECASE)


class _Result(msgspec.Struct):
    index: int
    relevance_score: float


class _Reply(msgspec.Struct):
    results: list[_Result]


_decode = msgspec.json.Decoder(_Reply).decode


class Clients:
    """The clients of one server; a context manager, which ends their process.

    Args:
        address: HOST:PORT.
        path: Where it ranks.
    """

    def __init__(self, address: str, path: str = "/v1/rerank") -> None:
        self._address, self._path = address, path
        self._process = Process(__name__, threads=1)
        self._taken = 0  # requests until now, so that no query returns

    def closed(self, callers: int, documents: int, *, seconds: float, requests: int = MOST_REQUESTS) -> Answers:
        """Callers that send their next request when the one before is answered, so many at most."""
        return self._load(callers=callers, documents=documents, seconds=seconds, requests=requests)

    def open(
        self, planned: Sequence[tuple[float, int]], *, seconds: float, callers: int, budget_ms: float | None = None
    ) -> Answers:
        """Requests at their times, as `arrivals` gives them; one that finds no connection free waits, which counts."""
        return self._load(callers=callers, planned=planned, seconds=seconds, budget_ms=budget_ms)

    def scores(self, query: str, documents: Sequence[str]) -> dict[int, float]:
        """The scores of documents by their places."""
        body = msgspec.json.encode({"query": query, "documents": documents})
        with urlopen(
            Request(f"http://{self._address}{self._path}", body, {"Content-Type": "application/json"})
        ) as answer:
            return {result.index: result.relevance_score for result in _decode(answer.read()).results}

    def _load(self, *, seconds: float, planned: Sequence[tuple[float, int]] | None = None, **load: Any) -> Answers:
        asked = {
            "address": self._address,
            "path": self._path,
            "seconds": seconds,
            "planned": planned,
            "first": self._taken,
            **load,
        }
        reply = self._process.ask("load", asked, limit_s=seconds + 2 * _WAIT_S)
        self._taken += MOST_REQUESTS
        begun = (None, 0.0) if planned is None else (0.0, seconds)
        return answers_of(
            [tuple(entry) for entry in reply["ended"]], reply["first_error"], *begun, cpu_s=reply["cpu_s"]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()


class _Connection:
    """A connection, which has one request under way at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self.size, self.due, self._rest, self._read = 0, 0.0, memoryview(b""), b""
        self.open()

    def open(self) -> None:
        """Connect; OSError if nobody listens any more."""
        self.socket = socket.create_connection(self._address, _CONNECT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def send(self, request: bytes, size: int, due: float) -> bool:
        """Begin a request of so many documents, and return whether it is sent."""
        self.size, self.due, self._rest, self._read = size, due, memoryview(request), b""
        return self.write()

    def write(self) -> bool:
        """Send on, and return whether all is sent."""
        with suppress(BlockingIOError):
            while self._rest:
                self._rest = self._rest[self.socket.send(self._rest) :]
        return not self._rest

    def read(self) -> tuple[str, int] | None:
        """How the request ended and how many documents were scored, or None while its answer is not there."""
        received = self.socket.recv(1 << 18)
        if not received:
            raise ConnectionError("the server has closed the connection")
        self._read = self._read + received if self._read else received
        head = _HEAD.match(self._read)
        if head is None or len(self._read) < head.end() + int(head[2]):
            return None
        if head[1] == b"429":
            return "rejected", self.size
        if head[1] != b"200":
            raise ValueError(f"status {head[1].decode()}")
        results = _decode(memoryview(self._read)[head.end() :]).results
        scores = [result.relevance_score for result in results]
        if len(results) != self.size or len({result.index for result in results}) != self.size:
            raise ValueError(f"{len(results)} results of {self.size} documents")
        if not all(map(math.isfinite, scores)) or scores != sorted(scores, reverse=True):
            raise ValueError(f"scores that are no ranking: {scores}")
        scored = _SCORED.search(head[0])
        return "answered", self.size if scored is None else int(scored[1])


class _Connections:
    """Connections to a server, and what became of their requests.

    One that the server has closed is opened again, as every client does, or left out where nobody listens any more.

    Attributes:
        all: Those that stand, by their files.
        free: Of them those without a request.
        under_way: The others.
        ended: How each request ended, its documents, when it was due and when it ended.
        error: The first failure.
    """

    def __init__(self, host: str, port: int, count: int) -> None:
        self.all, self.free, self.under_way = dict[int, _Connection](), list[_Connection](), dict[int, _Connection]()
        self.ended, self.error = list[tuple[str, int, float, float]](), ""
        self._poll = select.epoll()
        for _ in range(count):
            self._add(_Connection(host, port))

    def send(self, request: bytes, size: int, due: float) -> None:
        """Begin a request on a connection that is free."""
        connection = self.free.pop()
        self.under_way[connection.socket.fileno()] = connection
        try:
            if not connection.send(request, size, due):
                self._poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)
        except OSError as error:
            self._fail(connection, error)

    def wait(self, seconds: float) -> None:
        """Take what comes, once something does, or after so long."""
        select.select([self._poll], [], [], max(0.0, seconds))  # the timeout of `poll` counts whole milliseconds
        for file, event in self._poll.poll(0):
            connection = self.all[file]
            if file not in self.under_way:  # it was closed between two requests
                self._renew(connection)
                continue
            try:
                if event & select.EPOLLOUT and connection.write():
                    self._poll.modify(file, select.EPOLLIN)
                found = connection.read() if event & ~select.EPOLLOUT else None
            except (OSError, ValueError) as error:  # msgspec's are ValueErrors
                self._fail(connection, error)
            else:
                if found is not None:
                    self._end(connection, *found)

    def close(self) -> None:
        """What is under way is left."""
        self._poll.close()
        for connection in self.all.values():
            connection.socket.close()

    def _end(self, connection: _Connection, ending: str, size: int) -> None:
        self.ended.append((ending, size, connection.due, time.perf_counter()))
        self.free.append(self.under_way.pop(connection.socket.fileno()))

    def _fail(self, connection: _Connection, error: Exception) -> None:
        self.error = self.error or f"{type(error).__name__}: {error}"
        self._end(connection, "failed", connection.size)
        if isinstance(error, OSError):
            self._renew(connection)

    def _renew(self, connection: _Connection) -> None:
        self._poll.unregister(connection.socket)
        del self.all[connection.socket.fileno()]
        self.free.remove(connection)
        connection.socket.close()
        with suppress(OSError):
            connection.open()
            self._add(connection)

    def _add(self, connection: _Connection) -> None:
        self._poll.register(connection.socket, select.EPOLLIN)
        self.all[connection.socket.fileno()] = connection
        self.free.append(connection)


def _requests(texts: Texts, sizes: Iterable[int], head: str) -> Iterator[tuple[bytes, int]]:
    for size in sizes:
        query, documents = texts.take(size)
        body = msgspec.json.encode({"query": query, "documents": documents})
        yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, size


def _load(
    address: str,
    path: str,
    callers: int,
    seconds: float,
    first: int,
    planned: Sequence[tuple[float, int]] | None,
    documents: int = 0,
    requests: int = 0,
    budget_ms: float | None = None,
) -> dict[str, object]:
    """Make a load, without a plan a closed loop of so many requests of ``documents``. Times count from its begin."""
    head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
    head += "" if budget_ms is None else f"X-Rerank-Budget-Ms: {budget_ms}\r\n"
    endless = planned is None
    due = deque(at for at, _ in planned or ())
    wanted = repeat(documents, requests) if endless else [size for _, size in planned or ()]
    made = _requests(Texts(first), wanted, head)
    bodies = chain(list(islice(made, made_ahead(seconds) if endless else None)), made)
    host, _, port = address.rpartition(":")
    connections = _Connections(host, int(port), callers)
    gc.freeze()
    cpu_s, start = time.process_time(), time.perf_counter()
    end = start + seconds
    while True:
        now = time.perf_counter()
        while connections.free and (now < end if endless else due and start + due[0] <= now):
            meant = now if endless else start + due.popleft()
            request = next(bodies, None)
            if request is None:
                end = now
            else:
                connections.send(*request, meant)
        last = end + (_WAIT_S if endless else _GRACE_S)
        if now >= last or not connections.all or not (connections.under_way or due or (endless and now < end)):
            break
        connections.wait((start + due[0] if due and connections.free else last) - now)
    cpu_s = time.process_time() - cpu_s
    ended = [(ending, size, due - start, at - start) for ending, size, due, at in connections.ended]
    left = [(connection.size, connection.due - start) for connection in connections.under_way.values()]
    left += [(size, at) for at, (_, size) in zip(due, bodies, strict=False)]
    ended += [("unanswered", size, at, at) for size, at in left]
    connections.close()
    gc.unfreeze()
    return {"ended": ended, "first_error": connections.error, "cpu_s": cpu_s}


if __name__ == "__main__":
    answer({"load": _load})
