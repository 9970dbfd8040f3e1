"""The results of a GPU run as tables: on the terminal, and as Markdown of what was measured, never of a rehearsal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossrank import InputError

from ._gpu_models import MODELS
from ._gpu_ours import OURS
from ._gpu_parts import all_parts, read_part
from ._gpu_peers import BASELINES
from ._gpu_targets import TARGETS, Sections, look_up, ratio, share_of_peak, speed, worst_error
from ._gpu_work import Form
from ._text import format_table

Parts = Mapping[str, Mapping[str, Any]]

_COLUMNS = (
    *("", "docs/s joined", "encoded", "texts", "sentence-transformers", "ratio", "of peak", "at 128", "at 512"),
    *("max |Δ|", "tau", "no numbers"),
)


def read_parts(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> result, of those that are there."""
    found = ((part.name, read_part(folder / f"{part.name}.json")) for part in all_parts())
    return {name: content for name, content in found if content is not None}


def model_rows(sections: Sections) -> list[Sequence[str]]:
    """A row for each model that was measured, below the headings."""
    rows: list[Sequence[str]] = [_COLUMNS]
    for key, shape in MODELS.items():
        if f"model-{key}" not in sections:
            continue
        forms: tuple[Form, ...] = ("model", "encoded", "texts")
        error = worst_error(sections, key)
        rows.append(
            (
                shape.name,
                *(_number(speed(sections, key, form, OURS)) for form in forms),
                _number(speed(sections, key, "texts", BASELINES)),
                _number(ratio(sections, key)),
                *(
                    "-" if (share := share_of_peak(sections, key, work)) is None else f"{share:.1%}"
                    for work in ("throughput", "throughput-128", "throughput-512")
                ),
                *(("-",) * 3 if error is None else (f"{error[0]:.1e}", f"{error[1]:.4f}", str(error[2]))),
            )
        )
    return rows


def target_rows(sections: Sections, *, rehearsal: bool) -> list[Sequence[str]]:
    """A row for each target, below the headings."""
    rows: list[Sequence[str]] = [("target", "wanted", "found", "")]
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
    tables = (model_rows(sections), target_rows(sections, rehearsal=rehearsal))
    return "\n".join([*lines, *(f"\n{format_table(rows)}" for rows in tables)])


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
    tables = (target_rows(sections, rehearsal=False), model_rows(sections))
    return "\n\n".join([*map(_markdown, tables), f"{_provenance(parts)}."])


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
