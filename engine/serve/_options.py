"""The options of ``crossrank serve``, each also an environment variable."""

import argparse
import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from crossrank import InputError

from ._hosts import LOOPBACK
from ._request import Limits, check_budget

PREFIX = "CROSSRANK_SERVE_"
_EMBEDDED = "crossrank-mini-en"


class _Parser(argparse.ArgumentParser):
    """A parser whose options take their defaults from the environment, and say so."""

    def option(self, name: str, type: type, default: object, help: str, metavar: str = "N") -> None:
        """Add an option."""
        variable = PREFIX + name.lstrip("-").replace("-", "_").upper()
        shown = "none" if default is None else default
        text = f"{help} (default: {shown}; ${variable})".replace("%", "%%")
        given = os.environ.get(variable)
        self.add_argument(name, type=type, default=given if given else default, metavar=metavar, help=text)


def parser() -> argparse.ArgumentParser:
    """The command's parser, with what the environment says now."""
    limits = Limits()
    made = _Parser(
        prog="crossrank serve",
        description="Serve models to every client that speaks Cohere's, Jina's, Voyage's, NVIDIA's, vLLM's, "
        "text-embeddings-inference's, infinity's or Elasticsearch's rerank, on one port.",
        epilog="Each option is an environment variable too; the command line wins.",
    )
    made.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"a model's name or folder, or NAME=MODEL to serve it under another name; the first one answers requests "
        f"that name none (default: {_EMBEDDED}, which comes with crossrank; ${PREFIX}MODELS, with spaces between)",
    )
    made.option("--host", str, "127.0.0.1", "address to listen on; 0.0.0.0 is all of this machine's", "HOST")
    made.option("--port", int, 8080, "port to listen on; 0 takes a free one")
    made.option("--grpc-port", int, None, "port of the gRPC service tei.v1.Rerank too (needs crossrank[grpc])")
    made.option("--workers", int, 1, "processes that share the port; each has a share of the cores and its own model")
    made.option("--api-key-file", Path, None, "file of the keys that clients may show, one a line", "FILE")
    made.option("--max-queue-tokens", int, 200_000, "tokens that may wait for a model; beyond it requests get 429")
    made.option("--default-budget-ms", float, None, "time for requests that bring no X-Rerank-Budget-Ms")
    made.option("--default-chunks", int, 1, "parts in which a long document is read where a request does not say it")
    made.option("--max-body-bytes", int, limits.body_bytes, "bytes of a request's body")
    made.option("--max-documents", int, limits.documents, "documents of a request")
    made.option("--max-request-tokens", int, limits.tokens, "tokens of a request, as far as the model reads them")
    made.option("--body-seconds", float, limits.body_seconds, "time for a request's body to come")
    made.option("--drain-seconds", int, 20, "time that requests under way have after SIGTERM")
    made.option("--cors-origins", str, None, "web origins whose pages may call, with commas between", "ORIGINS")
    made.option(
        "--allowed-hosts",
        str,
        None,
        "names that a request's Host may say, with commas between, beside this machine's; none is these alone on a "
        "loopback address and any name on another; * is any",
        "HOSTS",
    )
    made.option(
        "--device", str, None, "cpu, cuda, cuda:N, tensorrt or tensorrt:N; none takes CUDA or else the CPU", "D"
    )
    made.option("--precision", str, "auto", "the graph's numbers: fp32, fp16, int8 or auto", "P")
    made.option("--threads", int, None, "CPU threads; none takes all that this process may use")
    made.option("--max-length", int, None, "most tokens of a pair; none takes the model's")
    return made


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line; what is wrong with it ends the process with status 2."""
    made = parser()
    options = made.parse_args(arguments)
    options.models = options.models or os.environ.get(PREFIX + "MODELS", "").split() or [_EMBEDDED]
    for name in (
        "max_queue_tokens",
        "default_chunks",
        "max_body_bytes",
        "max_documents",
        "max_request_tokens",
        "workers",
    ):
        if getattr(options, name) < 1:
            made.error(f"--{name.replace('_', '-')} {getattr(options, name)}: 1 or more is needed")
    for name in ("port", "grpc_port"):
        if not 0 <= (getattr(options, name) or 0) <= 65_535:
            made.error(f"--{name.replace('_', '-')} {getattr(options, name)}: 0 to 65535 is needed")
    for name in ("threads", "max_length"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            made.error(f"--{name.replace('_', '-')} {getattr(options, name)}: 1 or more is needed")
    if options.default_budget_ms is not None:
        try:
            check_budget(options.default_budget_ms, InputError)
        except InputError as error:
            made.error(f"--default-budget-ms: {error}")
    if options.drain_seconds < 0 or not options.body_seconds > 0:
        made.error("--drain-seconds and --body-seconds are times, no negative ones")
    return options


def hosts(options: argparse.Namespace) -> list[str] | None:
    """What a request's Host may say, None for anything.

    >>> hosts(parse(["--host", "0.0.0.0"])), hosts(parse([]))
    (None, ['localhost', '127.0.0.1', '::1', '127.0.0.1'])
    """
    named = [host.strip() for host in (options.allowed_hosts or "").split(",") if host.strip()]
    if "*" in named or not (named or is_loopback(options.host)):
        return None
    return [*LOOPBACK, options.host, *named]


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone.

    >>> [is_loopback(host) for host in ("127.0.0.5", "::1", "localhost", "127.example.org", "0.0.0.0")]
    [True, True, True, False, False]
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def named_models(models: Sequence[str]) -> Mapping[str, str]:
    """``NAME=MODEL`` or ``MODEL`` each, which then has the last part of its name as its name.

    Raises:
        InputError: If two have one name.

    >>> named_models(["fast=crossrank-mini-en", "cross-encoder/ms-marco-MiniLM-L6-v2"])
    {'fast': 'crossrank-mini-en', 'ms-marco-MiniLM-L6-v2': 'cross-encoder/ms-marco-MiniLM-L6-v2'}
    """
    found: dict[str, str] = {}
    for text in models:
        name, equals, model = text.partition("=")
        if not equals or Path(text).exists():
            name, model = Path(text).resolve().name if Path(text).exists() else Path(text).name, text
        if not name or not model:
            raise InputError(f"{text!r:.100}: a model, or NAME=MODEL, is needed")
        if name in found:
            raise InputError(f"two models are named {name!r:.100}: give one another name, as NAME=MODEL")
        found[name] = model
    return found


def read_keys(file: Path) -> list[str]:
    """The keys of a file, one a line; empty lines do not count.

    Raises:
        InputError: If it cannot be read or has none.
    """
    try:
        keys = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--api-key-file {file}: it cannot be read: {error}") from None
    if not keys:
        raise InputError(f"--api-key-file {file}: no key is in it; a line for each is needed")
    return keys
