"""The results of a GPU run: figures looked up in its parts, goals, and tables on the terminal and in Markdown."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.inputs.models import title_of
from benchmarks.measure.gpu.contenders import BASELINES, FORMS, FUSED, GRAPHS, OURS, PACKED, Form
from benchmarks.measure.gpu.models import GPU_MODELS, size_of
from crossrank import InputError

from .goals import Goal, goals_table
from .result import look_up
from .tables import format_table, markdown_table, number, shown

Parts = Mapping[str, Mapping[str, Any]]
Sections = Mapping[str, Mapping[str, Any]]  # part -> its sections
Rows = list[Sequence[str]]

# How the parts are called, or begin: of a model, of a model in few calls, and of all models' logits.
MODEL, QUICK, PARITY = "model-", "quick-", "parity"


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
    return GRAPHS if look_up(sections, f"{MODEL}{key}", "contenders", GRAPHS) is not None else PACKED


def speed(sections: Sections, key: str, form: Form, names: Sequence[str] | None = None) -> float | None:
    """The most documents per second of some contenders, by default ours.

    One that gave logits that are no numbers does not count.
    """
    table = look_up(sections, f"{MODEL}{key}", "throughput", form, "contenders")
    figures = [look_up(table, name) for name in names or [ours(sections, key)]]
    return max((it["docs_per_s"]["median"] for it in figures if it is not None and not it["not_finite"]), default=None)


def ratio(sections: Sections, key: str, form: Form = "texts", names: Sequence[str] = BASELINES) -> float | None:
    """Ours over the fastest of some, by default sentence-transformers in float16, in the same turns."""
    found, theirs = speed(sections, key, form), speed(sections, key, form, names)
    return round(found / theirs, 2) if found and theirs else None


def latency(
    sections: Sections, key: str, documents: int, form: Form, names: Sequence[str] | None = None
) -> tuple[float, float] | None:
    """p50 and p99 in ms of whom of some, by default ours, has the lowest p50."""
    table = look_up(sections, f"{MODEL}{key}", "latency", str(documents), "contenders")
    figures = [look_up(table, f"{name}: {form}") for name in names or [ours(sections, key)]]
    return min(
        ((it["p50_ms"], it["p99_ms"]) for it in figures if it is not None and not it["not_finite"]), default=None
    )


def share_of_peak(sections: Sections, key: str) -> float | None:
    """Our operations per second over the machine's own large products in float16."""
    peak = look_up(sections, "facts", "matmul", "tflops")
    operations = look_up(sections, f"{MODEL}{key}", "throughput", "operations_per_pair")
    found = speed(sections, key, FORMS[0])
    return round(found * operations / (peak * 1e12), 4) if peak and operations and found else None


def _in_bounds(sections: Sections) -> float | None:
    found = sections.get(PARITY)
    return None if found is None else sum(not row["problems"] for row in found.values())


# Goals: of an H100 or H200.

_LEAST_RATIO = {"small": 5.0, "base": 2.5, "large": 2.5}
_FAST: tuple[tuple[str, Form, float], ...] = (
    ("minilm-l6", "encoded", 100_000),
    ("minilm-l6", "texts", 50_000),
    ("tinybert-l2", "encoded", 300_000),
    ("tinybert-l2", "texts", 60_000),
    ("bert-base", "encoded", 18_000),
    ("electra-base", "encoded", 18_000),
    ("bert-large", "encoded", 5_500),
)


def _p50(sections: Sections) -> float | None:
    found = latency(sections, "minilm-l6", 100, "encoded")
    return found and found[0]


def _gpu_goals() -> Iterator[Goal[Sections]]:
    yield Goal("models whose fp16 is within its bounds of fp32", len(GPU_MODELS), _in_bounds)
    for key in GPU_MODELS:
        claim = f"{title_of(key)}, texts, docs/s to sentence-transformers fp16"
        yield Goal(claim, _LEAST_RATIO[size_of(key)], partial(ratio, key=key))
    for key, form, wanted in _FAST:
        what = "encoded documents" if form == "encoded" else form
        yield Goal(f"{title_of(key)}, {what}, docs/s", wanted, partial(speed, key=key, form=form))
    yield Goal("MiniLM-L6, encoded documents, p50 of 100 in ms", 3, _p50, at_most=True)


GPU_GOALS = tuple(_gpu_goals())


# Tables


def _model_rows(sections: Sections) -> Rows:
    """Ours by what a call begins with, beside peers: texts of one, joined pairs of the other. A row for each model."""
    ours_and_share = ("joined", "encoded", "texts", "no graphs", "of peak")
    rows: Rows = [("docs/s", *ours_and_share, "st fp16, texts", "ratio", "ort fused, joined", "ratio")]
    for key in _measured(sections):
        figures = [speed(sections, key, form) for form in FORMS] + [speed(sections, key, "texts", (PACKED,))]
        share = shown([share_of_peak(sections, key)], ".1%")
        peers: list[float | None] = []
        beside: tuple[tuple[Form, Sequence[str]], ...] = (("texts", BASELINES), ("model", (FUSED,)))
        for form, names in beside:
            peers += [speed(sections, key, form, names), ratio(sections, key, form, names)]
        rows.append((_name(sections, key), *map(number, figures), *share, *map(number, peers)))
    return rows


def _latency_rows(sections: Sections) -> Rows:
    """Milliseconds of one call, p50 and p99: a row for each model and size of a call."""
    columns: dict[str, tuple[Form, Sequence[str] | None]] = {
        "encoded": ("encoded", None),
        "encoded, no graphs": ("encoded", (PACKED,)),
        "texts": ("texts", None),
        "texts, st fp16": ("texts", BASELINES),
    }
    rows: Rows = [("ms, p50 / p99", "documents", *columns)]
    for key in _measured(sections):
        for size in look_up(sections, f"{MODEL}{key}", "latency") or ():
            found = [latency(sections, key, int(size), form, names) for form, names in columns.values()]
            cells = ("-" if pair is None else " / ".join(map(number, pair)) for pair in found)
            rows.append((_name(sections, key), size, *cells))
    return rows


def _parity_rows(sections: Sections) -> Rows:
    """Our logits beside float32, the worst of all forms, and what computes attention: a row for each model."""
    rows: Rows = [("fp16 to fp32", "max |Δ|", "tau", "no numbers", "captured - plain", "attention", "fused peer's", "")]
    for key, found in (sections.get(PARITY) or {}).items():
        forms = [row for name, row in found["rows"].items() if name.startswith(OURS)]
        if not forms:
            rows.append((title_of(key), *"------", "failed"))
            continue
        kernels = [
            ", ".join(
                f"{kernel} x{count}"
                for name, taken in found["kernels"].items()
                if name.startswith(operator)
                for kernel, count in taken.items()
            )
            or "-"
            for operator in ("PackedMultiHeadAttention", "Attention")
        ]
        worst = max(row["max_abs"] for row in forms), min(row["kendall_tau"] for row in forms)
        nans = max(row["nan_count"] for row in forms)
        figures = (f"{worst[0]:.1e}", f"{worst[1]:.4f}", str(nans), *shown([found["captured_to_plain"]], ".1e"))
        rows.append((title_of(key), *figures, *kernels, "out of bounds" if found["problems"] else "within bounds"))
    return rows


def _tables(sections: Sections, *, rehearsal: bool = False) -> list[Rows]:
    goals: Rows = [*goals_table([goal.check(sections) for goal in GPU_GOALS], rehearsal=rehearsal)]
    makers = (_parity_rows, _latency_rows, _model_rows)
    return [*(rows for make in makers if len(rows := make(sections)) > 1), goals]


def short_tables(folder: Path) -> str:
    """What a run prints last, of the results of a folder, complete or not."""
    parts = _read_parts(folder)
    rehearsal = any(part["rehearsal"] for part in parts.values())
    head = "REHEARSAL on a CPU with tiny models: no figure means anything" if rehearsal else _provenance(parts)
    unfinished = [name for name, part in parts.items() if not part["complete"]]
    lines = [head, *([f"not complete: {', '.join(unfinished)}"] if unfinished else [])]
    tables = _tables(_sections(parts), rehearsal=rehearsal)
    return "\n".join([*lines, *(f"\n{format_table(rows)}" for rows in tables)])


def gpu_section(folder: Path) -> str:
    """The GPU page's part: the tables as Markdown, of the complete results of a folder; empty where there are none.

    Raises:
        InputError: If one is a rehearsal's, or they are of several GPUs.
    """
    parts = {name: part for name, part in _read_parts(folder).items() if part["complete"]}
    if not parts:
        return ""
    rehearsed = [name for name, part in parts.items() if part["rehearsal"]]
    if rehearsed:
        raise InputError(f"{folder}: {', '.join(rehearsed)} of a rehearsal, which measures nothing; remove them")
    gpus = {part["identity"]["gpu"] for part in parts.values()}
    if len(gpus) != 1:
        raise InputError(f"{folder}: results of one GPU are needed, found are {' and '.join(sorted(gpus))}")
    tables = _tables(_sections(parts))
    return "\n\n".join([*(markdown_table(rows) for rows in reversed(tables)), f"{_provenance(parts)}."])


def _read_parts(folder: Path) -> Parts:
    found = ((file.stem, read_part(file)) for file in sorted(folder.glob("*.json")))
    return {name: content for name, content in found if content is not None}


def _sections(parts: Parts) -> Sections:
    """The sections of parts; of a model in few calls where there is nothing better."""
    found = {name: part["sections"] for name, part in parts.items()}
    quick = {name.replace(QUICK, MODEL): content for name, content in found.items() if name.startswith(QUICK)}
    return quick | found


def _measured(sections: Sections) -> list[str]:
    return [key for key in GPU_MODELS if f"{MODEL}{key}" in sections]


def _name(sections: Sections, key: str) -> str:
    """A model's, with what its figures lack."""
    return title_of(key) + (", no CUDA graphs" if ours(sections, key) == PACKED else "")


def _provenance(parts: Parts) -> str:
    def distinct(*path: str) -> str:
        return " and ".join(sorted({str(look_up(part, *path)) for part in parts.values()}))

    facts = look_up(parts, "facts", "sections") or {}
    peak, versions = look_up(facts, "matmul", "tflops"), look_up(facts, "versions") or {}
    tokens = look_up(_sections(parts), f"{MODEL}minilm-l6", "throughput", "mean_pair_tokens")
    words = [
        distinct("identity", "gpu"),
        f"fp16 products {peak} TFLOP/s" if peak else "its peak was not measured",
        f"{tokens} tokens a pair" if tokens else "",
        *(f"{name} {versions[name]}" for name in ("onnxruntime", "torch", "sentence-transformers") if name in versions),
        "few calls of each model" if any(name.startswith(QUICK) for name in parts) else "",
        f"commit {distinct('commit')}, {distinct('date')}",
    ]
    return "; ".join(filter(None, words))
