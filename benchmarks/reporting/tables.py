"""Results as Markdown: README's table, the performance page's, and the goals for the benchmarks' README."""

from collections.abc import Callable, Iterable, Sequence

from benchmarks.engines.registry import ENGINES

from .goals import GOALS, best_engine, is_ours
from .read_results import Result, Results

MAIN_MODELS = ("tinybert-l2", "minilm-l12", "bert-base")
DOCUMENTS = 100  # per call, in the tables and the plot
_SMALL, _TRAINED = "tinybert-l2", "minilm-l12"
BASELINE = ENGINES["st-torch-fp32"].name
# README's rows: ours, and the forms of the library that most people run.
_USUAL = ("crossrank-fp32", "crossrank-int8", "st-torch-fp32", "st-torch-bf16", "st-onnx-qint8", "st-openvino")


def ratio(result: Result, engine: str) -> float | None:
    """An engine's documents per second over the baseline's, in turns with it; None where either is not there."""
    ours, theirs = result.figure(engine, "ratio.median"), result.figure(BASELINE, "ratio.median")
    return ours / theirs if ours is not None and theirs is not None else None


def ordered_engines(results: Iterable[Result]) -> list[str]:
    """The engines of some results: ours first, each part as `ENGINES` has them, then others."""
    found = {engine for result in results for engine in result.engines}
    known = [spec.name for spec in ENGINES.values() if spec.name in found]
    return sorted([*known, *sorted(found.difference(known))], key=lambda engine: not is_ours(engine))


def main_results(results: Results) -> list[Result]:
    """The throughput of the main models, as far as it was measured."""
    found = (results.find("throughput", model, DOCUMENTS) for model in MAIN_MODELS)
    return [result for result in found if result]


def readme_section(results: Results) -> str:
    """README's part: the main models' speeds, ours beside the usual ways to run them.

    Args:
        results: With the throughput of one main model at least.
    """
    speeds = main_results(results)
    parts = [
        f"Documents per second of calls of {DOCUMENTS} documents, texts in and scores out, in brackets the ratio to "
        f"{BASELINE}:",
        _speed_table(speeds, [], [ENGINES[key].name for key in _USUAL]),
        _provenance(speeds),
    ]
    return "\n\n".join(parts)


def performance_section(results: Results, plot: str) -> str:
    """The performance page's part: plot, every engine's speed with what it costs, and what the figures are.

    Args:
        results: With the throughput of one main model at least.
        plot: The plot's path, from that page.
    """
    speeds = main_results(results)
    # (heading, result, path of the figure, its format); what was not measured has no column.
    others = [
        ("tau", results.find("throughput", _TRAINED, DOCUMENTS), "kendall_tau", "{:.4f}"),
        ("nDCG@10", results.find("throughput", _TRAINED, DOCUMENTS), "quality.ndcg_at_10", "{:.4f}"),
        ("p50 ms", results.find("latency", _SMALL, 10), "p50_ms", "{:.1f}"),
        ("peak MB", results.find("memory", _TRAINED), "peak_rss_mb", "{:,.0f}"),
        ("start s", results.find("startup", _SMALL), "total_s.median", "{:.2f}"),
    ]
    columns = [(heading, result, path, form) for heading, result, path, form in others if result]
    parts = [
        f"![Documents per second of each engine]({plot})",
        f"Documents per second of calls of {DOCUMENTS} documents, texts in and scores out, in brackets the ratio to "
        f"{BASELINE}; encoded documents come as tokens, not as texts:",
        _speed_table(speeds, columns, ordered_engines(speeds)),
        _legend(results),
        _provenance([*speeds, *(result for _, result, _, _ in columns)]),
        _absent(speeds),
    ]
    return "\n\n".join(part for part in parts if part)


def benchmarks_section(results: Results) -> str:
    """The benchmarks' README's part: goals, then every throughput and latency."""
    parts = ["## Goals", goals_table(results)]
    speeds = [result for result in results if result.benchmark == "throughput"]
    if speeds:
        note = f"docs/s, and in brackets the ratio to {BASELINE}, of ours and of the fastest peers:"
        parts += ["## Every throughput", note, _table(_compared(speeds, "docs_per_s.median", _speed))]
    latencies = [result for result in results if result.benchmark == "latency"]
    if latencies:
        note = "p50 / p95 / p99 in ms of one call, of ours and of the fastest peers:"
        parts += ["## Every latency", note, _table(_compared(latencies, "p50_ms", _latency, lowest=True))]
    return "\n\n".join([*parts, _provenance(list(results))])


def goals_table(results: Results) -> str:
    """What is meant to be reached, and what was."""
    rows = [["", "wanted", "reached", "", "of"]]
    for goal in GOALS:
        reached, state = goal.state(results)
        sign = "≤" if goal.at_most else "≥"
        wanted = f"{sign} {goal.wanted:.3g}" + (f" ({goal.stretch:.3g})" if goal.stretch else "")
        figure, of = (f"{reached.value:.2f}", reached.of) if reached else ("", "")
        rows.append([goal.claim, wanted, figure, state, of])
    return _table(rows) + "\n\nIn brackets: what would be better still."


def _speed_table(
    speeds: Sequence[Result], columns: Sequence[tuple[str, Result, str, str]], engines: Iterable[str]
) -> str:
    """A row for each engine that was measured: docs/s of each model, then other figures."""
    rows = [["engine", *(f"{result.model_name} docs/s" for result in speeds), *(heading for heading, *_ in columns)]]
    for engine in engines:
        if not any(engine in result.engines for result in speeds):
            continue
        cells = [f"**{engine}**" if is_ours(engine) else engine]
        cells += [_speed(result, engine) for result in speeds]
        cells += [_number(result.figure(engine, path), form) for _, result, path, form in columns]
        rows.append(cells)
    return _table(rows)


def _legend(results: Results) -> str:
    """What the columns beside the speeds are."""
    trained, small = results.find("throughput", _TRAINED, DOCUMENTS), results.find("latency", _SMALL, 10)
    memory, startup = results.find("memory", _TRAINED), results.find("startup", _SMALL)
    parts = []
    if trained:
        data = f"{trained.model_name}, {trained.calls} calls on {trained.data}"
        parts.append(f"tau (rank agreement with the scores of {BASELINE}) and nDCG@10: {data}")
    if small:
        parts.append(f"p50 ms: a call of 10 documents, {small.model_name}")
    if memory:
        parts.append(f"peak MB: the process's memory, {memory.model_name}")
    if startup:
        parts.append(f"start s: interpreter, import, load and first scores, {startup.model_name}")
    drawn = [result.model_name for result in main_results(results) if result.weights != "published"]
    if drawn:
        parts.append(f"{' and '.join(drawn)} in true size with random weights, whose quality means nothing")
    return "; ".join(parts) + "." if parts else ""


def _provenance(used: Sequence[Result]) -> str:
    """Machines, threads, commits and dates of some results; several of each where they differ."""
    machines = dict.fromkeys(f"{result.machine}, {result.threads} threads" for result in used)
    commits = ", ".join(sorted({result.commit for result in used}))
    dates = sorted({result.date for result in used})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{'; '.join(machines)}; engines in turns, medians; commit {commits}, {when}."


def _absent(speeds: Iterable[Result]) -> str:
    """The engines that could not run anywhere, with their reasons."""
    seen = list(speeds)
    measured = {engine for result in seen for engine in result.engines}
    reasons = {engine: why for result in seen for engine, why in result.unavailable.items() if engine not in measured}
    return "Not measured: " + "; ".join(f"{name} ({why})" for name, why in reasons.items()) + "." if reasons else ""


def _compared(
    results: Iterable[Result], path: str, show: Callable[[Result, str], str], *, lowest: bool = False
) -> list[list[str]]:
    """A row for each result: ours beside the best exact and the best other peer."""
    ours = [ENGINES[key].name for key in ("crossrank-fp32", "crossrank-int8")]
    rows = [["model", "documents", *ours, "fastest exact peer", "fastest other peer"]]
    for result in results:
        peers = []
        for exact in (True, False):
            candidates = [
                name for name, kind in result.kinds.items() if (kind == "exact") == exact and not is_ours(name)
            ]
            best = best_engine(result, candidates, path, lowest=lowest)
            peers.append(f"{best}: {show(result, best)}" if best else "")
        rows.append([result.model_name, f"{result.size:,}", *(show(result, name) for name in ours), *peers])
    return rows


def _speed(result: Result, engine: str) -> str:
    speed, to_baseline = result.figure(engine, "docs_per_s.median"), ratio(result, engine)
    if speed is None:
        return ""
    shown = f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
    return shown if to_baseline is None else f"{shown} ({to_baseline:.2f})"


def _latency(result: Result, engine: str) -> str:
    figures = result.engines.get(engine)
    return " / ".join(f"{figures[f'p{p}_ms']:.1f}" for p in (50, 95, 99)) if figures else ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _table(rows: Sequence[Sequence[str]]) -> str:
    r"""Rows as a Markdown table; the first are the headings.

    >>> print(_table([["engine", "docs/s"], ["a | b", "7"]]))
    | engine | docs/s |
    |---|---|
    | a \| b | 7 |
    """
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
