"""The results of a GPU run as tables: on the terminal, and as Markdown of what was measured, never of a rehearsal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure.gpu.models import MODELS
from benchmarks.measure.gpu.ours import PACKED, PADDED
from benchmarks.measure.gpu.parts import all_parts, read_part
from benchmarks.measure.gpu.peers import BASELINES, FUSED, PEERS, ST_BF16, VARLEN
from benchmarks.measure.gpu.work import FORMS, Form
from benchmarks.measure.kernels import PADDED_PEER, WITH_FLASH, WITHOUT_FLASH
from crossrank import InputError

from .gpu_goals import (
    TARGETS,
    Sections,
    fastest,
    latency,
    look_up,
    ours,
    ratio,
    share_of_peak,
    speed,
    worst_error,
)
from .text import format_table

Parts = Mapping[str, Mapping[str, Any]]
Rows = list[Sequence[str]]

_WORKS = ("throughput", "throughput-128", "throughput-512")
_PEER_COLUMNS = {"st fp16": BASELINES, "st bf16": (ST_BF16,), "varlen": (VARLEN,), "fused": (FUSED,)}
_SHORT = {name: column for column, names in _PEER_COLUMNS.items() for name in names}


def read_parts(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> result, of those that are there."""
    found = ((part.name, read_part(folder / f"{part.name}.json")) for part in all_parts())
    return {name: content for name, content in found if content is not None}


def model_rows(sections: Sections) -> Rows:
    """Ours by what a call begins with, beside sentence-transformers and the best peer: a row for each model."""
    rows: Rows = [
        (
            *("docs/s", "joined", "encoded", "texts", "st bf16", "st fp16", "ratio", "best peer", "ratio"),
            *("of peak", "at 128", "at 512", "max |Δ|", "tau", "no numbers"),
        )
    ]
    for key in _measured(sections):
        error = worst_error(sections, key)
        rows.append(
            (
                _name(sections, key),
                *(_number(speed(sections, key, form)) for form in FORMS),
                *(_number(speed(sections, key, "texts", names)) for names in ((ST_BF16,), BASELINES)),
                _number(ratio(sections, key)),
                *_best_peer(sections, key, "texts"),
                *(_share(share_of_peak(sections, key, work)) for work in _WORKS),
                *(("-",) * 3 if error is None else (f"{error[0]:.1e}", f"{error[1]:.4f}", str(error[2]))),
            )
        )
    return rows


def contender_rows(sections: Sections) -> Rows:
    """Everybody: texts, and joined pairs of real lengths and of 128 and 512 tokens; rows for each model."""
    columns = {"no graphs": (PACKED,), "padded": (PADDED,)} | _PEER_COLUMNS
    rows: Rows = [("docs/s", "of", "crossrank", *columns, "best peer", "ratio", "of peak")]
    kinds: list[tuple[str, Form, str]] = [("texts", "texts", _WORKS[0])]
    kinds += [(work.replace("throughput", "joined").replace("-", " "), "model", work) for work in _WORKS]
    for key in _measured(sections):
        for shown, form, work in kinds:
            share = None if form == "texts" else share_of_peak(sections, key, work)
            speeds = [speed(sections, key, form, names, work) for names in (None, *columns.values())]
            best = _best_peer(sections, key, form, work)
            rows.append((_name(sections, key), shown, *map(_number, speeds), *best, _share(share)))
    return rows


def latency_rows(sections: Sections) -> Rows:
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
            cells = ("-" if pair is None else " / ".join(map(_number, pair)) for pair in found)
            rows.append((_name(sections, key), size, *cells))
    return rows


def kernel_rows(sections: Sections) -> Rows:
    """The attention kernels of each model: how many nodes took which."""
    columns = (WITH_FLASH, WITHOUT_FLASH, PADDED_PEER)
    rows: Rows = [("attention", *columns, "max |Δ| without", "no numbers")]
    for key, found in (sections.get("kernels") or {}).items():
        cells = (_kernels(found.get(column)) for column in columns)
        compared = "max_abs_delta" in found
        delta = (f"{found['max_abs_delta']:.1e}", str(found["not_finite"])) if compared else ("-", "-")
        rows.append((MODELS[key].name, *cells, *delta))
    return rows


def quality_rows(sections: Sections) -> Rows:
    """nDCG@10 of judged queries, float16 on the GPU beside float32 on the CPU, and how near their logits are."""
    found = sections.get("quality") or {}
    rows: Rows = [("TREC DL 2019", "nDCG@10", "max |Δ|", "tau", "no numbers")]
    rows += [(name, f"{row['ndcg_at_10']:.4f}", "", "", "") for name, row in found.items() if "ndcg_at_10" in row]
    if near := found.get("agreement"):
        weights = "published weights" if near["trained"] else "random weights, whose ranking means nothing"
        shown = (f"{near['max_abs_delta']:.1e}", f"{near['kendall_tau']:.4f}", str(near["not_finite"]))
        rows.append((f"both, {weights}", f"{0 - near['ndcg_at_10_loss']:+.4f}", *shown))
    return rows


def target_rows(sections: Sections, *, rehearsal: bool) -> Rows:
    """A row for each target, below the headings."""
    rows: Rows = [("target", "wanted", "found", "")]
    for target in TARGETS:
        found = target.find(sections)
        state = "rehearsed" if rehearsal and found is not None else target.state(found)
        sign = "≤" if target.at_most else "≥"
        rows.append((target.claim, f"{sign} {target.wanted:,g}", _number(found), state))
    return rows


def short_tables(parts: Parts) -> str:
    """What a run prints last.

    Args:
        parts: As `read_parts` gives them.
    """
    rehearsal = any(part["rehearsal"] for part in parts.values())
    sections = {name: part["sections"] for name, part in parts.items()}
    head = "REHEARSAL on a CPU with tiny models: no figure means anything" if rehearsal else _provenance(parts)
    unfinished = [name for name, part in parts.items() if not part["complete"]]
    lines = [head, *([f"not complete: {', '.join(unfinished)}"] if unfinished else [])]
    tables = (
        *(kernel_rows(sections), quality_rows(sections), latency_rows(sections), model_rows(sections)),
        target_rows(sections, rehearsal=rehearsal),
    )
    return "\n".join([*lines, *(f"\n{format_table(rows)}" for rows in tables if len(rows) > 1)])


def markdown_report(folder: Path) -> str:
    """The tables as Markdown.

    Args:
        folder: Of the results.

    Raises:
        InputError: If none was measured, one is a rehearsal's, or they are of several GPUs.
    """
    parts = {name: part for name, part in read_parts(folder).items() if part["complete"]}
    rehearsed = [name for name, part in parts.items() if part["rehearsal"]]
    if rehearsed:
        raise InputError(f"{folder}: {', '.join(rehearsed)} of a rehearsal, which measures nothing; remove them")
    gpus = {part["identity"]["gpu"] for part in parts.values()}
    if len(gpus) != 1:
        found = f"of {' and '.join(sorted(gpus))}" if gpus else "none"
        raise InputError(f"{folder}: complete results of one GPU are needed, found are {found}; run on a GPU machine")
    sections = {name: part["sections"] for name, part in parts.items()}
    tables = (
        *(target_rows(sections, rehearsal=False), model_rows(sections), contender_rows(sections)),
        *(latency_rows(sections), quality_rows(sections), kernel_rows(sections)),
    )
    return "\n\n".join([*(_markdown(rows) for rows in tables if len(rows) > 1), f"{_provenance(parts)}."])


def _measured(sections: Sections) -> list[str]:
    return [key for key in MODELS if f"model-{key}" in sections]


def _name(sections: Sections, key: str) -> str:
    """A model's, with what its figures lack."""
    return MODELS[key].name + (", no CUDA graphs" if ours(sections, key) == PACKED else "")


def _best_peer(sections: Sections, key: str, form: Form, work: str = _WORKS[0]) -> tuple[str, str]:
    """The fastest one with its name, and ours over it."""
    best = fastest(sections, key, form, PEERS, work)
    shown = "-" if best is None else f"{_number(best[0])} {_SHORT[best[1]]}"
    return shown, _number(ratio(sections, key, form, PEERS, work))


def _kernels(found: Any) -> str:
    """What `read_kernels` gave, without operators and types: they are one; or why there is none."""
    if not isinstance(found, Mapping):
        return "-" if found is None else "failed"
    return ", ".join(f"{kernel} x{count}" for taken in found.values() for kernel, count in taken.items()) or "none"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    first, *others = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return "\n".join([first, "|" + "---|" * len(rows[0]), *others])


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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
