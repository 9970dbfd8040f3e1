"""Workers of Ray and Beam's DirectRunner beside one process that has all cores, on the same table of candidates.

Times are whole: those of Ray hold the start of its actors and the loading of their models, on a cluster that runs.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.inputs.workloads import synthetic_calls
from benchmarks.measure.turns import spread
from benchmarks.options import add_load_option, add_options, check_output, open_benchmark_model, positive
from benchmarks.reporting.result import describe_run, look_at_machine, write_result
from benchmarks.reporting.tables import format_table
from crossrank import MissingDependencyError
from crossrank.batch import Reranker

_DOCUMENTS = 100  # of a query
_ROWS = 64  # of a batch, as crossrank.ray has them
_PLAIN, _RAY, _BEAM = "one process", "Ray Data", "Beam, DirectRunner"
_TIMED = "whole tables, texts in and scores out, the start of Ray's actors with their models among it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    model = {"default": "tinybert-l2", "help": "in fp32 (default: %(default)s)"}
    add_options(parser, "model", "threads", "output", "bench", "rounds", model=model, rounds={"default": 3})
    add_load_option(parser)
    parser.add_argument("--pairs", type=positive, default=200_000, metavar="N", help="of a table (default: 200000)")
    parser.add_argument("--beam-pairs", type=int, default=20_000, metavar="N", help="of Beam's, 0 for none")


def run(options: argparse.Namespace) -> None:
    """Score the table by each in turns, print docs/s and write the result."""
    check_output(options)
    try:
        import pyarrow as pa
        import ray
        import ray.data

        from crossrank.ray import rerank
    except ImportError as error:
        raise MissingDependencyError(f"scale needs {error.name}: pip install 'crossrank[ray,beam]'") from error
    machine, _ = look_at_machine(options.threads, allow_load=options.allow_load)
    model = open_benchmark_model(options, options.model)
    calls = synthetic_calls([_DOCUMENTS] * max(1, options.pairs // _DOCUMENTS))
    table = pa.table({"query": [call.query for call in calls], "documents": [list(call.documents) for call in calls]})
    given: dict[str, Any] = {"model": str(model.folder), "precision": "fp32", "device": "cpu"}
    reranker = Reranker(**given, threads=options.threads)
    reranker.load().warm_up()  # it is exported here, not in an actor
    parts = [table.slice(start, _ROWS) for start in range(0, len(table), _ROWS)]

    def plain(rows: list[Any]) -> list[Any]:
        return [reranker(part) for part in rows]

    ray.init(num_cpus=options.threads, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    cluster: dict[str, Any] = {"actors": options.threads, "num_cpus": 1, "batch_size": _ROWS}

    def by_ray(rows: list[Any]) -> list[Any]:
        scored = rerank(ray.data.from_arrow(rows), **given, **cluster)
        return list(scored.iter_batches(batch_size=_ROWS, batch_format="pyarrow"))

    engines: dict[str, tuple[Callable[[list[Any]], list[Any]], list[Any]]] = {
        _PLAIN: (plain, parts),
        _RAY: (by_ray, parts),
    }
    if options.beam_pairs:
        few = parts[: max(1, options.beam_pairs // (_ROWS * _DOCUMENTS))]
        engines |= {f"{_PLAIN}, {_BEAM}'s rows": (plain, few), _BEAM: (_by_beam(given, options.threads), few)}
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    try:
        for _ in range(options.rounds):
            for name, (score, rows) in engines.items():
                start = time.perf_counter()
                out = score(rows)
                seconds = time.perf_counter() - start
                pairs = sum(len(part) for part in rows) * _DOCUMENTS
                assert sum(map(len, out)) == pairs // _DOCUMENTS, "rows were lost or doubled"
                speeds[name].append(pairs / seconds)
    finally:
        ray.shutdown()
    ratios = {_RAY: _ratio(speeds, _RAY, _PLAIN)}
    if options.beam_pairs:
        ratios[_BEAM] = _ratio(speeds, _BEAM, f"{_PLAIN}, {_BEAM}'s rows")
    rows = [("", "docs/s", "least", "most", "of one process")]
    for name, values in speeds.items():
        ratio = f"{ratios[name]:.2f}" if name in ratios else ""
        rows.append((name, f"{statistics.median(values):,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}", ratio))
    print(format_table(rows))
    if options.output:
        versions = {name: metadata.version(name) for name in ("crossrank", "onnxruntime", "pyarrow", "ray")}
        result = describe_run(options, machine, timed=_TIMED) | {
            "threads": options.threads,
            "model": model.describe(),
            "versions": versions,
            "pairs": len(table) * _DOCUMENTS,
            "docs_per_s": {name: asdict(spread(values)) for name, values in speeds.items()},
            "ratios": ratios,
        }
        write_result(options.output, result)


_counted: list[int] = []  # a pipeline pickles what its functions hold, but for what a module has


def _count(rows: int) -> None:
    _counted.append(rows)


def _ratio(speeds: dict[str, list[float]], name: str, base: str) -> float:
    """The median of the rounds' own ratios, since a busy machine slows both of a round."""
    return statistics.median(one / other for one, other in zip(speeds[name], speeds[base], strict=True))


def _by_beam(given: dict[str, Any], threads: int) -> Callable[[list[Any]], list[Any]]:
    import apache_beam as beam
    from apache_beam.ml.inference.base import RunInference

    from crossrank.beam import RerankModelHandler

    def score(rows: list[Any]) -> list[Any]:
        _counted.clear()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "candidates.jsonl")  # beam.Create would pack all of it into the pipeline, with bzip2
            lines = [json.dumps([row["query"], row["documents"]]) for part in rows for row in part.to_pylist()]
            file.write_text("\n".join(lines), "utf-8")
            with beam.Pipeline("DirectRunner") as pipeline:
                elements = pipeline | beam.io.ReadFromText(str(file)) | beam.Map(json.loads)
                results = elements | RunInference(RerankModelHandler(**given, threads=threads))
                results | beam.combiners.Count.Globally() | beam.Map(_count)
        return [range(sum(_counted))]

    return score
