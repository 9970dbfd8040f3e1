"""A hub on this machine, with as much of the hub's interface as a download asks for."""

import hashlib
import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub as a download asks for; it logs the files that were fetched.

    Attributes:
        files: The content of "owner/name/path"; every repository has one commit, `COMMIT`, on the branch main.
        fetched: The paths whose content was sent.
        asked: The paths of all requests.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, folder: Path) -> None:
        files = (path for path in folder.rglob("*") if path.is_file())
        self.files |= {f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in files}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""

    def do_HEAD(self) -> None:
        self._respond(*self._answer())

    def do_GET(self) -> None:
        status, headers, body = self._answer()
        self._respond(status, headers, body)
        self.wfile.write(body)

    def _respond(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()

    def _answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body, as huggingface.co gives them."""
        self.server.asked.append(self.path)
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if self.headers.get("Authorization") == "Bearer hf_expired":
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        if parts[0] == "content":  # where large files are redirected to
            path = "/".join(parts[1:])
            self.server.fetched += [path] if self.command == "GET" else []
            return 200, {}, self.server.files[path]
        if len(parts) < 5:
            return (200, {}, b"[]") if parts == ["api", "models"] else (404, {}, b"")
        api = parts[0] == "api"
        owner, name, what, revision, *rest = parts[2:] if api else parts
        path, repository = "/".join([owner, name, *rest]), f"{owner}/{name}/"
        siblings = [file.removeprefix(repository) for file in self.server.files if file.startswith(repository)]
        if name == "private":
            return 403, {"X-Error-Message": "Forbidden"}, b""
        if not siblings:
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        if revision not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b""
        if what == "revision":
            info = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [{"rfilename": file} for file in siblings]}
            return 200, {}, json.dumps(info).encode()
        if what == "tree":
            entries = [_tree_entry(file, self.server.files[repository + file]) for file in siblings]
            return 200, {}, json.dumps(entries).encode()
        if name == "gated":
            return 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}, b""
        body = self.server.files[path]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        if path.endswith((".safetensors", ".bin")):
            large = {"X-Linked-Etag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Linked-Size": str(len(body))}
            elsewhere = f"http://localhost:{self.server.server_port}/content/{path}"
            return 302, headers | large | {"Location": elsewhere}, b""
        self.server.fetched += [path] if self.command == "GET" else []
        return 200, headers, body


def _tree_entry(path: str, body: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub, as long as the block lasts."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def environment(home: Path, endpoint: str) -> dict[str, str]:
    """What a process needs to see this hub and this cache, and nothing of the user's."""
    users = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_")
    mine = {key: value for key, value in os.environ.items() if not key.startswith(users)}
    direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    return mine | direct | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}


def cached_files(folder: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
