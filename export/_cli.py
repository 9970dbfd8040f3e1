"""``export-model``: parse, call the library, print."""

import os
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from crossrank._artifact.manifest import PRECISIONS, VARIANTS, read_manifest
from crossrank._cli.main import Parser, comma_list, print_json, run_command
from crossrank._cli.tables import align_columns, format_parity_table
from crossrank._errors import InputError
from crossrank._options import folder_path
from crossrank._printable import printable_line
from crossrank.models import load_registry

from ._api import export_model
from ._report import terminal_report
from ._targets import EXPORTERS, choose_targets
from ._write.triton import check_triton, write_triton


def _parser() -> Parser:
    parser = Parser(
        prog="export-model",
        description="Turn a published cross-encoder into a proven ONNX artifact folder.",
        epilog="Without -o the artifact goes to the cache, where CrossEncoder(NAME) and crossrank rank find it.",
    )
    parser.add_argument("--version", action="version", version=f"crossrank {metadata.version('crossrank')}")
    parser.add_argument(
        "model", nargs="?", metavar="NAME-OR-FOLDER", help="a registered name, a hub id or a checkpoint folder"
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="the artifact folder to write")
    parser.add_argument(
        "--exporter",
        choices=EXPORTERS,
        default="auto",
        help="native; optimum, for architectures that it does not know (portable fp32 only); auto: native where it can",
    )
    parser.add_argument("--variants", type=comma_list, metavar="LIST", help=f"of {','.join(VARIANTS)} (default: all)")
    parser.add_argument(
        "--precision",
        type=comma_list,
        metavar="LIST",
        help=f"of {','.join(PRECISIONS)} (default: cpu fp32,int8; cuda fp16; portable fp32)",
    )
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="most tokens of a pair (default: the model's limit)"
    )
    parser.add_argument(
        "--tensorrt",
        action="store_true",
        help="make portable fp16 too, and build its TensorRT engines for the GPU of this machine, ahead of a service",
    )
    parser.add_argument(
        "--triton",
        metavar="DIR",
        help="write a model repository of Triton there too: the engine as a Python model, and the portable graph",
    )
    parser.add_argument("--triton-name", metavar="NAME", help="of the model there (default: the last part of NAME)")
    parser.add_argument("--triton-instances", type=_from_one, metavar="N", help="of each model (default: 1)")
    parser.add_argument(
        "--triton-threads", type=_from_one, metavar="N", help="of each instance on a CPU (default: all cores)"
    )
    parser.add_argument("--triton-gpu", action="store_true", help="instances on each GPU, not on the CPU")
    parser.add_argument("--revision", metavar="R", help="hub revision (default: the registry's, else the newest)")
    parser.add_argument("--offline", action="store_true", help="never ask the hub")
    parser.add_argument("--force", action="store_true", help="replace an artifact that is already there")
    parser.add_argument("--list", action="store_true", help="print the registered models and exit")
    parser.add_argument("--json", action="store_true", help="print the manifest, or the registry, as JSON")
    return parser


def _from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r:.60}: an integer from 1 is needed")
    return int(text)


def _print_registry(*, as_json: bool) -> None:
    models = load_registry()
    if as_json:
        print_json([asdict(model) for model in models])
        return
    rows = [
        ("model", "architecture", "layers", "hidden", "labels", "max", "activation", "licence", "docs/s V100", "also")
    ]
    for m in models:
        speed = "-" if m.docs_per_sec_v100 is None else str(m.docs_per_sec_v100)
        short = min(m.names, key=len, default="-")
        sizes = (str(m.layers), str(m.hidden), str(m.labels), str(m.max_length))
        rows.append((m.id, m.architecture, *sizes, m.activation, m.licence, speed, short))
    print(align_columns(rows))


def _main(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        _print_registry(as_json=options.json)
        return 0
    if options.model is None:
        parser.error("a model is needed: a registered name (export-model --list), a hub id or a folder")
    try:
        targets = choose_targets(options.variants, options.precision, options.exporter)
    except InputError as error:
        parser.error(str(error))
    _check_triton(parser, options, graph=any(variant == "portable" for variant, _ in targets))
    folder = export_model(
        options.model,
        options.output,
        exporter=options.exporter,
        variants=options.variants,
        precisions=options.precision,
        max_length=options.max_length,
        revision=options.revision,
        local_files_only=options.offline,
        force=options.force,
        tensorrt=options.tensorrt,
        report=terminal_report(),
    )
    manifest = read_manifest(folder)
    written = _write_triton(options, folder)
    if options.json:
        print_json({"folder": folder, **asdict(manifest)})
    else:
        print(f"{printable_line(f'{manifest.source.name} -> {folder}')}\n{format_parity_table(manifest)}")
    for model in written:
        print(printable_line(f"triton: {model}"))
    return 0


def _check_triton(parser: Parser, options: Namespace, *, graph: bool) -> None:
    """Refuse before the export, which may take minutes, what would be refused behind it."""
    if options.triton is not None:
        check_triton(*_triton_model(options), graph=graph)
        return
    given = [name for name in ("name", "instances", "threads", "gpu") if vars(options)[f"triton_{name}"]]
    if given:
        parser.error(f"--triton-{given[0]} needs --triton, the repository's folder")


def _triton_model(options: Namespace) -> tuple[Path, str]:
    """The repository and the model's name there."""
    name = Path(os.path.abspath(options.model)).name if options.triton_name is None else options.triton_name
    return folder_path("--triton", options.triton), name


def _write_triton(options: Namespace, folder: Path) -> list[Path]:
    if options.triton is None:
        return []
    return write_triton(
        folder,
        *_triton_model(options),
        gpu=options.triton_gpu,
        tensorrt=options.tensorrt,
        instances=options.triton_instances or 1,
        threads=options.triton_threads,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``export-model``; returns 0, 1 for a failure, 2 for wrong usage."""
    return run_command(_main, arguments)
