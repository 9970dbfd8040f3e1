"""``crossrank rank|rerank|info|bench|verify|cache|serve``: parse, call the library, print."""

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from crossrank._artifact.cache import CachedArtifact, Removal, list_cache, prune_cache, remove_from_cache
from crossrank._artifact.locate import cache_root, locate_model
from crossrank._artifact.manifest import PRECISIONS
from crossrank._artifact.origin import EMBEDDED_MODEL, EMBEDDED_NAME
from crossrank._cross_encoder import CrossEncoder
from crossrank._errors import CrossrankError, InputError
from crossrank._options import folder_path
from crossrank._printable import printable, printable_json, printable_line
from crossrank._proof import verify_artifact

from .bench import bench, format_speeds
from .cache import format_cache, format_removals
from .rerank import add_arguments as add_rerank_arguments
from .rerank import run as rerank
from .tables import format_parity_table


class Parser(argparse.ArgumentParser):
    """A parser whose messages steer no terminal, whatever the arguments are."""

    def error(self, message: str) -> NoReturn:
        """End the process with status 2."""
        super().error(printable(message))


def print_json(value: object) -> None:
    """Print a value as JSON."""
    print(printable_json(json.dumps(value, indent=2, default=str, ensure_ascii=False)))


def comma_list(text: str) -> list[str]:
    """``a,b`` -> ``["a", "b"]``."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_documents(text: str) -> list[str]:
    """Documents from lines, or from JSONL whose lines are strings or objects with a "text".

    Empty lines are skipped. The first other line decides which of the two it is.

    Raises:
        InputError: If a line of JSONL is neither; the message gives its number.
    """
    if text.lstrip().startswith("["):
        try:
            whole = json.loads(text)
        except ValueError:
            whole = None  # plain text that happens to begin with a bracket
        if isinstance(whole, list) and all(isinstance(item, str | dict) for item in whole):
            raise InputError("the documents are one JSON list; JSONL is needed, a document a line: jq -c '.[]' FILE")
    # Not splitlines: it would also cut at characters that JSON may hold, such as U+2028.
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines or lines[0][1].lstrip()[0] not in '{"':
        return [line for _, line in lines]
    documents: list[str] = []
    for number, line in lines:
        try:
            value = json.loads(line)
        except ValueError as error:
            if not documents:
                return [line for _, line in lines]  # plain text that happens to begin with a quote
            raise InputError(f"line {number} is no JSON: {error}") from error
        document = value.get("text") if isinstance(value, dict) else value
        if not isinstance(document, str):
            raise InputError(f'line {number} is {line!r:.60}: a JSON string, or an object with a "text" string')
        documents.append(document)
    return documents


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="crossrank", description="Score and rank documents with a cross-encoder.")
    parser.add_argument("--version", action="version", version=f"crossrank {metadata.version('crossrank')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    rank = commands.add_parser("rank", help="rank documents for a query")
    rank.add_argument("query", metavar="QUERY", help="the query")
    rank.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a document a line, or JSONL; empty lines do not count; - is standard input (default)",
    )
    rank.add_argument("--top-k", type=int, metavar="N", help="print the best N only (default: all)")
    rank.add_argument("--json", action="store_true", help="print JSONL: corpus_id, score, text")
    add_rerank_arguments(commands.add_parser("rerank", help="rerank a file: Parquet, JSONL or a TREC run"))
    info = commands.add_parser("info", help="show what a model is and runs on")
    bench = commands.add_parser("bench", help="measure a model's speed on this machine")
    bench.add_argument(
        "--documents",
        type=int,
        nargs="+",
        default=[1, 10, 100, 1000],
        metavar="N",
        help="documents per call (default: 1 10 100 1000)",
    )
    bench.add_argument(
        "--seconds",
        type=float,
        default=20.0,
        metavar="N",
        help="time for all calls, beside the loading of the model (default: 20)",
    )
    bench.add_argument("--file", metavar="FILE", help="documents, as rank reads them (default: made-up ones)")
    bench.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, help="the graphs' numbers (default: all that the model has)"
    )
    for command in (rank, info):
        command.add_argument(
            "--precision",
            default="auto",
            choices=["auto", *PRECISIONS],
            help="the graph's numbers (default: auto, fp32 on a CPU or else int8, fp16 on CUDA)",
        )
    for command in (rank, info, bench):
        command.add_argument(
            "-m",
            "--model",
            default=EMBEDDED_MODEL,
            help="an artifact, checkpoint or ONNX folder, an ONNX file, a registered name or a hub id "
            f"(default: {EMBEDDED_NAME}, which comes with crossrank)",
        )
        command.add_argument("--device", help="cpu, cuda, cuda:N, tensorrt or tensorrt:N (default: cpu or cuda)")
        command.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all this process may use)")
        command.add_argument("--max-length", type=int, metavar="N", help="most tokens of a pair")
        command.add_argument(
            "--relevant-label", type=int, metavar="N", help="of several labels the one that means relevant, from 0"
        )
    for command in (info, bench):
        command.add_argument("--json", action="store_true", help="print JSON")

    verify = commands.add_parser("verify", help="check an artifact's files and prove its graphs on this machine")
    verify.add_argument(
        "model",
        nargs="?",
        default=EMBEDDED_MODEL,
        metavar="MODEL",
        help=f"an artifact folder, or what else --model of the other commands finds one by (default: {EMBEDDED_NAME})",
    )
    verify.add_argument("--json", action="store_true", help="print JSON")
    _add_cache_commands(commands.add_parser("cache", help="show and clean the cache of exported models"))
    commands.add_parser("serve", help="serve models over HTTP to every rerank client (needs crossrank[serve])")
    return parser


def _add_cache_commands(cache: argparse.ArgumentParser) -> None:
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser(
        "list", help="show the models in the cache: graphs, sizes, age, what nothing loads any more"
    )
    remove = actions.add_parser(
        "remove", help="remove models from the cache; they are exported again when they are loaded"
    )
    remove.add_argument(
        "names", nargs="+", metavar="NAME", help="a name that list shows, a hub id or the path of a checkpoint folder"
    )
    prune = actions.add_parser(
        "prune",
        help="remove models of folders that are gone or changed, or of an older format, and what killed exports left",
        description="Run it where the checkpoint folders are: of one that is not there the model goes too.",
    )
    for action in (remove, prune):
        action.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    for action in (show, remove, prune):
        action.add_argument("--json", action="store_true", help="print JSON")
        action.add_argument(
            "--cache-folder", type=_folder, metavar="DIR", help="the cache (default: $CROSSRANK_HOME, else the user's)"
        )


def _folder(text: str) -> Path:
    try:
        return folder_path("the folder", text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line; what is wrong with it ends the process with status 2."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    texts = rest and all(argument == "-" or not argument.startswith("-") for argument in rest)
    if texts and options.command == "rank" and options.file is None:
        options.file = rest.pop(0)  # argparse gives up on FILE where an option stands between QUERY and it
    if texts and rest and options.command not in ("verify", "cache"):
        parser.error(
            f"too many arguments: {' '.join(rest)}; the model is an option: crossrank {options.command} --model MODEL"
        )
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _load(options: argparse.Namespace) -> CrossEncoder:
    return CrossEncoder(
        options.model,
        precision=options.precision,
        device=options.device,
        threads=options.threads,
        max_length=options.max_length,
        relevant_label=options.relevant_label,
    )


def _documents(file: str) -> list[str]:
    """The documents of a file, or of standard input for "-"."""
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return read_documents(raw.decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: documents cannot be read: {error}") from error


def _rank(options: argparse.Namespace) -> None:
    on_terminal = sys.stderr is not None and sys.stderr.isatty()  # a daemon may have closed it
    file = options.file or "-"
    if file == "-" and on_terminal and sys.stdin.isatty():
        print("documents from standard input, a line each; end with Ctrl-D", file=sys.stderr)
    documents = _documents(file)
    model = _load(options)
    ranking = model.rank(
        options.query, documents, top_k=options.top_k, return_documents=True, show_progress_bar=on_terminal
    )
    for place, entry in enumerate(ranking, 1):
        if options.json:
            print(printable_json(json.dumps(entry, ensure_ascii=False)))
            continue
        line = f"{place:>4}  {entry['score']:>9.4f}  {entry['text']}"
        print(printable(line) if sys.stdout.isatty() else line)


def _info(options: argparse.Namespace) -> None:
    info = _load(options).info()
    if options.json:
        print_json(asdict(info))
    else:
        print(info)


def _bench(options: argparse.Namespace) -> None:
    setup, speeds, notes = bench(
        options.model,
        documents=options.documents,
        precisions=options.precision,
        device=options.device,
        threads=options.threads,
        max_length=options.max_length,
        relevant_label=options.relevant_label,
        seconds=options.seconds,
        texts=None if options.file is None else _documents(options.file),
        on_start=None if options.json else lambda setup: print(f"{setup}\n", flush=True),
    )
    if options.json:
        print_json(asdict(setup) | {"speeds": [asdict(speed) for speed in speeds], "notes": notes})
    else:
        print("\n".join([format_speeds(speeds), *notes]))


def _verify(options: argparse.Namespace) -> None:
    folder = locate_model(options.model)
    manifest, skipped = verify_artifact(folder)
    if options.json:
        print_json({"skipped": skipped, **asdict(manifest)})
        return
    print(
        f"{printable_line(folder)}: {len(manifest.files)} files with the right sha256\n{format_parity_table(manifest)}"
    )
    for reason in skipped:
        print(f"not proven here: {printable_line(reason)}")


def _cache(options: argparse.Namespace) -> int:
    root = cache_root(options.cache_folder)
    if options.action == "list":
        artifacts = list_cache(root)
        found: Sequence[CachedArtifact | Removal] = artifacts
        text = format_cache(root, artifacts)
    else:
        removals = (
            remove_from_cache(root, options.names, dry_run=options.dry_run)
            if options.action == "remove"
            else prune_cache(root, dry_run=options.dry_run)
        )
        found, text = removals, format_removals(removals, dry_run=options.dry_run)
    if options.json:
        print_json([asdict(entry) for entry in found])
    else:
        print(text)
    return int(any(isinstance(entry, Removal) and entry.problem is not None for entry in found))


def _main(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["serve"]:
        from crossrank.serve import main as serve  # of an extra, with options of its own

        return serve(arguments[1:])
    options = _parse(arguments)
    if options.command == "cache":
        return _cache(options)
    {"rank": _rank, "rerank": rerank, "info": _info, "bench": _bench, "verify": _verify}[options.command](options)
    return 0


def run_command(command: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None) -> int:
    """Run a command line; errors of ours become one message and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal or a pipe may know fewer letters than UTF-8
    try:
        return command(arguments)
    except CrossrankError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``crossrank``; returns 0, 1 for a failure, 2 for wrong usage."""
    return run_command(_main, arguments)
