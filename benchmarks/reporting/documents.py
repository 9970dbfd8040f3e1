"""The parts of the documents that the report writes: README's table, the performance page's, and the goals."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

from benchmarks.engines.registry import ENGINES
from benchmarks.inputs.workloads import LONG
from crossrank import InputError

from .goals import GOALS, TARGETS, goals_table, is_expert, is_ours, is_peer, service_goals
from .gpu import gpu_section
from .result import AFTER_PAUSE, Result, Results
from .tables import markdown_table

START, END = "<!-- benchmarks: start -->", "<!-- benchmarks: end -->"
_MAIN_MODELS = ("tinybert-l2", "minilm-l12", "bert-base")
_DOCUMENTS = 100  # per call, in the tables
_SMALL, _TRAINED = "tinybert-l2", "minilm-l12"
_BASELINE = ENGINES["st-torch-fp32"].name
_OURS = ("crossrank-fp32", "crossrank-int8", "crossrank-int8-kernels")
# README's rows: the forms of the library that most people run.
_USUAL = ("st-torch-fp32", "st-torch-bf16", "st-onnx-qint8", "st-openvino")
_SPEEDS = f"docs/s, in brackets the ratio to {_BASELINE}, and the CPU time of a document"
_EXPERTLY = (
    "set up as an expert would: batches of like length on a stream for each core, int8 by NNCF with calibration "
    "([what they do](benchmarks/engines/adapters))"
)
_PLANNED_PAIRS, _PLANNED_CORES, _KEPT = 6_980_000, 32, 0.9
_PART = ["model", "documents", "rounds x calls of a turn", "peers", "not measured"]
_NO_GPU = "**None of this has run on a GPU yet**, so there is no figure here."

Column = tuple[str, Result, str, str]  # heading, result, path of the figure, its format


def write_report(results: Results, root: Path, *, gpu: Path) -> list[str]:
    """Write the parts of README, of two pages and of the benchmarks' README; all or none.

    Args:
        results: Of the suite.
        root: Of the checkout.
        gpu: The folder of a GPU's results, which may be absent.

    Returns:
        The four parts.

    Raises:
        InputError: If there is no throughput of a main model, or no place for a part in the checkout.
    """
    speeds = _main_results(results)
    if not speeds:
        wanted = ", ".join(f"throughput-{model}-{_DOCUMENTS}.json" for model in _MAIN_MODELS)
        raise InputError(f"no result to report: one of {wanted} is needed; run `python -m benchmarks suite`")
    parts = {
        root / "README.md": readme_section(results),
        root / "docs" / "performance.md": performance_section(results),
        root / "docs" / "gpu.md": gpu_section(gpu) or _NO_GPU,
        root / "benchmarks" / "README.md": benchmarks_section(results),
    }
    texts = {path: replace_part(path, part) for path, part in parts.items()}
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(parts.values())


def replace_part(path: Path, part: str) -> str:
    """A file's text with another part between its markers.

    Raises:
        InputError: If it has not one start marker and one end marker after it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in rest or END in before + after:
        raise InputError(f"{path}: one line {START} and after it one line {END} are needed; the report goes in between")
    return f"{before}{START}\n{part}\n{END}{after}"


def readme_section(results: Results) -> str:
    """README's part: the main models' speeds, ours beside experts' peers, and beside the usual ways to run them."""
    speeds = _main_results(results)
    usual = [*_measured(speeds, _OURS), *_measured(speeds, _USUAL)]
    parts = [
        *_expert_parts(speeds, [], _EXPERTLY),
        f"Beside what most people run, packages with their defaults; {_SPEEDS}:",
        _speed_table(speeds, [], usual),
        f"Calls of {_DOCUMENTS} documents, texts in and scores out. {_provenance(speeds)}",
    ]
    return "\n\n".join(parts)


def _measured(speeds: Sequence[Result], keys: Iterable[str]) -> list[str]:
    """The names of those engines that some result has."""
    names = [ENGINES[key].name for key in keys]
    return [name for name in names if any(name in result.engines for result in speeds)]


def _expert_parts(speeds: Sequence[Result], columns: Sequence[Column], what: str) -> list[str]:
    """Our lead over the best expert peer and the table of all of them; nothing where none was measured."""
    experts = _measured(speeds, (key for key, spec in ENGINES.items() if spec.expert))
    if not experts:
        return []
    leads = [lead for precision in ("int8", "fp32") for result in speeds for lead in _leads(result, precision)]
    table = _speed_table(speeds, columns, [*_measured(speeds, _OURS), *experts])
    lead = f"Our lead over the fastest peer that an expert sets up, of the same run. {'; '.join(leads)}."
    return [lead, f"Beside peers {what}; {_SPEEDS}:", table]


def _leads(result: Result, precision: str) -> Iterator[str]:
    """How many times the best expert peer's docs/s the best of ours has: in fp32, or with any reduced precision."""
    fits = [name for name, kind in result.kinds.items() if (kind == "exact") == (precision == "fp32")]
    our = result.best([name for name in fits if is_ours(name) and "encoded" not in name], "ratio.median")
    their = result.best([name for name in fits if is_expert(name)], "ratio.median")
    if our and their:
        lead = result.engines[our]["ratio.median"] / result.engines[their]["ratio.median"]
        how = our.removeprefix("crossrank ")
        yield f"{result.model_name} {how}: **{lead:.2f} times** {their.removeprefix('expert ')}"


def performance_section(results: Results) -> str:
    """The performance page's part: every engine's speed with what it costs, and what the figures are."""
    speeds = _main_results(results)
    trained, small = results.find("throughput", _TRAINED, _DOCUMENTS), results.find("latency", _SMALL, 10)
    memory, startup = results.find("memory", _TRAINED), results.find("startup", _SMALL)
    columns: list[Column] = []  # what was not measured has none
    legend = []
    if trained:
        columns += [("tau", trained, "kendall_tau", ".4f"), ("nDCG@10", trained, "quality.ndcg_at_10", ".4f")]
        data = f"{trained.model_name}, {trained.calls} calls on {trained.data}"
        legend.append(f"tau (rank agreement with the scores of {_BASELINE}) and nDCG@10: {data}")
    if small:
        columns += [("p50 ms", small, "p50_ms", ".1f"), ("after a pause", small, AFTER_PAUSE, ".1f")]
        legend.append(f"p50 ms: calls of 10 documents, one after the other and after a pause, {small.model_name}")
    if memory:
        columns.append(("peak MB", memory, "peak_rss_mb", ",.0f"))
        legend.append(f"peak MB: the process's memory, {memory.model_name}")
    if startup:
        columns.append(("start s", startup, "total_s.median", ".2f"))
        legend.append(f"start s: interpreter, import, load and first scores, {startup.model_name}")
    drawn = [result.model_name for result in speeds if result.weights != "published"]
    if drawn:
        legend.append(f"{' and '.join(drawn)} in true size with random weights, whose quality means nothing")
    packaged = [name for name in _engines(speeds) if not is_expert(name)]
    parts = [
        f"Calls of {_DOCUMENTS} documents, texts in and scores out; encoded documents come as tokens.",
        *_expert_parts(speeds, columns, _EXPERTLY.replace("](benchmarks", "](../benchmarks")),
        "What the library is meant to reach, in brackets what would be better still:",
        markdown_table(goals_table([goal.check(results) for goal in TARGETS])),
        f"Beside packages with their defaults; {_SPEEDS}:",
        _speed_table(speeds, columns, packaged),
        "; ".join(legend) + "." if legend else "",
        _provenance([*speeds, *(result for _, result, _, _ in columns)]),
        _absent(speeds),
        "What [6.98 million pairs](#seven-million-pairs) take by these documents per second:",
        markdown_table(_plan(speeds)),
    ]
    return "\n\n".join(part for part in parts if part)


def _plan(speeds: Sequence[Result]) -> list[list[str]]:
    """What MS MARCO takes by ours, where other cores are like those measured and workers keep their share of them."""
    rows = [["", "docs/s", "core hours", f"on {_PLANNED_CORES} cores"]]
    for result, name in product(speeds, _measured(speeds, _OURS)):
        if docs_per_s := result.figure(name, "docs_per_s.median"):
            hours = _PLANNED_PAIRS / docs_per_s * result.threads / 3600
            minutes = 60 * hours / (_PLANNED_CORES * _KEPT)
            time = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
            what = f"{result.model_name} {name.removeprefix('crossrank ')}"
            rows.append([what, f"{docs_per_s:,.0f}", f"{hours:.1f}", time])
    return rows


def benchmarks_section(results: Results) -> str:
    """The benchmarks' README's part: goals, then every throughput and latency."""
    goals = markdown_table(goals_table([goal.check(results) for goal in GOALS]))
    parts = ["## Goals", f"{goals}\n\nIn brackets: what would be better still."]
    if load := service_goals(results):
        words = (
            "Of [many callers](#many-callers), medians over rounds; where a goal lies between min and max, another run "
        )
        parts += [f"{words}may say otherwise:", markdown_table(goals_table(load))]
    for benchmark, note, path, show in (
        ("throughput", _SPEEDS, "docs_per_s.median", _speed),
        ("latency", "p50 / p95 / p99 in ms of calls one after the other, and p50 after a pause", "p50_ms", _latency),
    ):
        if found := [result for result in results if result.benchmark == benchmark]:
            table = markdown_table(_compared(found, path, show, lowest=benchmark == "latency"))
            parts += [f"## Every {benchmark}", f"{note}, of ours and of the fastest peers:", table]
            parts += ["Who took part, beside ours:", markdown_table([_PART, *map(_part, found)])]
    if results.left_out:
        parts.append(f"Left out, since each of their short calls came after a pause: {', '.join(results.left_out)}.")
    return "\n\n".join([*parts, _provenance(list(results))])


def _main_results(results: Results) -> list[Result]:
    """The throughput of the main models, as far as it was measured."""
    found = (results.find("throughput", model, _DOCUMENTS) for model in _MAIN_MODELS)
    return [result for result in found if result]


def _engines(results: Iterable[Result]) -> list[str]:
    """The engines of some results that the registry has: ours first."""
    found = {engine for result in results for engine in result.engines}
    known = [spec.name for spec in ENGINES.values() if spec.name in found]
    return sorted(known, key=lambda engine: not is_ours(engine))


def _ratio(result: Result, engine: str) -> float | None:
    """An engine's documents per second over the baseline's, in turns with it; None where either is not there."""
    ours, theirs = result.figure(engine, "ratio.median"), result.figure(_BASELINE, "ratio.median")
    return ours / theirs if ours is not None and theirs is not None else None


def _speed_table(speeds: Sequence[Result], columns: Sequence[Column], engines: Iterable[str]) -> str:
    """A row for each engine that was measured: docs/s of each model, then other figures."""
    rows = [["engine", *(f"{result.model_name} docs/s" for result in speeds), *(heading for heading, *_ in columns)]]
    for engine in engines:
        if not any(engine in result.engines for result in speeds):
            continue
        cells = [f"**{engine}**" if is_ours(engine) else engine, *(_speed(result, engine) for result in speeds)]
        for _, result, path, form in columns:
            value = result.figure(engine, path)
            cells.append("" if value is None else f"{value:{form}}")
        rows.append(cells)
    return markdown_table(rows)


def _provenance(used: Sequence[Result]) -> str:
    """Machines, threads, commits and dates of some results; several of each where they differ."""
    machines = dict.fromkeys(f"{result.machine}, {result.threads} threads" for result in used)
    commits = ", ".join(sorted({result.commit for result in used}))
    dates = sorted({result.date for result in used})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    busy = _range("cores that others took before", (result.busy for result in used))
    load = _range("load average before, where others' cores were not counted,", (result.load for result in used))
    return f"{'; '.join([*machines, *busy, *load])}; engines in turns, medians; commit {commits}, {when}."


def _range(name: str, values: Iterable[float | None]) -> list[str]:
    """A phrase with the least and the largest of some values; none of none."""
    known = [value for value in values if value is not None]
    return [f"{name} {min(known):g} to {max(known):g}"] if known else []


def _absent(speeds: Sequence[Result]) -> str:
    """The engines that could not run anywhere, with their reasons."""
    measured = {engine for result in speeds for engine in result.engines}
    reasons = {engine: why for result in speeds for engine, why in result.unavailable.items() if engine not in measured}
    return "Not measured: " + "; ".join(f"{name} ({why})" for name, why in reasons.items()) + "." if reasons else ""


def _compared(
    results: Iterable[Result], path: str, show: Callable[[Result, str], str], *, lowest: bool
) -> list[list[str]]:
    """A row for each result: ours beside the best exact and the best other peer, of experts' and as packaged."""
    found = list(results)
    ours = _measured(found, _OURS)
    headings = [
        f"fastest {exact} {words}" for words in ("expert peer", "packaged peer") for exact in ("exact", "other")
    ]
    rows = [["model", "documents", *ours, *headings]]
    for result in found:
        peers = []
        for expert, exact in product((True, False), (True, False)):
            kinds = {name: kind for name, kind in result.kinds.items() if is_peer(name)}
            fits = [name for name, kind in kinds.items() if (kind == "exact", is_expert(name)) == (exact, expert)]
            best = result.best(fits, path, lowest=lowest)
            peers.append(f"{best}: {show(result, best)}" if best else "")
        rows.append([*_what(result), *(show(result, name) for name in ours), *peers])
    return rows


def _what(result: Result) -> list[str]:
    model = f"{result.model_name}, 512 tokens each" if result.data == LONG else result.model_name
    return [model, f"{result.size:,}"]


def _part(result: Result) -> list[str]:
    """Of the table of who took part in what."""
    peers = ", ".join(name for name in _engines([result]) if not is_ours(name))
    absent = "; ".join(f"{name}: {why.partition(' (')[0]}" for name, why in result.unavailable.items())
    return [*_what(result), result.turns, peers, absent]


def _speed(result: Result, engine: str) -> str:
    speed, to_baseline = result.figure(engine, "docs_per_s.median"), _ratio(result, engine)
    if speed is None:
        return ""
    value = f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
    value += "" if to_baseline is None else f" ({to_baseline:.2f})"
    cpu_ms = result.figure(engine, "cpu_ms_per_doc.median")
    return value if cpu_ms is None else f"{value} {cpu_ms:.3g} ms"


def _latency(result: Result, engine: str) -> str:
    figures = result.engines.get(engine)
    if not figures:
        return ""
    return " / ".join(f"{figures[f'p{p}_ms']:.1f}" for p in (50, 95, 99)) + f", {figures[AFTER_PAUSE]:.1f}"
