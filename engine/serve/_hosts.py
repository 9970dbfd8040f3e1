"""The hosts that a server answers as: a page that points its own name at this machine is none of them."""

from collections.abc import Collection

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

# Names of this machine that no name server gives away.
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_REFUSED = msgspec.json.encode(
    {"error": "this server does not answer under that Host; allowed_hosts= (in a shell --allowed-hosts) adds names"}
)
_START = {
    "type": "http.response.start",
    "status": 421,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(_REFUSED)).encode())],
}


class AllowedHosts:
    """An application that answers requests to some hosts alone, the others with 421.

    A web page may have its own name lead to 127.0.0.1 ("DNS rebinding"): the browser then takes a server on loopback
    for that page's, and lets it ask and read. The Host header says that name. Starlette's TrustedHostMiddleware cuts
    an IPv6 address at its first colon.

    Args:
        app: What answers.
        hosts: Names and addresses, without ports, IPv6 without brackets; any other than a case is another.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().strip("[]").encode("latin-1", "replace") for host in hosts)
        self._seen: set[bytes] = set()  # headers that were found to be right

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == b"host"]
            if len(given) != 1 or not self._is_ours(given[0]):
                await send(_START)
                await send({"type": "http.response.body", "body": _REFUSED})
                return
        await self._app(scope, receive, send)

    def _is_ours(self, header: bytes) -> bool:
        if header in self._seen:
            return True
        host = header[1:].partition(b"]")[0] if header.startswith(b"[") else header.partition(b":")[0]
        ours = host.lower() in self._hosts
        if ours and len(self._seen) < 100:
            self._seen.add(header)
        return ours
