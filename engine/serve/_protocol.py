"""uvicorn's HTTP protocol for ``crossrank serve``: bounds before a body, other protocols' wishes, few system calls."""

import asyncio
import os
import sys
from array import array
from contextlib import suppress
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_HEADER_BYTES = 65_536  # of a request, its first line among them
_MOST_HEADERS = 100
_HEADER_S = 10.0  # from the first byte of a connection, or from the end of its last request, to the end of the headers
_STOOD_STILL_S = 1.0
_WRITES = sys.platform != "win32"  # where sockets are files


class _Parser(httptools.HttpRequestParser):
    """httptools' parser, for which a request that asks for another protocol is one like any other.

    Java's HttpClient asks for h2c with each first request, and its body follows: a server that does not know the
    protocol is to ignore the wish (RFC 9110, 7.8). httptools stops there and cannot go on, so that another one does.
    """

    def __init__(self, protocol: "Protocol") -> None:
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
    """A plain transport that sends what is written in one turn of the event loop at once: headers and their body.

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


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds for what comes before a body."""

    _left = _MOST_HEADER_BYTES
    _timer: asyncio.TimerHandle | None = None
    _again = False  # whether headers are read that were read before

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser = _Parser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first headers, and no longer than that."""
        plain = transport.get_extra_info("sslcontext") is None  # else what is written is not what goes to the socket
        super().connection_made(_Joining(transport, self.loop) if plain else transport)  # type: ignore[arg-type]
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
