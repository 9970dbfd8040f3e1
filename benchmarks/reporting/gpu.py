"""The results of a GPU run: figures looked up in its parts, goals, and tables on the terminal and in Markdown."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure.gpu.contenders import (
    BASELINES,
    FORMS,
    FUSED,
    GRAPHS,
    KERNELS,
    OURS,
    PACKED,
    PADDED,
    PEERS,
    ST_BF16,
    VARLEN,
    Form,
)
from benchmarks.measure.gpu.models import MODELS
from crossrank import InputError

from .goals import Goal, goals_table
from .result import look_up
from .tables import format_table, markdown_table, number, shown

Parts = Mapping[str, Mapping[str, Any]]
Sections = Mapping[str, Mapping[str, Any]]  # part -> its sections
Rows = list[Sequence[str]]

_WORKS = ("throughput", "throughput-128", "throughput-512")
_PEER_COLUMNS = {"st fp16": BASELINES, "st bf16": (ST_BF16,), "varlen": (VARLEN,), "fused": (FUSED,)}
_SHORT = {name: column for column, names in _PEER_COLUMNS.items() for name in names}


def read_part(file: Path) -> dict[str, Any] | None:
    """A part's result, complete or not; None if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("benchmark") == "gpu" else None


# Figures


def ours(sections: Sections, key: str) -> str:
    """Who stands for crossrank: with CUDA graphs, as it runs by itself, and without where none could be captured."""
    return GRAPHS if look_up(sections, f"model-{key}", "contenders", GRAPHS) is not None else PACKED


def fastest(
    sections: Sections, key: str, form: Form, names: Sequence[str], work: str = "throughput"
) -> tuple[float, str] | None:
    """The most documents per second of some contenders, and whose.

    One that gave logits that are no numbers does not count.
    """
    table = look_up(sections, f"model-{key}", work, form, "contenders")
    figures = {name: look_up(table, name) for name in names}
    kept = [(f["docs_per_s"]["median"], name) for name, f in figures.items() if f is not None and not f["not_finite"]]
    return max(kept, default=None)


def speed(
    sections: Sections, key: str, form: Form, names: Sequence[str] | None = None, work: str = "throughput"
) -> float | None:
    """The most documents per second of some contenders, by default ours."""
    found = fastest(sections, key, form, names or [ours(sections, key)], work)
    return found and found[0]


def ratio(
    sections: Sections, key: str, form: Form = "texts", names: Sequence[str] = BASELINES, work: str = "throughput"
) -> float | None:
    """Ours over the fastest of some, by default sentence-transformers in float16, in the same turns."""
    found, theirs = speed(sections, key, form, work=work), speed(sections, key, form, names, work)
    return round(found / theirs, 2) if found and theirs else None


def latency(
    sections: Sections, key: str, documents: int, form: Form, names: Sequence[str] | None = None
) -> tuple[float, float] | None:
    """p50 and p99 in ms of whom of some, by default ours, has the lowest p50."""
    table = look_up(sections, f"model-{key}", "latency", str(documents), "contenders")
    figures = [look_up(table, f"{name}: {form}") for name in names or [ours(sections, key)]]
    return min(((f["p50_ms"], f["p99_ms"]) for f in figures if f is not None and not f["not_finite"]), default=None)


def share_of_peak(sections: Sections, key: str, work: str = "throughput") -> float | None:
    """Our operations per second over the machine's own large products in float16."""
    peak = look_up(sections, "facts", "matmul", "tflops")
    operations = look_up(sections, f"model-{key}", work, "operations_per_pair")
    found = speed(sections, key, FORMS[0], work=work)
    return round(found * operations / (peak * 1e12), 4) if peak and operations and found else None


def quality_loss(sections: Sections) -> float | None:
    """What nDCG@10 of float16 lacks; of trained weights alone, and of outputs that are all numbers."""
    agreement = look_up(sections, "quality", "agreement")
    if agreement is None or not agreement["trained"] or agreement["not_finite"]:
        return None
    loss: float = agreement["ndcg_at_10_loss"]
    return loss


def worst_error(sections: Sections, key: str) -> tuple[float, float, int] | None:
    """Of our packed forms against float32: largest |Δlogit|, lowest tau, logits that are no numbers."""
    table = look_up(sections, f"model-{key}", "correctness") or {}
    forms = [look_up(table, f"{name}: {form}") for name in OURS for form in FORMS]
    rows = [row for row in forms if row is not None and "max_abs" in row]
    if not rows:
        return None
    return (
        max(row["max_abs"] for row in rows),
        min(row["kendall_tau"] for row in rows),
        max(row["nan_count"] for row in rows),
    )


# Goals

_LEAST_RATIO = {"small": 3.0, "base": 2.0, "large": 2.0}
_FAST: tuple[tuple[str, Form, float], ...] = (
    ("minilm-l6", "encoded", 80_000),
    ("minilm-l6", "texts", 40_000),
    ("tinybert-l2", "encoded", 300_000),
    ("tinybert-l2", "texts", 60_000),
    ("bert-base", "encoded", 15_000),
    ("electra-base", "encoded", 15_000),
    ("bert-large", "encoded", 4_500),
)


def _p50(sections: Sections) -> float | None:
    found = latency(sections, "minilm-l6", 100, "encoded")
    return found and found[0]


def _gpu_goals() -> Iterator[Goal[Sections]]:
    for key, shape in MODELS.items():
        claim = f"{shape.name}, texts, docs/s to sentence-transformers fp16"
        yield Goal(claim, _LEAST_RATIO[shape.size], partial(ratio, key=key))
    for key, form, wanted in _FAST:
        what = "encoded documents" if form == "encoded" else form
        yield Goal(f"{MODELS[key].name}, {what}, docs/s", wanted, partial(speed, key=key, form=form))
    yield Goal("MiniLM-L6, encoded documents, p50 of 100 in ms", 4, _p50, at_most=True)
    yield Goal("MiniLM-L12, TREC DL 2019, nDCG@10 lost by fp16", 0.001, quality_loss, at_most=True)


GPU_GOALS = tuple(_gpu_goals())


# Tables


def _model_rows(sections: Sections) -> Rows:
    """Ours by what a call begins with, beside sentence-transformers and the best peer: a row for each model."""
    rows: Rows = [
        (
            *("docs/s", "joined", "encoded", "texts", "st bf16", "st fp16", "ratio", "best peer", "ratio"),
            *("of peak", "at 128", "at 512", "max |Δ|", "tau", "no numbers"),
        )
    ]
    for key in _measured(sections):
        error = worst_error(sections, key)
        speeds = [speed(sections, key, form) for form in FORMS]
        speeds += [speed(sections, key, "texts", names) for names in ((ST_BF16,), BASELINES)]
        rows.append(
            (
                *(_name(sections, key), *map(number, speeds), number(ratio(sections, key))),
                *(
                    *_best_peer(sections, key, "texts"),
                    *shown((share_of_peak(sections, key, w) for w in _WORKS), ".1%"),
                ),
                *(("-",) * 3 if error is None else (f"{error[0]:.1e}", f"{error[1]:.4f}", str(error[2]))),
            )
        )
    return rows


def _contender_rows(sections: Sections) -> Rows:
    """Everybody: texts, and joined pairs of real lengths and of 128 and 512 tokens; rows for each model."""
    columns = {"no graphs": (PACKED,), "padded": (PADDED,)} | _PEER_COLUMNS
    rows: Rows = [("docs/s", "of", "crossrank", *columns, "best peer", "ratio", "of peak")]
    kinds: list[tuple[str, Form, str]] = [("texts", "texts", _WORKS[0])]
    kinds += [(work.replace("throughput", "joined").replace("-", " "), "model", work) for work in _WORKS]
    for key in _measured(sections):
        for what, form, work in kinds:
            share = None if form == "texts" else share_of_peak(sections, key, work)
            speeds = [speed(sections, key, form, names, work) for names in (None, *columns.values())]
            best = _best_peer(sections, key, form, work)
            rows.append((_name(sections, key), what, *map(number, speeds), *best, *shown([share], ".1%")))
    return rows


def _latency_rows(sections: Sections) -> Rows:
    """Milliseconds of one call, p50 and p99: a row for each model and size of a call."""
    columns: dict[str, tuple[Form, Sequence[str] | None]] = {
        "encoded": ("encoded", None),
        "encoded, no graphs": ("encoded", (PACKED,)),
        "texts": ("texts", None),
        "texts, no graphs": ("texts", (PACKED,)),
        "texts, st fp16": ("texts", BASELINES),
    }
    rows: Rows = [("ms, p50 / p99", "documents", *columns)]
    for key in _measured(sections):
        for size in look_up(sections, f"model-{key}", "latency") or ():
            found = [latency(sections, key, int(size), form, names) for form, names in columns.values()]
            cells = ("-" if pair is None else " / ".join(map(number, pair)) for pair in found)
            rows.append((_name(sections, key), size, *cells))
    return rows


def _kernel_rows(sections: Sections) -> Rows:
    """The attention kernels of each model: how many nodes took which."""
    rows: Rows = [("attention", *KERNELS, "max |Δ| without", "no numbers")]
    for key, found in (sections.get("kernels") or {}).items():
        compared = "max_abs_delta" in found
        delta = (f"{found['max_abs_delta']:.1e}", str(found["not_finite"])) if compared else ("-", "-")
        rows.append((MODELS[key].name, *(_kernels(found.get(column)) for column in KERNELS), *delta))
    return rows


def _kernels(found: Any) -> str:
    """What `read_kernels` gave, without operators and types: they are one; or why there is none."""
    if not isinstance(found, Mapping):
        return "-" if found is None else "failed"
    return ", ".join(f"{kernel} x{count}" for taken in found.values() for kernel, count in taken.items()) or "none"


def _quality_rows(sections: Sections) -> Rows:
    """nDCG@10 of judged queries, float16 on the GPU beside float32 on the CPU, and how near their logits are."""
    found = sections.get("quality") or {}
    rows: Rows = [("TREC DL 2019", "nDCG@10", "max |Δ|", "tau", "no numbers")]
    rows += [(name, f"{row['ndcg_at_10']:.4f}", "", "", "") for name, row in found.items() if "ndcg_at_10" in row]
    if near := found.get("agreement"):
        weights = "published weights" if near["trained"] else "random weights, whose ranking means nothing"
        cells = (f"{near['max_abs_delta']:.1e}", f"{near['kendall_tau']:.4f}", str(near["not_finite"]))
        rows.append((f"both, {weights}", f"{0 - near['ndcg_at_10_loss']:+.4f}", *cells))
    return rows


def _goal_rows(sections: Sections, *, rehearsal: bool = False) -> Rows:
    return [*goals_table([goal.check(sections) for goal in GPU_GOALS], rehearsal=rehearsal)]


def short_tables(folder: Path) -> str:
    """What a run prints last, of the results of a folder."""
    parts = _read_parts(folder)
    rehearsal = any(part["rehearsal"] for part in parts.values())
    sections = {name: part["sections"] for name, part in parts.items()}
    head = "REHEARSAL on a CPU with tiny models: no figure means anything" if rehearsal else _provenance(parts)
    unfinished = [name for name, part in parts.items() if not part["complete"]]
    lines = [head, *([f"not complete: {', '.join(unfinished)}"] if unfinished else [])]
    tables = [make(sections) for make in (_kernel_rows, _quality_rows, _latency_rows, _model_rows)]
    tables.append(_goal_rows(sections, rehearsal=rehearsal))
    return "\n".join([*lines, *(f"\n{format_table(rows)}" for rows in tables if len(rows) > 1)])


def markdown_report(folder: Path) -> str:
    """The tables as Markdown, of the results of a folder.

    Raises:
        InputError: If none was measured, one is a rehearsal's, or they are of several GPUs.
    """
    parts = {name: part for name, part in _read_parts(folder).items() if part["complete"]}
    rehearsed = [name for name, part in parts.items() if part["rehearsal"]]
    if rehearsed:
        raise InputError(f"{folder}: {', '.join(rehearsed)} of a rehearsal, which measures nothing; remove them")
    gpus = {part["identity"]["gpu"] for part in parts.values()}
    if len(gpus) != 1:
        found = f"of {' and '.join(sorted(gpus))}" if gpus else "none"
        raise InputError(f"{folder}: complete results of one GPU are needed, found are {found}; run on a GPU machine")
    sections = {name: part["sections"] for name, part in parts.items()}
    makers = (_goal_rows, _model_rows, _contender_rows, _latency_rows, _quality_rows, _kernel_rows)
    tables = [make(sections) for make in makers]
    return "\n\n".join([*(markdown_table(rows) for rows in tables if len(rows) > 1), f"{_provenance(parts)}."])


def _read_parts(folder: Path) -> Parts:
    found = ((file.stem, read_part(file)) for file in sorted(folder.glob("*.json")))
    return {name: content for name, content in found if content is not None}


def _measured(sections: Sections) -> list[str]:
    return [key for key in MODELS if f"model-{key}" in sections]


def _name(sections: Sections, key: str) -> str:
    """A model's, with what its figures lack."""
    return MODELS[key].name + (", no CUDA graphs" if ours(sections, key) == PACKED else "")


def _best_peer(sections: Sections, key: str, form: Form, work: str = _WORKS[0]) -> tuple[str, str]:
    """The fastest one with its name, and ours over it."""
    best = fastest(sections, key, form, PEERS, work)
    cell = "-" if best is None else f"{number(best[0])} {_SHORT[best[1]]}"
    return cell, number(ratio(sections, key, form, PEERS, work))


def _provenance(parts: Parts) -> str:
    def distinct(*path: str) -> str:
        return " and ".join(sorted({str(look_up(part, *path)) for part in parts.values()}))

    peak = look_up(parts, "facts", "sections", "matmul", "tflops")
    tokens = look_up(parts, "model-minilm-l6", "sections", "throughput", "mean_pair_tokens")
    versions = look_up(parts, "facts", "sections", "versions") or {}
    facts = [
        distinct("identity", "gpu"),
        f"fp16 products {peak} TFLOP/s" if peak else "its peak was not measured",
        f"{tokens} tokens a pair" if tokens else "",
        *(f"{name} {versions[name]}" for name in ("onnxruntime", "torch", "sentence-transformers") if name in versions),
        f"commit {distinct('commit')}, {distinct('date')}",
    ]
    return "; ".join(filter(None, facts))
