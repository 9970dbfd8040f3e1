"""``crossrank rerank``: a file reranked in bulk, here or by the workers of Ray."""

import argparse
import sys
from collections.abc import Callable

from crossrank._artifact.manifest import PRECISIONS
from crossrank._artifact.origin import EMBEDDED_NAME
from crossrank._errors import InputError
from crossrank._progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("input", metavar="INPUT", help=".parquet, .jsonl, or a TREC run: .trec, .run")
    parser.add_argument("output", metavar="OUTPUT", help="a file of the same kind; a killed job goes on where it was")
    parser.add_argument(
        "-m",
        "--model",
        default=EMBEDDED_NAME,  # a path of this machine's would be no worker's
        help=f"an artifact, checkpoint or ONNX folder, a registered name or a hub id (default: {EMBEDDED_NAME})",
    )
    parser.add_argument("--query", default="query", metavar="COLUMN", help="column or key of queries (default: query)")
    parser.add_argument(
        "--documents",
        default="documents",
        metavar="COLUMN",
        help="column or key of documents: a text, or a list of them (default: documents)",
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="keep the best N of each list, best first")
    parser.add_argument(
        "--along", nargs="+", default=[], metavar="COLUMN", help="list columns that are cut with the documents: ids"
    )
    parser.add_argument("--prefix", default="", metavar="TEXT", help="in front of the names of new columns")
    parser.add_argument("--queries", metavar="FILE", help="of a run the queries: id<tab>text a line, or .jsonl")
    parser.add_argument("--corpus", metavar="FILE", help="of a run the documents, in the same form")
    parser.add_argument("--block-bytes", type=int, metavar="N", help="text of a block (default: 2 MB)")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="score on Ray's workers: local for one started here, auto, HOST:PORT or ray://… (needs crossrank[ray])",
    )
    parser.add_argument("--actors", type=int, metavar="N", help="of Ray, how many (default: all of its cores)")
    parser.add_argument("--cores", type=int, metavar="N", help="of each actor (default: 1)")
    parser.add_argument("--precision", default="auto", choices=["auto", *PRECISIONS], help="the graph's numbers")
    parser.add_argument("--device", help="cpu, cuda, cuda:N, tensorrt or tensorrt:N (default: cpu or cuda)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all this process may use)")
    parser.add_argument("--max-length", type=int, metavar="N", help="most tokens of a pair")
    parser.add_argument("--relevant-label", type=int, metavar="N", help="of several labels the relevant one, from 0")


def run(options: argparse.Namespace) -> None:
    """Rerank, draw progress and print what was done."""
    from crossrank.batch import rerank_file

    run_blocks = None
    if options.ray is not None:
        from crossrank.ray import actors

        cores = 1 if options.cores is None else options.cores
        run_blocks = actors(options.ray, count=options.actors, num_cpus=cores)
    elif options.actors is not None or options.cores is not None:
        raise InputError("--actors and --cores are of Ray's workers: --ray ADDRESS is needed with them")
    more = {} if options.block_bytes is None else {"block_bytes": options.block_bytes}
    summary = rerank_file(
        options.input,
        options.output,
        options.model,
        query=options.query,
        documents=options.documents,
        top_k=options.top_k,
        along=options.along,
        prefix=options.prefix,
        queries=options.queries,
        corpus=options.corpus,
        run=run_blocks,
        report=_reporter(),
        precision=options.precision,
        device=options.device,
        threads=options.threads,
        max_length=options.max_length,
        relevant_label=options.relevant_label,
        **more,
    )
    told = f", {summary.marked:,} marked in their status" if summary.marked else ""
    told += f"; {summary.resumed:,} of {summary.blocks:,} blocks were there already" if summary.resumed else ""
    print(f"{options.output}: {summary.rows:,} rows{told}", file=sys.stderr)


def _reporter() -> Callable[[int, int], None]:
    progress: list[Progress] = []

    def report(rows: int, total: int) -> None:
        if not progress:
            progress.append(Progress(total, "rows"))
        progress[0].advance(rows)

    return report
